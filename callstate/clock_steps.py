"""When was a clock set: steps found in the exchanges between pairs of servers.

A drift bends a pair's differences slowly; a step breaks them. Owns the finding of breaks in each
pair's series (robust: medians on both sides, never means) and the naming of the server whose clock
it was: the one that the most broken pairs have in common, never the reference, whose clock is the
timescale by definition.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from operator import itemgetter
from statistics import median
from typing import Final, NamedTuple

from callstate.exchanges import Exchange

_SIDE_MAX: Final = 8  # exchanges on each side of a break that are compared
_SIDE_MIN: Final = 3
_LEAST_STEP_US: Final = 50_000
_NOISE_FACTOR: Final = 6
_ROWS_AROUND: Final = 40


class Position(NamedTuple):
    """A place in one server's rows: ordered by row id, for a clock set back repeats its times."""

    row_id: int
    time_us: int


class Break(NamedTuple):
    """A pair's difference jumps by `jump_us` between two exchanges."""

    a: str
    b: str
    jump_us: int
    noise_us: int
    a_from: Position
    a_to: Position
    b_from: Position
    b_to: Position


class Step(NamedTuple):
    """A server's clock was set by `jump_us` between two of its rows."""

    server: str
    jump_us: int
    after: Position
    before: Position
    pairs: int  # how many pairs of servers say so


RowsOf = Callable[[str], Iterable[Position]]


def find_steps(
    by_pair: dict[tuple[str, str], list[Exchange]], reference: str, rows_of: RowsOf
) -> list[Step]:
    """Steps of all servers but the reference, by server and place.

    Args:
        by_pair: Exchanges of each pair of servers, in any order.
        reference: Whose clock is the timescale and cannot step.
        rows_of: All rows that are known of a server, in any order: a clock that is set back shows
            in its server's own rows, and a step is placed between two of them.
    """
    rows = _Rows(rows_of)
    breaks: list[Break] = []
    for pair in sorted(by_pair):
        breaks.extend(_breaks(by_pair[pair]))
    steps: list[Step] = []
    while breaks:
        found = max(
            (
                candidate
                for one in breaks
                for candidate in (_blamed(one, reference, breaks, by_pair, rows),)
                if candidate is not None
            ),
            key=lambda item: (item[0], -len(item[2]), abs(item[1].jump_us), item[1].server),
            default=None,
        )
        if found is None:
            break
        _, step, explained = found
        steps.append(rows.place(step))
        breaks = [one for one in breaks if one not in explained]
    return sorted(steps)


class _Rows:
    """The servers' own rows in their order, read when first asked for."""

    def __init__(self, rows_of: RowsOf) -> None:
        self._rows_of = rows_of
        self._sorted: dict[str, list[Position]] = {}

    def _between(
        self, server: str, after: Position, before: Position, around: int = 0
    ) -> list[Position]:
        rows = self._sorted.get(server)
        if rows is None:
            rows = self._sorted[server] = sorted(self._rows_of(server))
        first = max(0, bisect_left(rows, after) - around)
        return rows[first : bisect_right(rows, before) + around]

    def _set_back(
        self, server: str, jump_us: int, after: Position, before: Position
    ) -> tuple[Position, Position] | None:
        """The two rows between which the server's own times fall by about as much as it jumped.

        Looked for a little around too: an exchange whose request came before the step and whose
        answer after it may stand on the wrong side.
        """
        rows = self._between(server, after, before, _ROWS_AROUND)
        if jump_us > 0 or len(rows) < 2 or rows[0].row_id == 0:
            return None
        found = max(pairwise(rows), key=lambda pair: pair[0].time_us - pair[1].time_us)
        return found if 2 * (found[0].time_us - found[1].time_us) > -jump_us else None

    def sets_back(self, server: str, jump_us: int, after: Position, before: Position) -> int:
        """1 where the rows show a clock set back, -1 where they show that it was not, 0 else."""
        if self._set_back(server, jump_us, after, before) is not None:
            return 1
        rows = self._between(server, after, before)
        if jump_us > 0 or len(rows) < 2 or rows[0].row_id == 0:
            return 0
        pauses_us = [abs(one.time_us - next_.time_us) for one, next_ in pairwise(rows)]
        # Where rows are far apart the set-back may hide in a pause.
        return -1 if median(pauses_us) < -jump_us / 4 else 0

    def place(self, step: Step) -> Step:
        """The step between the two rows that show it best; `before` is the first row after it."""
        shown = self._set_back(step.server, step.jump_us, step.after, step.before)
        rows = self._between(step.server, step.after, step.before)
        if shown is None and len(rows) > 1:
            shown = max(
                pairwise(rows),
                key=lambda pair: (pair[1].time_us - pair[0].time_us) * (step.jump_us > 0),
            )
        if shown is not None:
            return step._replace(after=shown[0], before=shown[1])
        middle = Position(
            (step.after.row_id + step.before.row_id + 1) // 2,
            (step.after.time_us + step.before.time_us + 1) // 2,
        )
        return step._replace(before=middle)


def _breaks(pair: list[Exchange]) -> list[Break]:
    usual_us = median(exchange.round_trip_us for exchange in pair)
    series = sorted(
        (x for x in pair if x.round_trip_us <= 4 * usual_us + 60_000),
        key=lambda x: (x.a_id, x.a_us, x.b_id, x.b_us),
    )
    deltas = [exchange.delta_us for exchange in series]
    found: list[tuple[int, float, float]] = []
    for split in range(_SIDE_MIN, len(series) - _SIDE_MIN + 1):
        left = deltas[max(0, split - _SIDE_MAX) : split]
        right = deltas[split : split + _SIDE_MAX]
        level_left, level_right = median(left), median(right)
        jump = level_right - level_left
        spread = median([abs(x - level_left) for x in left] + [abs(x - level_right) for x in right])
        if abs(jump) > max(_LEAST_STEP_US, _NOISE_FACTOR * spread):
            cost = sum(abs(x - level_left) for x in left) / len(left)
            cost += sum(abs(x - level_right) for x in right) / len(right)
            if found and split - found[-1][0] < _SIDE_MAX:
                if cost < found[-1][2]:
                    found[-1] = (split, jump, cost)
            else:
                found.append((split, jump, cost))
    return [_break(series, split, jump, cost) for split, jump, cost in found]


def _break(series: Sequence[Exchange], split: int, jump: float, cost: float) -> Break:
    last, first = series[split - 1], series[split]
    return Break(
        first.a,
        first.b,
        round(jump),
        round(cost),
        Position(last.a_id, last.a_us),
        Position(first.a_id, first.a_us),
        Position(last.b_id, last.b_us),
        Position(first.b_id, first.b_us),
    )


_Blamed = tuple[int, Step, list[Break]]


def _blamed(
    one: Break,
    reference: str,
    breaks: list[Break],
    by_pair: dict[tuple[str, str], list[Exchange]],
    rows: _Rows,
) -> _Blamed | None:
    """Whose clock a break was; None where nothing tells which of the two it was."""
    candidates = [
        _support(server, one, breaks, by_pair, rows)
        for server in (one.a, one.b)
        if server != reference
    ]
    if len(candidates) > 1 and candidates[0][0] == candidates[1][0]:
        return None
    return max(candidates, key=itemgetter(0))


def _support(
    server: str,
    suspect: Break,
    breaks: list[Break],
    by_pair: dict[tuple[str, str], list[Exchange]],
    rows: _Rows,
) -> _Blamed:
    """How well `server`'s clock explains a break: pairs that agree, less pairs that do not.

    What the server's own rows show of a clock set back counts as two pairs.
    """
    jump_us, after, before = _seen_by(server, suspect)
    explained: list[Break] = []
    for other in breaks:
        if server not in (other.a, other.b):
            continue
        other_jump_us, other_after, other_before = _seen_by(server, other)
        near = abs(other_jump_us - jump_us) <= 3 * (suspect.noise_us + other.noise_us) + 20_000
        if near and other_after <= before and after <= other_before:
            explained.append(other)
            after, before = max(after, other_after), min(before, other_before)
    agree = {(one.a, one.b) for one in explained}
    against = sum(
        server in pair and pair not in agree and _covers(server, exchanges, after, before)
        for pair, exchanges in by_pair.items()
    )
    after, before = min(after, before), max(after, before)
    own = 2 * rows.sets_back(server, jump_us, after, before)
    return len(agree) - against + own, Step(server, jump_us, after, before, len(agree)), explained


def _seen_by(server: str, one: Break) -> tuple[int, Position, Position]:
    if server == one.b:
        return one.jump_us, min(one.b_from, one.b_to), max(one.b_from, one.b_to)
    return -one.jump_us, min(one.a_from, one.a_to), max(one.a_from, one.a_to)


def _covers(server: str, pair: list[Exchange], after: Position, before: Position) -> bool:
    """Whether a pair has enough exchanges on both sides to have seen a step there."""
    places = [Position(x.a_id, x.a_us) if server == x.a else Position(x.b_id, x.b_us) for x in pair]
    return (
        sum(place <= after for place in places) >= _SIDE_MIN
        and sum(place >= before for place in places) >= _SIDE_MIN
    )
