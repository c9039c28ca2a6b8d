"""When was a clock set: steps found in the exchanges between pairs of servers.

A drift bends a pair's differences slowly; a step breaks them. Owns the finding of breaks in each
pair's series (robust: medians on both sides, never means) and the naming of the server whose clock
it was: the one that the most broken pairs have in common, never the reference, whose clock is the
timescale by definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Final, NamedTuple

from callstate.exchanges import Exchange

_SIDE_MAX: Final = 8  # exchanges on each side of a break that are compared
_SIDE_MIN: Final = 3
_LEAST_STEP_US: Final = 50_000
_NOISE_FACTOR: Final = 6


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


def find_steps(by_pair: dict[tuple[str, str], list[Exchange]], reference: str) -> list[Step]:
    """Steps of all servers but the reference, by server and place. Exchanges in any order."""
    breaks: list[Break] = []
    for pair in sorted(by_pair):
        breaks.extend(_breaks(by_pair[pair]))
    steps: list[Step] = []
    while breaks:
        found = max(
            (
                candidate
                for one in breaks
                for server in (one.a, one.b)
                if server != reference
                for candidate in (_support(server, one, breaks, by_pair),)
            ),
            key=lambda item: (item[0], -len(item[2]), abs(item[1].jump_us), item[1].server),
            default=None,
        )
        if found is None:
            break
        _, step, explained = found
        steps.append(step)
        breaks = [one for one in breaks if one not in explained]
    return sorted(steps)


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


def _support(
    server: str,
    suspect: Break,
    breaks: list[Break],
    by_pair: dict[tuple[str, str], list[Exchange]],
) -> tuple[int, Step, list[Break]]:
    """How well `server`'s clock explains a break: pairs that agree, less pairs that do not."""
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
    step = Step(server, jump_us, min(after, before), max(after, before), len(agree))
    return len(agree) - against, step, explained


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
