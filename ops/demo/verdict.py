"""The end of the demo: every CDR in SIPXCDR against what really happened.

Owns the comparison over all calls, and what a naive reading of the servers' clocks would have
billed. Refuses to print (`screen`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from callstate.cdr import TIME_COLUMNS
from callstate.events import parse_time_us
from ops.demo.plan import TOLERANCE_MS
from ops.simulation.score import Score, score
from ops.simulation.script import US
from ops.simulation.traffic import Traffic
from ops.simulation.truth import CallTruth, Expect

_OFF_US: Final = US // 2  # a bill in whole seconds is wrong beyond half a second


@dataclass(frozen=True, slots=True)
class Bill:
    """Durations of the answered calls, as somebody would have billed them.

    Attributes:
        calls: How many calls have a true duration.
        off: How many are off by more than half a second.
        negative: How many end before they begin.
        absent: How many have no duration at all.
        wrong_seconds: Sum of the absolute errors.
    """

    calls: int = 0
    off: int = 0
    negative: int = 0
    absent: int = 0
    wrong_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that the final table tells."""

    score: Score
    naive: Bill
    ours: Bill
    calls: int
    crossed: int
    example: str | None  # Call-ID of a call that a naive reading bills worst, for `explain`
    example_seconds: tuple[float, float, float] | None  # its duration: true, naive, ours

    @property
    def exit_code(self) -> int:
        """0 only if nothing is wrong, missing, doubled, leaked or invented."""
        return 0 if self.score.flawless else 1


def read_cdrs(dsn: str) -> list[dict[str, Any]]:
    """All rows of `cdrs`, times as ISO 8601 text."""
    with psycopg.connect(dsn, row_factory=dict_row, connect_timeout=10) as connection:
        rows = connection.execute("SELECT * FROM cdrs").fetchall()
    for row in rows:
        for column in TIME_COLUMNS:
            value = row[column]
            if isinstance(value, datetime):
                row[column] = value.replace(tzinfo=UTC).isoformat(timespec="microseconds")
    return rows


def judge(traffic: Traffic, cdrs: Iterable[Mapping[str, Any]]) -> Outcome:
    """Compares; `cdrs` is what `read_cdrs` gives."""
    found = list(cdrs)
    result = score(traffic.truth_lines(), found, tolerance_ms=TOLERANCE_MS)
    truths = {
        truth.call_id: truth
        for truth in traffic.truths
        if truth.expect is Expect.CDR and _true_duration_us(truth) is not None
    }
    naive = naive_durations_us(traffic, truths)
    ours = {row["call_id"]: _duration_us(row) for row in found if row["call_id"] in truths}
    example = _worst(truths, naive)
    seconds = None
    if example is not None:
        true = _true_duration_us(truths[example]) or 0
        seconds = (true / US, (naive[example] or 0) / US, (ours.get(example) or 0) / US)
    return Outcome(
        score=result,
        naive=_bill(truths, naive),
        ours=_bill(truths, ours),
        calls=len(traffic.truths),
        crossed=sum(len(truth.observers) > 1 for truth in traffic.truths),
        example=example,
        example_seconds=seconds,
    )


def naive_durations_us(traffic: Traffic, truths: Mapping[str, CallTruth]) -> dict[str, int | None]:
    """Per call: first BYE less first answer of its dialog, by the clocks as they stand."""
    answers: defaultdict[str, list[int]] = defaultdict(list)
    ends: defaultdict[str, list[int]] = defaultdict(list)
    for write in traffic.writes:
        row = write.row
        truth = truths.get(row["call_id"])
        if truth is None or truth.cdr is None:
            continue
        if {row["from_tag"], row["to_tag"]} != {truth.cdr.from_tag, truth.cdr.to_tag}:
            continue
        if row["event_type"] == "S":
            answers[row["call_id"]].append(parse_time_us(row["event_time"]))
        elif row["event_type"] == "E" or row["failure_status"] in (408, 481):
            ends[row["call_id"]].append(parse_time_us(row["event_time"]))
    return {
        call_id: min(ends[call_id]) - min(answers[call_id])
        if ends[call_id] and answers[call_id]
        else None
        for call_id in truths
    }


def _true_duration_us(truth: CallTruth) -> int | None:
    cdr = truth.cdr
    if cdr is None or cdr.connect_us is None or cdr.end_us is None:
        return None
    return cdr.end_us - cdr.connect_us


def _duration_us(row: Mapping[str, Any]) -> int | None:
    connect, end = row["connect_time"], row["end_time"]
    return None if connect is None or end is None else parse_time_us(end) - parse_time_us(connect)


def _bill(truths: Mapping[str, CallTruth], told: Mapping[str, int | None]) -> Bill:
    off = negative = absent = wrong_us = 0
    for call_id, truth in truths.items():
        true, duration = _true_duration_us(truth) or 0, told.get(call_id)
        if duration is None:
            absent += 1
            wrong_us += true
            continue
        off += abs(duration - true) > _OFF_US
        negative += duration < 0
        wrong_us += abs(duration - true)
    return Bill(len(truths), off, negative, absent, wrong_us / US)


def _worst(truths: Mapping[str, CallTruth], naive: Mapping[str, int | None]) -> str | None:
    """The call over several servers whose naive duration is furthest from the truth."""

    def error(call_id: str) -> tuple[int, str]:
        told = naive[call_id]
        return (
            0 if told is None else abs(told - (_true_duration_us(truths[call_id]) or 0)),
            call_id,
        )

    crossed = [call_id for call_id, truth in truths.items() if len(truth.observers) > 1]
    return max(crossed, key=error, default=None)
