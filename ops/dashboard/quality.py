"""How good calls were and how far their records can be trusted: the questions to the sink.

Owns the figures (RFC 6076 where it has them) and what they cost. A day is put together of hours
that are kept: only the newest hour and one old one are counted anew each time, for a call is
written down when it ends and counted when it began. So a day of ten million CDRs costs the
database what some hours do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg

from ops.monitor.sources import Reconnecting, sink_dsn
from ops.monitor.watched import Watched

TRUST_ROWS: Final = 20_000
MOVED_ROWS: Final = 2_000  # whose events are looked into
MOVED_LEAST_SECONDS: Final = 0.1
HOURS: Final = 24
_RATIO: Final = 1.05  # of a bucket's end to its begin: medians of a day are right within 3 %
_LEAST_SECONDS: Final = 0.01
_HOUR: Final = 3_600.0
_RANGE: Final = "start_time >= %(since)s AND start_time < %(until)s"

# RFC 6076: SER and SEER leave redirected tries (3xx) out; SEER counts what the callee decided.
_KINDS: Final = """
count(*), count(*) FILTER (WHERE failure_status BETWEEN 300 AND 399),
    count(*) FILTER (WHERE connect_time IS NOT NULL OR failure_status IN (480, 486, 600, 603)),
    count(*) FILTER (WHERE failure_status IN (408, 500, 503, 504)),
    count(end_time - connect_time),
    coalesce(sum(extract(epoch FROM end_time - connect_time)), 0)::float8
"""
_COUNTED: Final = f"""
SELECT CASE WHEN connect_time IS NOT NULL THEN floor(ln(greatest(
        extract(epoch FROM connect_time - start_time)::float8, {_LEAST_SECONDS}
    ) / {_LEAST_SECONDS}) / ln({_RATIO}))::int4 END, {_KINDS}
FROM cdrs WHERE {_RANGE} GROUP BY 1
"""  # noqa: S608  numbers of our own
_PERCENTILES: Final = f"""
SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP
    (ORDER BY extract(epoch FROM connect_time - start_time)::float8)
FROM cdrs WHERE {_RANGE}
"""  # noqa: S608
_OUTCOMES: Final = f"SELECT termination, count(*) FROM cdrs WHERE {_RANGE} GROUP BY 1"  # noqa: S608
_FAILURES: Final = f"""
SELECT failure_status, min(failure_reason), count(*) FROM cdrs
WHERE {_RANGE} AND failure_status > 0 GROUP BY 1 ORDER BY 3 DESC LIMIT 12
"""  # noqa: S608
_NEWEST: Final = f"""
FROM (SELECT call_id, start_time, termination FROM cdrs WHERE {_RANGE}
      ORDER BY start_time DESC LIMIT {TRUST_ROWS}) AS newest JOIN cdr_provenance USING (call_id)
"""  # noqa: S608
_DOUBTS: Final = f"""
SELECT count(*), count(*) FILTER (WHERE suspect),
    count(*) FILTER (WHERE 'start' = ANY(missing)), count(*) FILTER (WHERE 'setup' = ANY(missing)),
    count(*) FILTER (WHERE 'end' = ANY(missing)), count(*) FILTER (WHERE late_events > 0),
    count(*) FILTER (WHERE offsets @> '[{{"applied": true}}]'),
    count(*) FILTER (WHERE jsonb_array_length(inversions) > 0)
{_NEWEST}
"""
_DOUBTFUL: Final = f"""
SELECT call_id, start_time, termination, suspect, missing, late_events, revision, changed
{_NEWEST} WHERE suspect OR missing <> '{{}}' OR late_events > 0
ORDER BY start_time DESC LIMIT 50
"""
# By how much the clocks would have made durations wrong: what end and connect were moved by.
_MOVED: Final = """
SELECT count(*), count(*) FILTER (WHERE abs(moved) > %(least)s), max(abs(moved))
FROM (SELECT call_id, connect_time, end_time FROM cdrs
      WHERE start_time >= %(since)s AND start_time < %(until)s
          AND connect_time IS NOT NULL AND end_time IS NOT NULL
      ORDER BY start_time DESC LIMIT %(rows)s) AS newest
    JOIN cdr_provenance USING (call_id)
    CROSS JOIN LATERAL (
        SELECT extract(epoch FROM max(at - raw) FILTER (WHERE kind = 'E' AND at = end_time)
            - max(at - raw) FILTER (WHERE kind = 'S' AND at = connect_time))::float8 AS moved
        FROM (SELECT event->>'event_type' AS kind,
                (event->>'time')::timestamptz AT TIME ZONE 'UTC' AS at,
                (event->>'raw_time')::timestamptz AT TIME ZONE 'UTC' AS raw
              FROM jsonb_array_elements(events) AS event) AS told
    ) AS shift
"""
_DOUBT_NAMES: Final = (
    *("looked_at", "suspect", "start", "setup", "end", "late", "corrected", "inverted"),
)
_DOUBTFUL_NAMES: Final = (
    *("call_id", "start_time", "termination", "suspect", "missing", "late_events"),
    *("revision", "changed"),
)

Connection = psycopg.Connection[Any]


@dataclass(slots=True)
class Counts:
    """Calls of a stretch of time; they can be added up.

    Attributes:
        answers: Bucket of the time to answer to how many.
        calls: All.
        redirected: With a 3xx.
        effective: Answered, or decided by the callee.
        ineffective: 408, 500, 503 and 504.
        talks: With both ends of the talk.
        talked: Seconds of these.
    """

    answers: dict[int, int] = field(default_factory=dict)
    calls: int = 0
    redirected: int = 0
    effective: int = 0
    ineffective: int = 0
    talks: int = 0
    talked: float = 0.0

    def add(self, other: Counts) -> None:
        """Takes another stretch in."""
        self.calls += other.calls
        self.redirected += other.redirected
        self.effective += other.effective
        self.ineffective += other.ineffective
        self.talks += other.talks
        self.talked += other.talked
        for bucket, count in other.answers.items():
            self.answers[bucket] = self.answers.get(bucket, 0) + count

    def figures(self) -> dict[str, Any]:
        """What a page shows."""
        answered, tries = sum(self.answers.values()), self.calls - self.redirected
        return {
            "calls": self.calls,
            "answered": answered,
            "asr": answered / self.calls if self.calls else None,
            "ser": answered / tries if tries else None,
            "seer": self.effective / tries if tries else None,
            "isa": self.ineffective / self.calls if self.calls else None,
            "acd": self.talked / self.talks if self.talks else None,
            "answer_median": percentile(self.answers, 0.5),
            "answer_p95": percentile(self.answers, 0.95),
        }


def percentile(buckets: dict[int, int], share: float) -> float | None:
    """Seconds below which that share of the answers came; the middle of its bucket."""
    left = share * sum(buckets.values())
    for bucket in sorted(buckets):
        left -= buckets[bucket]
        if left <= 0:
            return float(_LEAST_SECONDS * math.pow(_RATIO, bucket + 0.5))
    return None


def counted(connection: Connection, since: datetime, until: datetime) -> Counts:
    """One stretch, asked for."""
    told = Counts()
    for bucket, calls, *kinds in connection.execute(_COUNTED, _span(since, until)):
        told.add(Counts({} if bucket is None else {bucket: calls}, calls, *kinds))
    return told


class Day:
    """The last 24 hours, whole ones kept."""

    def __init__(self) -> None:
        self._kept: dict[datetime, Counts] = {}
        self._turn = 0

    def counts(self, now: datetime, count: Callable[[datetime, datetime], Counts]) -> Counts:
        """All of it; asks for what is not kept, for what may have grown, and for one old hour."""
        hours = list(_hours(now - timedelta(hours=HOURS), now))
        self._kept = {since: self._kept[since] for since, _ in hours if since in self._kept}
        self._turn += 1
        again = hours[1 + self._turn % (HOURS - 1)][0]
        total = Counts()
        for number, (since, until) in enumerate(hours):
            whole = 0 < number < len(hours) - 1  # neither the first part of an hour nor the last
            if not whole or since not in self._kept or since == again:
                found = count(since, until)
                if whole:
                    self._kept[since] = found
            else:
                found = self._kept[since]
            total.add(found)
        return total


def _hours(since: datetime, until: datetime) -> Iterator[tuple[datetime, datetime]]:
    """A range cut at whole hours."""
    while since < until:
        end = since.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        yield since, min(end, until)
        since = end


def ask_day(watched: Watched) -> Callable[[], dict[str, Any]]:
    """The figures of the last day."""
    connected = Reconnecting(sink_dsn(watched), "cdrstream dashboard")
    day = Day()

    def read(connection: Connection) -> dict[str, Any]:
        now = datetime.now(UTC).replace(tzinfo=None)
        return day.counts(now, lambda begin, end: counted(connection, begin, end)).figures()

    return lambda: connected(read)


def ask_hour(watched: Watched) -> Callable[[], dict[str, Any]]:
    """The figures of the last hour, and how far its records can be trusted."""
    connected = Reconnecting(sink_dsn(watched), "cdrstream dashboard")

    def read(connection: Connection) -> dict[str, Any]:
        now = datetime.now(UTC).replace(tzinfo=None)
        since = now - timedelta(seconds=_HOUR)
        span = _span(since, now)
        doubts = connection.execute(_DOUBTS, span).fetchone()
        rows = connection.execute(_DOUBTFUL, span).fetchall()
        more = {"rows": MOVED_ROWS, "least": MOVED_LEAST_SECONDS}
        moved = connection.execute(_MOVED, {**span, **more}).fetchone()
        return {
            "hour": _hour(connection, since, now),
            "doubts": dict(zip(_DOUBT_NAMES, doubts or (), strict=True)),
            "moved": dict(zip(("looked_at", "calls", "most"), moved or (), strict=True)),
            "doubtful": [dict(zip(_DOUBTFUL_NAMES, row, strict=True)) for row in rows],
        }

    return lambda: connected(read)


def _hour(connection: Connection, since: datetime, now: datetime) -> dict[str, Any]:
    span = _span(since, now)
    row = connection.execute(_PERCENTILES, span).fetchone()
    median, p95 = (row and row[0]) or (None, None)
    return {
        **counted(connection, since, now).figures(),
        "answer_median": median,
        "answer_p95": p95,
        "outcomes": dict(connection.execute(_OUTCOMES, span).fetchall()),
        "failures": connection.execute(_FAILURES, span).fetchall(),
    }


def _span(since: datetime, until: datetime) -> dict[str, datetime]:
    return {"since": since, "until": until}
