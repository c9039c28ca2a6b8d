"""Who came first: the order of a call's events by protocol, clocks only as the last tie-break.

Owns the partial order and its linear form. Refuses to decide anything of a CDR (`resolution`): this
order is what people read, and what shows whose clock is off.

The order: of one direction (same From tag) a lower CSeq comes before a higher one (RFC 3261 section
12.2.1.1); in one transaction the request comes before its answers, requests by rising, answers by
falling via_count; the setup of a dialog comes before its REFER and BYE. Among what that leaves open
the corrected time decides, then (server, id).

Cost is O(n log n) in the events: stages of one direction are chained by one edge each, not by all
pairs. Most calls are in order as the clocks have them: one pass finds that out.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from callstate import events as kinds
from callstate.events import CallEvent
from callstate.timed import Timed

_STAGE = {kinds.REQUEST: 0, kinds.SETUP: 1, kinds.FAILURE: 1, kinds.TRANSFER: 2, kinds.END: 2}


class Order(NamedTuple):
    """The resolved order.

    `inversions` holds pairs of positions in `timed` (earlier, later) whose times say the opposite:
    evidence of skew.
    """

    timed: list[Timed]
    inversions: list[tuple[int, int]]


def order(timed: Sequence[Timed]) -> Order:
    """Puts events, given in the order of `timed_in_order`, into the order of the protocol."""
    if _is_in_order(timed):
        return Order(list(timed), [])
    graph = _Graph(timed)
    placed: list[int] = []
    ready = [node for node in range(len(timed)) if graph.blockers[node] == 0]
    heapq.heapify(ready)
    waiting = iter(range(len(timed)))
    done = [False] * len(timed)
    while len(placed) < len(timed):
        if not ready:  # contradictory rows: let the clocks break the circle
            ready.append(next(node for node in waiting if not done[node]))
        node = heapq.heappop(ready)
        if done[node]:
            continue
        done[node] = True
        placed.append(node)
        for freed in graph.release(node):
            heapq.heappush(ready, freed)
    position = {node: index for index, node in enumerate(placed)}
    inversions = sorted(
        (position[before], position[after])
        for before, after in graph.inverted(done_before=position)
    )
    return Order([timed[node] for node in placed], inversions)


def _is_in_order(timed: Sequence[Timed]) -> bool:
    """Whether the clocks say nothing against the protocol; False also where that is not plain."""
    last: dict[str, tuple[int, int, int]] = {}
    over = False
    for _, event in timed:
        kind = event.type
        stage = _STAGE[kind]
        if stage == 2:
            over = True
            place = (event.cseq, 2, 0)
        elif stage == 0:
            place = (event.cseq, 0, event.via_count)
        elif over and kind == kinds.SETUP:
            return False  # it may be the setup of the dialog that is over
        else:
            place = (event.cseq, 1, -event.via_count)
        held = last.get(event.from_tag)
        if held is not None and place < held:
            return False
        last[event.from_tag] = place
    return True


class _Graph:
    """Events (nodes below n) and barriers (n and above) between one stage and the next."""

    def __init__(self, timed: Sequence[Timed]) -> None:
        self._timed = timed
        self._events = len(timed)
        self._after: list[list[int]] = [[] for _ in timed]
        self.blockers = [0] * self._events
        stages: dict[str, dict[tuple[int, int, int], list[int]]] = {}
        for node, item in enumerate(timed):
            stages.setdefault(item.event.from_tag, {}).setdefault(_stage(item.event), []).append(
                node
            )
        for direction in stages.values():
            self._chain([direction[key] for key in sorted(direction)])
        self._dialogs()

    def _chain(self, stages: list[list[int]]) -> None:
        for before, after in pairwise(stages):
            self._barrier(before, after)

    def _barrier(self, before: Sequence[int], after: Sequence[int]) -> None:
        barrier = len(self._after)
        self._after.append(list(after))
        self.blockers.append(len(before))
        for node in before:
            self._after[node].append(barrier)
        for node in after:
            self.blockers[node] += 1

    def _dialogs(self) -> None:
        """The first setup of a dialog comes before its transfers and ends, of either direction."""
        setups: dict[frozenset[str], list[int]] = {}
        ends: dict[frozenset[str], list[int]] = {}
        for node, (_, event) in enumerate(self._timed):
            tags = frozenset((event.from_tag, event.to_tag))
            if event.type == kinds.SETUP:
                held = setups.setdefault(tags, [node])
                first = self._timed[held[0]].event
                if (event.from_tag, event.cseq) == (first.from_tag, first.cseq):
                    if node != held[0]:
                        held.append(node)
                elif event.from_tag == first.from_tag and event.cseq < first.cseq:
                    setups[tags] = [node]
            elif event.type in (kinds.TRANSFER, kinds.END):
                ends.setdefault(tags, []).append(node)
        for tags, before in setups.items():
            if tags in ends:
                self._barrier(before, ends[tags])

    def release(self, node: int) -> list[int]:
        """Events that wait for nothing any more, now that `node` is placed."""
        freed = []
        pending = self._after[node]
        for successor in pending:
            self.blockers[successor] -= 1
            if self.blockers[successor] == 0:
                if successor < self._events:
                    freed.append(successor)
                else:
                    freed.extend(self.release(successor))
        return freed

    def inverted(self, done_before: dict[int, int]) -> list[tuple[int, int]]:
        """Constraints that the times contradict: of each barrier the latest before, each after."""
        pairs = set()
        latest: dict[int, int] = {}
        for node in range(self._events):
            for barrier in self._after[node]:
                held = latest.get(barrier)
                if held is None or self._timed[node].time_us > self._timed[held].time_us:
                    latest[barrier] = node
        for barrier, before in latest.items():
            for after in self._after[barrier]:
                if (
                    self._timed[before].time_us > self._timed[after].time_us
                    and done_before[before] < done_before[after]
                ):
                    pairs.add((before, after))
        return sorted(pairs)


def _stage(event: CallEvent) -> tuple[int, int, int]:
    stage = _STAGE[event.type]
    via = event.via_count if stage == 0 else -event.via_count if stage == 1 else 0
    return (event.cseq, stage, via)
