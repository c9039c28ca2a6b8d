"""Facts that change slowly, asked for in the background: quality, dead letters, replays.

Owns the questions and their rhythm. A page shows the newest answer with its age; no page view asks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, TopicPartition

from ops.config import Config
from ops.dashboard.replays import ask_replays
from ops.librdkafka import silent_log
from ops.monitor.asking import Asker
from ops.monitor.sources import LIMIT_SECONDS, Reconnecting, sink_dsn
from ops.visible import visible

QUALITY_SECONDS: Final = 10.0
LETTERS_SECONDS: Final = 5.0
REPLAYS_SECONDS: Final = 5.0
LETTERS_MAX: Final = 100
_RAW_BYTES: Final = 4_096

# RFC 6076: SER and SEER leave redirected tries (3xx) out; SEER counts what the callee decided.
_FIGURES: Final = """
SELECT count(*), count(*) FILTER (WHERE connect_time IS NOT NULL),
    count(*) FILTER (WHERE failure_status BETWEEN 300 AND 399),
    count(*) FILTER (WHERE connect_time IS NOT NULL OR failure_status IN (480, 486, 600, 603)),
    count(*) FILTER (WHERE failure_status IN (408, 500, 503, 504)),
    avg(extract(epoch FROM end_time - connect_time))::float8,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY extract(epoch FROM connect_time - start_time)),
    percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM connect_time - start_time))
FROM cdrs WHERE start_time > (now() AT TIME ZONE 'UTC') - make_interval(secs => %s)
"""
_OUTCOMES: Final = """
SELECT termination, count(*) FROM cdrs
WHERE start_time > (now() AT TIME ZONE 'UTC') - make_interval(secs => %s) GROUP BY 1
"""
_FAILURES: Final = """
SELECT failure_status, min(failure_reason), count(*) FROM cdrs
WHERE start_time > (now() AT TIME ZONE 'UTC') - make_interval(secs => %s) AND failure_status > 0
GROUP BY 1 ORDER BY 3 DESC LIMIT 12
"""
_DOUBTS: Final = """
SELECT count(*) FILTER (WHERE suspect),
    count(*) FILTER (WHERE 'start' = ANY(missing)), count(*) FILTER (WHERE 'setup' = ANY(missing)),
    count(*) FILTER (WHERE 'end' = ANY(missing)), count(*) FILTER (WHERE late_events > 0),
    count(*) FILTER (WHERE offsets @> '[{"applied": true}]'),
    count(*) FILTER (WHERE jsonb_array_length(inversions) > 0)
FROM cdrs JOIN cdr_provenance USING (call_id)
WHERE start_time > (now() AT TIME ZONE 'UTC') - make_interval(secs => %s)
"""
_DOUBTFUL: Final = """
SELECT call_id, start_time, termination, suspect, missing, late_events, revision, changed
FROM cdrs JOIN cdr_provenance USING (call_id)
WHERE start_time > (now() AT TIME ZONE 'UTC') - make_interval(secs => %s)
    AND (suspect OR missing <> '{}' OR late_events > 0)
ORDER BY start_time DESC LIMIT 50
"""
_HOUR: Final = 3_600.0


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
    """All of them; use `start` and `stop`."""

    def __init__(self, config: Config) -> None:
        self.quality: Asker[dict[str, Any]] = Asker(
            "quality", _ask_quality(config), QUALITY_SECONDS
        )
        self.letters: Asker[list[Letter]] = Asker("letters", _ask_letters(config), LETTERS_SECONDS)
        self.replays: Asker[list[dict[str, Any]]] = Asker(
            "replays", ask_replays(config), REPLAYS_SECONDS
        )

    def start(self) -> None:
        """Begins to ask."""
        for asker in (self.quality, self.letters, self.replays):
            asker.start()

    def stop(self) -> None:
        """Ends it."""
        for asker in (self.quality, self.letters, self.replays):
            asker.stop()


def _ask_quality(config: Config) -> Callable[[], dict[str, Any]]:
    connected = Reconnecting(sink_dsn(config), "cdrstream dashboard")

    def figures(connection: psycopg.Connection[Any], seconds: float) -> dict[str, Any]:
        row = connection.execute(_FIGURES, (seconds,)).fetchone()
        assert row is not None
        calls, answered, redirected, effective, ineffective, talked, median, p95 = row
        tries = calls - redirected
        return {
            "calls": calls,
            "answered": answered,
            "asr": answered / calls if calls else None,
            "ser": answered / tries if tries else None,
            "seer": effective / tries if tries else None,
            "isa": ineffective / calls if calls else None,
            "acd": talked,
            "answer_median": median,
            "answer_p95": p95,
            "outcomes": dict(connection.execute(_OUTCOMES, (seconds,)).fetchall()),
            "failures": connection.execute(_FAILURES, (seconds,)).fetchall(),
        }

    def read(connection: psycopg.Connection[Any]) -> dict[str, Any]:
        doubts = connection.execute(_DOUBTS, (_HOUR,)).fetchone()
        names = ("suspect", "start", "setup", "end", "late", "corrected", "inverted")
        columns = ("call_id", "start_time", "termination", "suspect", "missing", "late_events")
        rows = connection.execute(_DOUBTFUL, (_HOUR,)).fetchall()
        return {
            "hour": figures(connection, _HOUR),
            "day": figures(connection, 24 * _HOUR),
            "doubts": dict(zip(names, doubts or (), strict=True)),
            "doubtful": [
                dict(zip((*columns, "revision", "changed"), row, strict=True)) for row in rows
            ],
        }

    return lambda: connected(read)


def _ask_letters(config: Config) -> Callable[[], list[Letter]]:
    """The newest dead letters; asked again only when there are more of them."""
    place = f"{config.kafka.events_topic}.dead-letter"
    consumer = Consumer(
        {
            **config.kafka.client_properties(),
            "group.id": "cdrstream-dashboard",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 8_192,
        },
        logger=silent_log(),
    )
    held: list[Letter] = []
    held_end = -1

    def read() -> list[Letter]:
        nonlocal held, held_end
        low, high = consumer.get_watermark_offsets(TopicPartition(place, 0), timeout=LIMIT_SECONDS)
        if high == held_end:
            return held
        begin = max(low, high - LETTERS_MAX)
        consumer.assign([TopicPartition(place, 0, begin)])
        found: list[Letter] = []
        while begin < high:
            messages = consumer.consume(LETTERS_MAX, timeout=LIMIT_SECONDS)
            if not messages:
                break
            for message in messages:
                if message.error() is not None:
                    continue
                begin = (message.offset() or 0) + 1
                found.append(_letter(message))
        consumer.unassign()
        held, held_end = found[::-1], high
        return held

    return read


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
