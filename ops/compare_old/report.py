"""The comparison for people: a table of 80 columns.

Owns words and layout. Refuses to count (`ops.diff.tally`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import Final

from ops.compare_old.sides import Range
from ops.diff import Difference, Kind, Tally
from ops.visible import visible

_WORDS: Final = {
    Kind.SAME: "the same",
    Kind.ONLY_OLD: "only the old resolver has it",
    Kind.ONLY_NEW: "only we have it",
    Kind.DUPLICATE: "several old records",
    Kind.TERMINATION: "another outcome",
    Kind.TIMES: "other times",
    Kind.PARTIES: "other parties",
    Kind.OTHER: "other columns",
}
_BAR: Final = 30


def lines(tally: Tally, within: Range, worst: Sequence[Difference]) -> Iterator[str]:
    """The page."""
    yield f"{tally.calls:,} calls that began from {within.begin} and ended before {within.end} UTC"
    yield ""
    for kind in (Kind.SAME, *(kind for kind in Kind if kind is not Kind.SAME)):
        count = tally.kinds[kind]
        also = tally.shown[kind] - count
        more = f"  (and {also:,} of graver kinds)" if also else ""
        yield f"{_WORDS[kind]:30} {count:10,}  {_percent(count, tally.calls):>7}{more}"
        reasons = tally.reasons.get(kind)
        if count and reasons:
            yield from (f"    {number:10,}  {reason}" for reason, number in reasons.most_common())
    if tally.shifts:
        yield from ("", "by how much times differ, the furthest of a call")
        most = max(tally.shifts.values())
        for name, count in tally.as_json()["shifts"].items():
            yield f"{name:>10} {count:10,}  {'#' * round(_BAR * count / most)}".rstrip()
    yield from ("", *_money(tally))
    if worst:
        yield from ("", "the gravest; why ours says what it says:")
        yield from (f"  cdrstream explain {quote(visible(one.call_id))}" for one in worst)


def _money(tally: Tally) -> Iterator[str]:
    yield f"{'billed, begun units whole':30} {'old':>14} {'ours':>14} {'calls differ':>14}"
    yield (
        f"{'  seconds':30} {tally.old_seconds:14,} {tally.new_seconds:14,}"
        f" {tally.billed_otherwise:14,}"
    )
    yield (
        f"{'  minutes':30} {tally.old_minutes:14,} {tally.new_minutes:14,}"
        f" {tally.billed_minutes_otherwise:14,}"
    )


def _percent(count: int, all_calls: int) -> str:
    return f"{100 * count / all_calls:.2f} %" if all_calls else "-"
