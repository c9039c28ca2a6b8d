"""All differences counted: by kind, by column, by how far times are apart, and in money.

Owns the sums. Refuses to print them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from typing import Any, Final

from ops.diff.classify import Difference, Kind

# Upper edges, inclusive; the last bin has none.
EDGES_US: Final = (
    1_000,
    10_000,
    100_000,
    500_000,
    1_000_000,
    5_000_000,
    60_000_000,
    3_600_000_000,
)
BINS: Final = (
    "<= 1 ms",
    "<= 10 ms",
    "<= 100 ms",
    "<= 0.5 s",
    "<= 1 s",
    "<= 5 s",
    "<= 1 min",
    "<= 1 h",
    "> 1 h",
)


class Tally:
    """Sums over differences; `add` each."""

    def __init__(self) -> None:
        self.calls = 0
        self.kinds: Counter[Kind] = Counter()  # by the gravest: they add up to `calls`
        self.shown: Counter[Kind] = Counter()  # by each kind that a call shows
        self.columns: Counter[str] = Counter()
        self.shifts: Counter[str] = Counter()  # bin to calls whose times differ by so much at most
        self.reasons: dict[Kind, Counter[str]] = {}
        self.old_seconds = self.new_seconds = 0
        self.old_minutes = self.new_minutes = 0
        self.billed_otherwise = 0  # calls whose bill in whole seconds differs
        self.billed_minutes_otherwise = 0

    def add(self, difference: Difference, reasons: tuple[str, ...] = ()) -> None:
        """Counts one call; `reasons` are those that `reasons` gives, the deciding one first."""
        self.calls += 1
        self.kinds[difference.kind] += 1
        self.shown.update(difference.kinds)
        self.columns.update(difference.columns.keys())
        if difference.shifts_us:
            self.shifts[BINS[bisect_left(EDGES_US, difference.largest_shift_us)]] += 1
        if reasons:
            self.reasons.setdefault(difference.kind, Counter())[reasons[0]] += 1
        old, new = difference.old_bill, difference.new_bill
        self.old_seconds += old.seconds
        self.new_seconds += new.seconds
        self.old_minutes += old.minutes
        self.new_minutes += new.minutes
        self.billed_otherwise += old.seconds != new.seconds
        self.billed_minutes_otherwise += old.minutes != new.minutes

    @property
    def differing(self) -> int:
        """Calls that are not the same."""
        return self.calls - self.kinds[Kind.SAME]

    def as_json(self) -> dict[str, Any]:
        """JSON-able; every kind and every bin is there, also where it counts nothing."""
        return {
            "calls": self.calls,
            "differing": self.differing,
            "kinds": {kind.value: self.kinds[kind] for kind in Kind},
            "kinds_shown": {kind.value: self.shown[kind] for kind in Kind},
            "columns": dict(self.columns.most_common()),
            "shifts": {name: self.shifts[name] for name in BINS},
            "reasons": {
                kind.value: dict(self.reasons[kind].most_common())
                for kind in Kind
                if kind in self.reasons
            },
            "billed": {
                "old_seconds": self.old_seconds,
                "new_seconds": self.new_seconds,
                "old_minutes": self.old_minutes,
                "new_minutes": self.new_minutes,
                "calls_seconds_differ": self.billed_otherwise,
                "calls_minutes_differ": self.billed_minutes_otherwise,
            },
        }
