"""CDRs against the truth: how many are right, and what is wrong with the others.

Owns the comparison. Refuses to know where either side comes from: both are sequences of objects
with the columns of `cdrs`, times as ISO 8601 text in UTC.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from callstate.cdr import TIME_COLUMNS
from callstate.events import parse_time_us
from ops.simulation.truth import Expect

# nothing is nothing, whether a writer says '' or 0 or NULL
_EMPTY_ALIKE: Final = frozenset(
    (
        "callee_route",
        "reference",
        "failure_status",
        "failure_reason",
        "caller_contact",
        "callee_contact",
    )
)


class Verdict(StrEnum):
    """What became of one call."""

    RIGHT = "right"
    WRONG = "wrong"
    MISSING = "missing"
    DUPLICATE = "duplicate"  # more than one CDR of one call
    LEAKED = "leaked"  # a CDR of a call that is to have none
    INVENTED = "invented"  # a CDR of no known call
    FREE = "free"  # hidden or none as expected, or not defined


@dataclass(frozen=True, slots=True)
class Judged:
    """One call's verdict; `wrong` maps a column to (expected, got)."""

    call_id: str
    scenario: str
    verdict: Verdict
    wrong: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Score:
    """All calls judged."""

    judged: tuple[Judged, ...]

    def count(self, verdict: Verdict) -> int:
        """How many calls came to this verdict."""
        return sum(one.verdict is verdict for one in self.judged)

    @property
    def expected(self) -> int:
        """How many CDRs should be there."""
        owed = (Verdict.RIGHT, Verdict.WRONG, Verdict.MISSING, Verdict.DUPLICATE)
        return sum(one.verdict in owed for one in self.judged)

    @property
    def flawless(self) -> bool:
        """Nothing wrong, missing, doubled, leaked or invented."""
        return all(one.verdict in (Verdict.RIGHT, Verdict.FREE) for one in self.judged)

    def faults(self) -> tuple[Judged, ...]:
        """The calls that are not as they should be."""
        return tuple(one for one in self.judged if one.verdict not in (Verdict.RIGHT, Verdict.FREE))

    def wrong_columns(self) -> Counter[str]:
        """How often each column is wrong."""
        return Counter(column for one in self.judged for column in one.wrong)

    def as_json(self) -> dict[str, Any]:
        """Counts by verdict, wrong columns, and faults by scenario."""
        scenarios: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for one in self.faults():
            scenarios[one.scenario][one.verdict.value] += 1
        return {
            "expected": self.expected,
            **{verdict.value: self.count(verdict) for verdict in Verdict},
            "wrong_columns": dict(self.wrong_columns()),
            "faults": {name: dict(counts) for name, counts in sorted(scenarios.items())},
        }


def score(
    truths: Iterable[Mapping[str, Any]],
    cdrs: Iterable[Mapping[str, Any]],
    *,
    tolerance_ms: float = 1.0,
) -> Score:
    """Judges every call of the truth, and every CDR of no known call.

    Args:
        truths: Objects as the lines of `truth.jsonl`.
        cdrs: Objects with the columns of `cdrs`; others are ignored.
        tolerance_ms: How far a time may be off and still be right.
    """
    by_call: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for cdr in cdrs:
        by_call[cdr["call_id"]].append(cdr)
    judged = [_judge(truth, by_call.pop(truth["call_id"], []), tolerance_ms) for truth in truths]
    judged.extend(Judged(call_id, "?", Verdict.INVENTED) for call_id in sorted(by_call))
    return Score(tuple(judged))


def _judge(
    truth: Mapping[str, Any], cdrs: Sequence[Mapping[str, Any]], tolerance_ms: float
) -> Judged:
    call_id, scenario = truth["call_id"], truth["scenario"]
    expect = Expect(truth["expect"])
    if expect is Expect.UNDEFINED:
        verdict = Verdict.DUPLICATE if len(cdrs) > 1 else Verdict.FREE
        return Judged(call_id, scenario, verdict)
    if expect is not Expect.CDR:
        return Judged(call_id, scenario, Verdict.LEAKED if cdrs else Verdict.FREE)
    if not cdrs:
        return Judged(call_id, scenario, Verdict.MISSING)
    if len(cdrs) > 1:
        return Judged(call_id, scenario, Verdict.DUPLICATE)
    wrong = differences(truth["cdr"], cdrs[0], tolerance_ms=tolerance_ms)
    return Judged(call_id, scenario, Verdict.WRONG if wrong else Verdict.RIGHT, wrong)


def differences(
    expected: Mapping[str, Any], got: Mapping[str, Any], *, tolerance_ms: float
) -> dict[str, tuple[Any, Any]]:
    """Column to (expected, got) of those that differ; an expected `to_tag` of None is free."""
    found: dict[str, tuple[Any, Any]] = {}
    for column, want in expected.items():
        have = got.get(column)
        if column == "to_tag" and want is None:
            continue
        if column in TIME_COLUMNS:
            same = _same_time(want, have, tolerance_ms)
        elif column in _EMPTY_ALIKE:
            same = (want or None) == (have or None)
        else:
            same = want == have
        if not same:
            found[column] = (want, have)
    return found


def _same_time(want: str | None, have: str | None, tolerance_ms: float) -> bool:
    if want is None or have is None:
        return want is have
    return abs(parse_time_us(want) - parse_time_us(have)) <= tolerance_ms * 1_000
