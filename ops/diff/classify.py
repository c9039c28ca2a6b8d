"""One call's CDR in two versions: what kind of difference it is, and what it costs.

Owns which columns make which kind, when two values say the same, and what is billed. Refuses to
know why they differ (`reasons`) and how many there are (`tally`).

A row is a mapping with columns of `cdrs`; further columns, and columns that one side has not, are
left out of the comparison. Times are ISO 8601 text or datetimes, without a zone they are UTC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

from callstate.cdr import TIME_COLUMNS
from callstate.events import parse_time_us

_SECOND_US: Final = 1_000_000
_MINUTE_US: Final = 60 * _SECOND_US

PARTY_COLUMNS: Final = ("from_tag", "to_tag", "caller_aor", "callee_aor")
TERMINATION_COLUMNS: Final = ("termination", "failure_status", "failure_reason")
OTHER_COLUMNS: Final = (
    "call_direction",
    "reference",
    "caller_contact",
    "callee_contact",
    "caller_internal",
    "callee_route",
)
# Nothing is nothing, whether a writer says '' or 0 or NULL.
_EMPTY_ALIKE: Final = frozenset((*PARTY_COLUMNS, *TERMINATION_COLUMNS, *OTHER_COLUMNS)) - {
    "caller_internal"
}


class Kind(StrEnum):
    """Kinds of difference, the gravest first; a call may show several."""

    ONLY_OLD = "only_old"
    ONLY_NEW = "only_new"
    DUPLICATE = "duplicate_in_old"  # more than one record of one call
    TERMINATION = "termination"
    TIMES = "times"
    PARTIES = "parties"
    OTHER = "other_columns"
    SAME = "same"


@dataclass(frozen=True, slots=True)
class Bill:
    """What a call costs in units of time, begun units counted whole; 0 where nobody talked."""

    seconds: int = 0
    minutes: int = 0


@dataclass(frozen=True, slots=True)
class Difference:
    """One call compared.

    Attributes:
        call_id: The call.
        kinds: What differs, the gravest first; `(Kind.SAME,)` where nothing does.
        columns: Column to (old, new) of those that differ; empty where one side has no record.
        shifts_us: New less old, for each time that both know and that differs.
        old_bill: What the old record would be billed; all of them where there are several.
        new_bill: The same of the new one.
        olds: How many old records the call has.
        times_us: Earliest and latest time in either version, microseconds since 1970 UTC.
    """

    call_id: str
    kinds: tuple[Kind, ...]
    columns: Mapping[str, tuple[Any, Any]] = field(default_factory=lambda: MappingProxyType({}))
    shifts_us: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    old_bill: Bill = Bill()
    new_bill: Bill = Bill()
    olds: int = 1
    times_us: tuple[int, int] | None = None

    @property
    def kind(self) -> Kind:
        """The gravest."""
        return self.kinds[0]

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return self.kinds == (Kind.SAME,)

    @property
    def largest_shift_us(self) -> int:
        """The greatest distance between two versions of a time; 0 where none differs."""
        return max(map(abs, self.shifts_us.values()), default=0)

    def as_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "call_id": self.call_id,
            "kind": self.kind.value,
            "kinds": [kind.value for kind in self.kinds],
            "columns": {
                name: [_told(old), _told(new)] for name, (old, new) in self.columns.items()
            },
            "shifts_seconds": {name: us / _SECOND_US for name, us in self.shifts_us.items()},
            "old_records": self.olds,
            "billed_seconds": [self.old_bill.seconds, self.new_bill.seconds],
            "billed_minutes": [self.old_bill.minutes, self.new_bill.minutes],
        }


def classify(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, *, tolerance_us: int = 0
) -> Difference:
    """Compares two versions of one call's CDR; None where a side has no record.

    Args:
        old: The version that stands.
        new: The version beside it.
        tolerance_us: Times that are no further apart say the same.

    Raises:
        ValueError: Both are None, or a time cannot be read.
    """
    return classify_several([] if old is None else [old], new, tolerance_us=tolerance_us)


def classify_several(
    olds: Sequence[Mapping[str, Any]], new: Mapping[str, Any] | None, *, tolerance_us: int = 0
) -> Difference:
    """As `classify`, where the old side may have several records of one call.

    Compared is the old record that is nearest to the new one.
    """
    if not olds and new is None:
        raise ValueError("a call that neither side has cannot be compared")
    if new is None:
        kinds = (Kind.ONLY_OLD, *_doubled(olds))
        return Difference(
            str(olds[0]["call_id"]),
            kinds,
            old_bill=_billed(olds),
            olds=len(olds),
            times_us=_span(olds),
        )
    call_id = str(new["call_id"])
    if not olds:
        return Difference(
            call_id, (Kind.ONLY_NEW,), new_bill=_billed([new]), olds=0, times_us=_span([new])
        )
    old = min(olds, key=lambda one: _distance(one, new))
    columns = _columns(old, new, tolerance_us)
    kinds = (*_doubled(olds), *_kinds(columns))
    return Difference(
        call_id,
        kinds or (Kind.SAME,),
        columns=MappingProxyType(columns),
        shifts_us=MappingProxyType(_shifts(columns)),
        old_bill=_billed(olds),
        new_bill=_billed([new]),
        olds=len(olds),
        times_us=_span([*olds, new]),
    )


def time_us(value: object) -> int | None:
    """Microseconds since 1970 UTC of a time in any of the forms in which rows have it.

    Raises:
        ValueError: It is no time.
    """
    if value is None:
        return None
    if isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=UTC)
        return parse_time_us(aware.isoformat())
    return parse_time_us(value)


def bill(row: Mapping[str, Any]) -> Bill:
    """What a record is billed: from answer to end, begun units counted whole."""
    connect, end = time_us(row.get("connect_time")), time_us(row.get("end_time"))
    if connect is None or end is None or end <= connect:
        return Bill()
    talked_us = end - connect
    return Bill(-(-talked_us // _SECOND_US), -(-talked_us // _MINUTE_US))


def _billed(rows: Sequence[Mapping[str, Any]]) -> Bill:
    bills = [bill(row) for row in rows]
    return Bill(sum(one.seconds for one in bills), sum(one.minutes for one in bills))


def _doubled(olds: Sequence[object]) -> tuple[Kind, ...]:
    return (Kind.DUPLICATE,) if len(olds) > 1 else ()


def _columns(
    old: Mapping[str, Any], new: Mapping[str, Any], tolerance_us: int
) -> dict[str, tuple[Any, Any]]:
    found: dict[str, tuple[Any, Any]] = {}
    for column in (*TERMINATION_COLUMNS, *TIME_COLUMNS, *PARTY_COLUMNS, *OTHER_COLUMNS):
        if column not in old or column not in new:
            continue
        one, other = old[column], new[column]
        if column in TIME_COLUMNS:
            same = _same_time(time_us(one), time_us(other), tolerance_us)
        elif column in _EMPTY_ALIKE:
            same = (one or None) == (other or None)
        else:
            same = one == other
        if not same:
            found[column] = (one, other)
    return found


def _same_time(one: int | None, other: int | None, tolerance_us: int) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= tolerance_us


def _kinds(columns: Mapping[str, object]) -> tuple[Kind, ...]:
    of_kind = (
        (Kind.TERMINATION, TERMINATION_COLUMNS),
        (Kind.TIMES, TIME_COLUMNS),
        (Kind.PARTIES, PARTY_COLUMNS),
        (Kind.OTHER, OTHER_COLUMNS),
    )
    return tuple(kind for kind, names in of_kind if not columns.keys().isdisjoint(names))


def _shifts(columns: Mapping[str, tuple[Any, Any]]) -> dict[str, int]:
    shifts = {}
    for column in TIME_COLUMNS:
        old, new = map(time_us, columns.get(column, (None, None)))
        if old is not None and new is not None:
            shifts[column] = new - old
    return shifts


def _distance(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[int, int]:
    """Fewest columns that differ, then the smallest shifts."""
    columns = _columns(old, new, 0)
    return len(columns), sum(map(abs, _shifts(columns).values()))


def _span(rows: Sequence[Mapping[str, Any]]) -> tuple[int, int] | None:
    times = [us for row in rows for name in TIME_COLUMNS if (us := time_us(row.get(name)))]
    return (min(times), max(times)) if times else None


def _told(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
