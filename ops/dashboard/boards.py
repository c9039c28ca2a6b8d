"""Facts that change slowly, asked for in the background: quality, dead letters, replays.

Owns their rhythm, and that nobody is asked for a page at which nobody looks. A page shows the
newest answer with its age; no page view asks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition

from ops.dashboard.quality import ask_day, ask_hour
from ops.dashboard.replays import ask_replays
from ops.librdkafka import silent_log
from ops.monitor.asking import Asker, Askers, Rhythm
from ops.monitor.sources import LIMIT_SECONDS
from ops.monitor.watched import Watched
from ops.offsets import ends_of
from ops.visible import visible

QUALITY_SECONDS: Final = 10.0
DAY_SECONDS: Final = 20.0
LETTERS_SECONDS: Final = 2.0
REPLAYS_SECONDS: Final = 5.0
WANTED_SECONDS: Final = 30.0  # since a page was looked at
LETTERS_MAX: Final = 100
_SHARE: Final = 0.1  # of the sink's time, at most, in one session
_RAW_BYTES: Final = 4_096


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter as it is shown."""

    offset: int
    at: float
    reason: str
    server: str
    source: str
    key: str
    raw: str
    size_bytes: int


class Boards:
    """All of them; use `start` and `stop`.

    Args:
        watched: Who is asked.
        letters_end: Where the topic of dead letters ends, as far as is known.
    """

    def __init__(self, watched: Watched, letters_end: Callable[[], int | None]) -> None:
        self._looked_at: dict[str, float] = {}
        self.quality: Asker[dict[str, Any]] = Asker(
            "quality",
            ask_hour(watched),
            Rhythm(QUALITY_SECONDS, share=_SHARE),
            partial(self._is_wanted, "quality"),
        )
        self.day: Asker[dict[str, Any]] = Asker(
            "quality of the day",
            ask_day(watched),
            Rhythm(DAY_SECONDS, share=_SHARE),
            partial(self._is_wanted, "quality"),
        )
        self.letters: Asker[list[Letter]] = Asker(
            "letters",
            _ask_letters(watched, letters_end),
            Rhythm(LETTERS_SECONDS),
            partial(self._is_wanted, "gaps"),
        )
        # The metrics tell of replays, too: these are always asked for, their changes are not.
        self.replays: Asker[list[dict[str, Any]]] = Asker(
            "replays",
            ask_replays(watched, partial(self._is_wanted, "replays")),
            Rhythm(REPLAYS_SECONDS, share=_SHARE),
        )
        self._askers = Askers("boards", [self.quality, self.day, self.letters, self.replays], 2)

    def start(self) -> None:
        """Begins to ask."""
        self._askers.start()

    def stop(self) -> None:
        """Ends it."""
        self._askers.stop()

    def looked_at(self, page: str) -> None:
        """Somebody looks at that page now."""
        self._looked_at[page] = time.monotonic()

    def _is_wanted(self, page: str) -> bool:
        at = self._looked_at.get(page)
        return at is not None and time.monotonic() - at < WANTED_SECONDS


def _ask_letters(
    watched: Watched, letters_end: Callable[[], int | None]
) -> Callable[[], list[Letter]]:
    """The newest dead letters; read again only when there are more of them."""
    place = f"{watched.broker.events_topic}.dead-letter"
    held: list[Letter] = []
    held_end = 0

    def read() -> list[Letter]:
        nonlocal held, held_end
        end = letters_end()
        if end is None:
            raise TimeoutError("the broker has not told how many there are")
        if end != held_end:
            held, held_end = _newest_letters(watched, place), end
        return held

    return read


def _newest_letters(watched: Watched, place: str) -> list[Letter]:
    """Newest first. A client for a moment: most of the time there is nothing new."""
    consumer = Consumer(
        {
            **watched.broker.client_properties(),
            "group.id": "cdrstream-dashboard",  # asked for, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 4_096,
        },
        logger=silent_log(),
    )
    try:
        low, high = ends_of(consumer, TopicPartition(place, 0), LIMIT_SECONDS)
        at = max(low, high - LETTERS_MAX)
        consumer.assign([TopicPartition(place, 0, at)])
        found: list[Letter] = []
        deadline = time.monotonic() + LIMIT_SECONDS
        while at < high and time.monotonic() < deadline:
            for message in consumer.consume(LETTERS_MAX, timeout=0.5):
                error = message.error()
                if error is None:
                    at = (message.offset() or 0) + 1
                    found.append(_letter(message))
                elif error.name() == "_PARTITION_EOF":
                    at = high
        if at < high:
            raise TimeoutError("the broker has not told all of them in time")
        return found[::-1]
    finally:
        consumer.close()


def _letter(message: Any) -> Letter:
    headers = {name: value.decode("utf-8", "replace") for name, value in message.headers() or ()}
    value, key = message.value() or b"", message.key() or b""
    return Letter(
        offset=message.offset(),
        at=message.timestamp()[1] / 1_000,
        reason=headers.get("reason") or headers.get("error") or "no reason given",
        server=headers.get("server", ""),
        source=headers.get("source", ""),
        key=visible(key.decode("utf-8", "replace")),
        raw=value[:_RAW_BYTES].decode("utf-8", "replace"),
        size_bytes=len(value),
    )
