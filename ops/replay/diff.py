"""What a replay changes, call by call: old record against new, classified.

Owns the classes and the counting, as pure functions over records (mappings of the columns of
`cdrs`, times as ISO 8601 text), for the table, for JSON Lines and for whoever shows them otherwise.
Refuses to know where records come from: that is `ops.replay.comparing`.

`ops.diff` asks whether two systems say the same of a call, and takes '' for NULL and times within a
tolerance for equal. Here both records are ours and what differs is written, so that a difference is
any at all, and beside its kind there is whether it may be applied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from callstate.cdr import TIME_COLUMNS
from callstate.events import parse_time_us
from ops.diff.classify import OTHER_COLUMNS, PARTY_COLUMNS, TERMINATION_COLUMNS, bill

Record = Mapping[str, Any]


class Kind(StrEnum):
    """What is different about a call; one call may have several of the first seven."""

    ADDED = "added"
    REMOVED = "removed"
    TIMES = "times moved"
    TERMINATION = "termination changed"
    PARTIES = "parties changed"
    MONEY = "billed seconds changed"
    OTHER = "other columns changed"
    NEWER = "the service knows more"
    CUT = "began before the first record that is left"
    NOT_REBUILT = "no record of it was read"


STANDING: Final = frozenset((Kind.NEWER, Kind.CUT, Kind.NOT_REBUILT))
"""What is never applied: the replay knows less than what is there."""

MOVED_BOUNDS_MS: Final = (1, 10, 100, 1_000, 10_000, 60_000, 3_600_000)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known about a call besides its two records.

    Attributes:
        old_revision: What the service's record rests on, None where it has told nothing.
        new_revision: What the replay's rests on, None where it has told nothing.
        told_later: The service told it when it was further than the replay has read.
        start_lost: The replay saw no request of it.
        is_cut: Records from before the replay's first one may be missing.
        suspect: A gap touches it.
    """

    old_revision: int | None = None
    new_revision: int | None = None
    told_later: bool = False
    start_lost: bool = False
    is_cut: bool = False
    suspect: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """One call that is not the same.

    Attributes:
        call_id: The call.
        kinds: What is different; one of `STANDING` stands alone.
        old: The record as it is, None where there is none.
        new: The record as the replay has it, None where there is none.
        moved_us: Time column to how far it moved.
        billed: Seconds of talk, begun ones whole, old and new.
        cause: In a few words, as far as it can be told.
        facts: What the classification rests on.
    """

    call_id: str
    kinds: tuple[Kind, ...]
    old: Record | None
    new: Record | None
    moved_us: Mapping[str, int]
    billed: tuple[int, int]
    cause: str
    facts: Facts

    @property
    def applicable(self) -> bool:
        """Whether `apply` may put the new record in the place of the old."""
        return not STANDING.intersection(self.kinds)

    @property
    def columns(self) -> list[str]:
        """Columns that differ."""
        old, new = self.old or {}, self.new or {}
        return [name for name in (new or old) if old.get(name) != new.get(name)]

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "call_id": self.call_id,
            "kinds": [kind.value for kind in self.kinds],
            "cause": self.cause,
            "applicable": self.applicable,
            "columns": self.columns,
            "moved_us": dict(self.moved_us),
            "billed_seconds": list(self.billed),
            "revisions": [self.facts.old_revision, self.facts.new_revision],
            "old": None if self.old is None else dict(self.old),
            "new": None if self.new is None else dict(self.new),
        }


def classify(
    call_id: str, old: Record | None, new: Record | None, facts: Facts | None = None
) -> Change:
    """What is different about a call whose two records are not the same."""
    facts = facts or Facts()
    moved_us = _moved(old, new)
    billed = (billed_seconds(old), billed_seconds(new))
    standing = _why_it_stands(old, new, facts)
    if standing is not None:
        kinds: tuple[Kind, ...] = (standing,)
    else:
        kinds = tuple(_kinds(old, new, moved_us, billed))
    return Change(call_id, kinds, old, new, moved_us, billed, _cause(kinds, facts), facts)


def billed_seconds(record: Record | None) -> int:
    """Seconds from answer to end, as everywhere here; 0 for what is not billed."""
    return 0 if record is None else bill(record).seconds


def _why_it_stands(old: Record | None, new: Record | None, facts: Facts) -> Kind | None:
    if facts.new_revision is None:
        if facts.told_later:
            return Kind.NEWER
        return Kind.CUT if facts.is_cut else Kind.NOT_REBUILT
    if facts.old_revision is not None and facts.new_revision < facts.old_revision:
        return Kind.CUT if facts.is_cut and facts.start_lost else Kind.NEWER
    if facts.start_lost and facts.is_cut and old is None and new is not None:
        return Kind.CUT
    return None


def _kinds(
    old: Record | None, new: Record | None, moved_us: Mapping[str, int], billed: tuple[int, int]
) -> list[Kind]:
    if old is None or new is None:
        kinds = [Kind.ADDED if old is None else Kind.REMOVED]
    else:
        kinds = []
        if moved_us or any((old[name] is None) != (new[name] is None) for name in TIME_COLUMNS):
            kinds.append(Kind.TIMES)
        for kind, columns in (
            (Kind.TERMINATION, TERMINATION_COLUMNS),
            (Kind.PARTIES, PARTY_COLUMNS),
            (Kind.OTHER, OTHER_COLUMNS),
        ):
            if any(old.get(name) != new.get(name) for name in columns):
                kinds.append(kind)
    if billed[0] != billed[1]:
        kinds.append(Kind.MONEY)
    return kinds


def _moved(old: Record | None, new: Record | None) -> dict[str, int]:
    if old is None or new is None:
        return {}
    moved = {}
    for name in TIME_COLUMNS:
        if old[name] is not None and new[name] is not None and old[name] != new[name]:
            moved[name] = parse_time_us(new[name]) - parse_time_us(old[name])
    return moved


def _cause(kinds: tuple[Kind, ...], facts: Facts) -> str:
    if STANDING.intersection(kinds):
        return kinds[0].value
    if facts.old_revision is None:
        return "the service never told it"
    if facts.new_revision is not None and facts.new_revision > facts.old_revision:
        return "more events"
    return "other rules or settings"


@dataclass(slots=True)
class Summary:
    """A replay's changes, counted.

    Attributes:
        unchanged: Calls of the range whose records are the same.
        kinds: How many calls are different in which way; one may count under several.
        causes: How many for which reason, of those that can be applied.
        moved: Time column to upper bound in ms to calls; None is beyond the greatest bound.
        calls: Changes in all.
        applicable: Changes that can be applied.
        billed_before: Billed seconds of all applicable changes, as they are.
        billed_after: The same as the replay has them.
        unchanged_seconds: Billed seconds of the calls that are the same.
    """

    unchanged: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)
    moved: dict[str, Counter[int | None]] = field(default_factory=dict)
    calls: int = 0
    applicable: int = 0
    billed_before: int = 0
    billed_after: int = 0
    unchanged_seconds: int = 0

    def add(self, change: Change) -> None:
        """Counts a change."""
        self.calls += 1
        self.kinds.update(kind.value for kind in change.kinds)
        if not change.applicable:
            return
        self.applicable += 1
        self.causes[change.cause] += 1
        self.billed_before += change.billed[0]
        self.billed_after += change.billed[1]
        for column, by_us in change.moved_us.items():
            self.moved.setdefault(column, Counter())[_bound(by_us)] += 1

    def to_json(self) -> dict[str, Any]:
        """JSON-able; minutes are of the whole range."""
        before, after = (
            self.unchanged_seconds + seconds for seconds in (self.billed_before, self.billed_after)
        )
        return {
            "unchanged": self.unchanged,
            "changed": self.calls,
            "applicable": self.applicable,
            "kinds": dict(self.kinds),
            "causes": dict(self.causes),
            "moved_ms": {
                column: [[bound, counts[bound]] for bound in (*MOVED_BOUNDS_MS, None)]
                for column, counts in sorted(self.moved.items())
            },
            "minutes": {
                "before": round(before / 60, 3),
                "after": round(after / 60, 3),
                "difference": round((after - before) / 60, 3),
            },
        }


def _bound(by_us: int) -> int | None:
    return next((bound for bound in MOVED_BOUNDS_MS if abs(by_us) <= bound * 1_000), None)
