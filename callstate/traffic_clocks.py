"""The servers' clocks as the traffic tells them: offset, drift, steps and error bounds.

One fit of offset and drift a server, over all exchanges at once, so that a server which shares no
call with the reference is reached through others; by least absolute residuals (iteratively
reweighted least squares), so that single wild exchanges count for little. A server's line is cut
where its clock was set (`clock_steps`) and every half hour: no clock drifts evenly for long.

A server that no chain of exchanges joins to the reference has no offset: "cannot tell".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from statistics import median
from typing import Any, Final, NamedTuple

from callstate.clock_steps import Position, RowsOf, Step, find_steps
from callstate.clocks import Offset, OffsetAndError
from callstate.events import CallEvent
from callstate.exchanges import Exchange

_WINDOW_US: Final = 1_800 * 1_000_000
_HALF_US: Final = _WINDOW_US // 2
_WINDOW_EXCHANGES_MAX: Final = 400
_ROUNDS: Final = 8
_FLOOR_US: Final = 3_000  # below this round trip exchanges are alike
_LEAST_ERROR_US: Final = 1_000
_DRIFT_COST: Final = 1e-4  # a drift of 100 ppm costs as much as one exchange off by its round trip

_NONE: Final = Offset(0, 0)

Node = tuple[str, int]  # a server between two of its steps


class _Line(NamedTuple):
    """Offset and drift around `middle_us` (the reference's time), valid over the window."""

    middle_us: int
    offset_us: float
    drift: float
    error_us: int


@dataclass(slots=True)
class FittedClocks:
    """Offsets of every server that the exchanges join to the reference. See `fit`."""

    reference: str
    steps: list[Step] = field(default_factory=list)
    _boundaries: dict[str, list[Position]] = field(default_factory=dict)
    _coarse: dict[Node, float] = field(default_factory=dict)
    _lines: dict[Node, list[_Line]] = field(default_factory=dict)

    def offset(self, server: str, time_us: int, row_id: int) -> Offset | None:
        """The offset when `server`'s own clock read `time_us`; None where it cannot be told.

        `row_id` tells the two times apart that a clock set back shows twice; 0 where unknown.
        """
        if server == self.reference:
            return _NONE
        node = (server, self._segment(server, Position(row_id, time_us)))
        lines = self._lines.get(node)
        if not lines:
            return None
        true_us = time_us - self._coarse[node]
        line = _nearest(lines, true_us)
        away_us = true_us - line.middle_us
        return Offset(round(line.offset_us + line.drift * away_us), line.error_us)

    def offsets(self, server: str, events: Sequence[CallEvent]) -> Sequence[OffsetAndError]:
        """The offset at each of a server's events; empty where one of them cannot be told."""
        if server == self.reference:
            return [_NONE] * len(events)
        if server in self._boundaries:
            told = [self.offset(server, event.time_us, event.id or 0) for event in events]
            known = [offset for offset in told if offset is not None]
            return known if len(known) == len(told) else ()
        lines = self._lines.get((server, 0))
        if lines is None:
            return ()
        coarse_us = self._coarse[server, 0]
        offsets = []
        middle_us = None
        for event in events:
            true_us = event.time_us - coarse_us
            if middle_us is None or not -_HALF_US <= true_us - middle_us <= _HALF_US:
                middle_us, offset_us, drift, error_us = _nearest(lines, true_us)
            offsets.append((round(offset_us + drift * (true_us - middle_us)), error_us))
        return offsets

    def heard_since(self, time_us: int) -> set[str]:
        """The servers of which calls told something after that; the reference is none of them."""
        return {
            server
            for (server, _), lines in self._lines.items()
            if lines and lines[-1].middle_us >= time_us
        }

    def drift(self, server: str) -> float | None:
        """Newest drift in seconds a second; None where it cannot be told."""
        lines = [line for node, fits in self._lines.items() if node[0] == server for line in fits]
        return max(lines).drift if lines else None

    def to_json(self) -> dict[str, Any]:
        """JSON-able; `from_json` reads it back."""
        return {
            "reference": self.reference,
            "steps": [
                [one.server, one.jump_us, list(one.after), list(one.before), one.pairs]
                for one in self.steps
            ],
            "boundaries": {
                name: [list(at) for at in ats] for name, ats in self._boundaries.items()
            },
            "coarse": [[*node, offset] for node, offset in self._coarse.items()],
            "lines": [[*node, [list(line) for line in fits]] for node, fits in self._lines.items()],
        }

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> FittedClocks:
        """Reads what `to_json` wrote."""
        return cls(
            told["reference"],
            [
                Step(server, jump_us, Position(*after), Position(*before), pairs)
                for server, jump_us, after, before, pairs in told["steps"]
            ],
            {name: [Position(*at) for at in ats] for name, ats in told["boundaries"].items()},
            {(name, part): offset for name, part, offset in told["coarse"]},
            {(name, part): [_Line(*line) for line in fits] for name, part, fits in told["lines"]},
        )

    def _segment(self, server: str, place: Position) -> int:
        boundaries = self._boundaries.get(server)
        if not boundaries:
            return 0
        if place.row_id == 0 or boundaries[0].row_id == 0:
            return bisect_right([mark.time_us for mark in boundaries], place.time_us)
        return bisect_right(boundaries, place)


def _nearest(lines: Sequence[_Line], true_us: float) -> _Line:
    """Of lines sorted by `middle_us` the one whose window holds or is nearest to a moment."""
    if len(lines) == 1:
        return lines[0]
    index = bisect_right(lines, true_us, key=itemgetter(0))
    around = lines[max(0, index - 1) : index + 1]
    return min(around, key=lambda line: abs(line.middle_us - true_us))


def fit(
    exchanges: Sequence[Exchange], reference: str, rows_of: RowsOf = lambda _: ()
) -> FittedClocks:
    """Fits all clocks to the exchanges, given in any order.

    Args:
        exchanges: Measurements between pairs of servers.
        reference: The server whose clock is the timescale.
        rows_of: All rows that are known of a server, to place a step between two of them; without
            any it is placed half way between the exchanges around it.
    """
    by_pair: dict[tuple[str, str], list[Exchange]] = {}
    for exchange in exchanges:
        by_pair.setdefault((exchange.a, exchange.b), []).append(exchange)
    clocks = FittedClocks(reference, find_steps(by_pair, reference, rows_of))
    for step in clocks.steps:
        clocks._boundaries.setdefault(step.server, []).append(step.before)
    for boundaries in clocks._boundaries.values():
        boundaries.sort()
    measured = [
        (
            (x.a, clocks._segment(x.a, Position(x.a_id, x.a_us))),
            (x.b, clocks._segment(x.b, Position(x.b_id, x.b_us))),
            x,
        )
        for x in sorted(exchanges)
    ]
    clocks._coarse = _coarse_offsets(measured, (reference, 0))
    windows: dict[int, list[tuple[Node, Node, Exchange, float]]] = {}
    for a, b, exchange in measured:
        if a in clocks._coarse and b in clocks._coarse:
            true_us = exchange.a_us - clocks._coarse[a]
            windows.setdefault(int(true_us // _WINDOW_US), []).append((a, b, exchange, true_us))
    for index in sorted(windows):
        middle_us = index * _WINDOW_US + _WINDOW_US // 2
        solved = _solve(_tightest(windows[index]), middle_us, clocks._coarse, (reference, 0))
        for node, line in solved.items():
            clocks._lines.setdefault(node, []).append(line)
    return clocks


def _coarse_offsets(
    measured: Sequence[tuple[Node, Node, Exchange]], root: Node
) -> dict[Node, float]:
    """Median offsets along the best-measured chains from the reference."""
    deltas: dict[tuple[Node, Node], list[int]] = {}
    for a, b, exchange in measured:
        deltas.setdefault((a, b), []).append(exchange.delta_us)
    links = sorted(deltas, key=lambda pair: (-len(deltas[pair]), pair))
    coarse: dict[Node, float] = {root: 0.0}
    joined = True
    while joined:
        joined = False
        for a, b in links:
            if (a in coarse) != (b in coarse):
                delta = median(deltas[a, b])
                if a in coarse:
                    coarse[b] = coarse[a] + delta
                else:
                    coarse[a] = coarse[b] - delta
                joined = True
                break
    return coarse


def _tightest(
    window: list[tuple[Node, Node, Exchange, float]],
) -> list[tuple[Node, Node, Exchange, float]]:
    """The exchanges with the shortest round trips, as many of each pair."""
    if len(window) <= _WINDOW_EXCHANGES_MAX:
        return window
    pairs: dict[tuple[Node, Node], list[tuple[Node, Node, Exchange, float]]] = {}
    for item in window:
        pairs.setdefault((item[0], item[1]), []).append(item)
    share = max(10, _WINDOW_EXCHANGES_MAX // len(pairs))
    kept = []
    for items in pairs.values():
        kept += sorted(items, key=lambda item: (item[2].round_trip_us, item[2]))[:share]
    return kept


def _solve(
    window: Sequence[tuple[Node, Node, Exchange, float]],
    middle_us: int,
    coarse: dict[Node, float],
    root: Node,
) -> dict[Node, _Line]:
    """Least absolute residuals over offset (us) and drift (us a second) of every node but root."""
    nodes = sorted({node for a, b, _, _ in window for node in (a, b)} - {root})
    column = {node: 2 * index for index, node in enumerate(nodes)}
    values = [0.0] * (2 * len(nodes))  # corrections to the coarse offsets
    rows = []
    for a, b, exchange, true_us in window:
        seconds = (true_us - middle_us) / 1e6
        left = exchange.delta_us - coarse[b] + coarse[a]
        rows.append((column.get(a), column.get(b), seconds, left, exchange.round_trip_us))
    for _ in range(_ROUNDS):
        values = _round(rows, values)
    residuals = [abs(_residual(row, values)) for row in rows]
    lines = {}
    for node in nodes:
        at = column[node]
        mine = [
            (residual, row[4])
            for residual, row in zip(residuals, rows, strict=True)
            if at in (row[0], row[1])
        ]
        spread = median(residual for residual, _ in mine) / len(mine) ** 0.5
        error = _LEAST_ERROR_US + min(trip for _, trip in mine) / 2 + 3 * spread
        lines[node] = _Line(
            middle_us, coarse[node] + values[at], values[at + 1] / 1e6, round(error)
        )
    return lines


_Row = tuple[int | None, int | None, float, float, int]


def _residual(row: _Row, values: Sequence[float]) -> float:
    a, b, seconds, left, _ = row
    if a is not None:
        left += values[a] + values[a + 1] * seconds
    if b is not None:
        left -= values[b] + values[b + 1] * seconds
    return left


def _round(rows: Sequence[_Row], values: Sequence[float]) -> list[float]:
    """One reweighting: exchanges far off the last fit count for less."""
    size = len(values)
    matrix = [[0.0] * (size + 1) for _ in range(size)]
    for index in range(size):
        matrix[index][index] = _DRIFT_COST if index % 2 else 1e-12
    for row in rows:
        a, b, seconds, left, round_trip_us = row
        weight = 1.0 / ((_FLOOR_US + round_trip_us) * max(abs(_residual(row, values)), 500.0))
        terms: list[tuple[int, float]] = []
        if a is not None:
            terms += [(a, -1.0), (a + 1, -seconds)]
        if b is not None:
            terms += [(b, 1.0), (b + 1, seconds)]
        for one, factor in terms:
            line = matrix[one]
            scaled = weight * factor
            for other, coefficient in terms:
                line[other] += scaled * coefficient
            line[size] += scaled * left
    return _gauss(matrix)


def _gauss(matrix: list[list[float]]) -> list[float]:
    """Solves a symmetric positive definite system given with its right side as last column."""
    size = len(matrix)
    for pivot in range(size):
        best = max(range(pivot, size), key=lambda index: abs(matrix[index][pivot]))
        matrix[pivot], matrix[best] = matrix[best], matrix[pivot]
        head = matrix[pivot]
        if head[pivot] == 0.0:
            continue
        for index in range(pivot + 1, size):
            factor = matrix[index][pivot] / head[pivot]
            if factor:
                line = matrix[index]
                for other in range(pivot, size + 1):
                    line[other] -= factor * head[other]
    solved = [0.0] * size
    for pivot in range(size - 1, -1, -1):
        head = matrix[pivot]
        known = sum(head[other] * solved[other] for other in range(pivot + 1, size))
        solved[pivot] = (head[size] - known) / head[pivot] if head[pivot] else 0.0
    return solved
