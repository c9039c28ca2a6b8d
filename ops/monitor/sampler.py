"""Asks everybody in threads of their own and keeps one picture, newest wins.

Owns the lives of the askers and the rhythm of pictures. No page view and no `status` ever waits
for a broker or a database: they get the newest picture, with the age of what is in it.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace
from typing import Any, Final, Self

from ops.monitor.asking import Asker, Askers, Rhythm
from ops.monitor.facts import Answer, Ends, Facts, SinkFacts, Slot
from ops.monitor.headline import judge
from ops.monitor.history import History
from ops.monitor.movement import Movement
from ops.monitor.pace import Pace
from ops.monitor.picture import draw
from ops.monitor.sources import ask_broker, ask_sink, ask_slot
from ops.monitor.statuses import StatusTail
from ops.monitor.watched import Watched

log = logging.getLogger(__name__)

PICTURE_SECONDS: Final = 1.0
SINK_SECONDS: Final = 1.0
BROKER_SECONDS: Final = 2.0
SLOT_SECONDS: Final = 5.0
SLOT_SECONDS_MAX: Final = 30.0  # of a server that does not answer
SLOT_THREADS: Final = 4
FIRST_SECONDS: Final = 5.0


class Sampler:
    """Use as a context; `picture()` from any thread."""

    def __init__(self, watched: Watched) -> None:
        self.rules = watched.rules
        self.history = History()
        self._tail = StatusTail(watched.broker)
        self._sink: Asker[SinkFacts] = Asker("sink", ask_sink(watched), Rhythm(SINK_SECONDS))
        self._broker: Asker[Ends] = Asker("broker", ask_broker(watched), Rhythm(BROKER_SECONDS))
        self._slots: dict[str, Asker[Slot]] = {
            name: Asker(
                f"slot of {name}",
                ask_slot(watched, name),
                Rhythm(SLOT_SECONDS, SLOT_SECONDS_MAX),
            )
            for name in watched.server_dsns
        }
        self._sink_is_reference = watched.sink_is_reference
        # Sink and broker never wait for a server.
        self._askers = (
            Askers("sink", [self._sink], 1),
            Askers("broker", [self._broker], 1),
            Askers("slots", list(self._slots.values()), SLOT_THREADS),
        )
        self._stop = threading.Event()
        self._newest: dict[str, Any] | None = None
        self._failed = False
        self._movement = Movement()
        self._pace = Pace()
        self._thread = threading.Thread(target=self._run, name="pictures", daemon=True)

    def __enter__(self) -> Self:
        self._tail.start()
        for asker in self._askers:
            asker.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for asker in self._askers:
            asker.stop()
        self._tail.stop()
        self._thread.join(timeout=5)

    def wait_for_all(self, seconds: float = FIRST_SECONDS) -> None:
        """Until everybody has answered once, or has had the time to."""
        deadline = time.monotonic() + seconds
        everybody: list[Asker[Any]] = [self._sink, self._broker, *self._slots.values()]
        for event in (self._tail.caught_up, *(asker.asked for asker in everybody)):
            event.wait(max(0.0, deadline - time.monotonic()))

    def picture(self) -> dict[str, Any]:
        """The newest; made now where there is none yet."""
        newest = self._newest
        return self.look() if newest is None else newest

    @property
    def dead_letters_end(self) -> int | None:
        """Where the topic of dead letters ends; None where the broker does not tell just now."""
        answer = self._broker.answer
        if answer.error or answer.value is None:
            return None
        return answer.value.dead_letters_end

    @property
    def has_looked(self) -> bool:
        """Whether there is a picture."""
        return self._newest is not None

    def look(self) -> dict[str, Any]:
        """A picture of this moment."""
        sink = self._sink.answer
        ahead = None
        if self._sink_is_reference and sink.value is not None and sink.at is not None:
            ahead = sink.at - sink.value.clock
        picture = draw(
            Facts(
                now=time.time(),
                statuses=self._tail.newest(),
                broker=self._broker_answer(),
                sink=sink,
                slots={name: asker.answer for name, asker in self._slots.items()},
                clock_ahead=ahead,
            ),
            self.rules,
        )
        return judge(picture)

    def _broker_answer(self) -> Answer[Ends]:
        """As it answers, unless the statuses cannot be read: then everybody would seem away."""
        answer, trouble = self._broker.answer, self._tail.trouble
        if not self._tail.caught_up.is_set():
            trouble = trouble or "the statuses of the processes could not be read yet"
        return answer if answer.error or not trouble else replace(answer, error=trouble)

    def _run(self) -> None:
        self.wait_for_all()
        self.history.begin_with(self._tail.take_past())
        while not self._stop.is_set():
            failed = self._failed
            try:
                self._newest = self._watched_picture()
                self._failed = False
            except Exception:
                # Without a picture pages fail and say so; the last one would pass for this moment.
                self._newest, self._failed = None, True
                if not failed:
                    log.exception("picture_not_drawn")
            self._stop.wait(PICTURE_SECONDS)

    def _watched_picture(self) -> dict[str, Any]:
        """A picture with what only who watches for a while can say; the history takes it."""
        picture = self.look()
        verdicts = self._movement.verdicts(picture["at"], picture["partitions"])
        for part in picture["partitions"]:
            part["verdict"] = verdicts[part["number"]]
        sink = picture["sink"]
        told = sink["outcomes"] if sink["answers"] else None
        picture["cdrs_per_minute"] = self._pace.per_minute(picture["at"], told)
        self.history.add(picture)
        return picture


def one_look(watched: Watched) -> dict[str, Any]:
    """One picture, when everybody has answered or had 5 s to."""
    with Sampler(watched) as sampler:
        sampler.wait_for_all()
        return sampler.look()
