"""A call's events with their times on the reference's scale, in one order, and by type.

Owns the order of ties: whatever the order of arrival, the same set of events makes the same list.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple

from callstate import events as kinds
from callstate.events import CallEvent, content_key


class Timed(NamedTuple):
    """An event and its corrected time. Sorted by that time, then by row, then by content."""

    time_us: int
    event: CallEvent


def timed_in_order(events: Iterable[CallEvent], times: Iterable[int]) -> list[Timed]:
    """Events with their times, sorted so that no order of arrival can be told from another."""
    # `Timed(...)` of each, without a call in Python for millions of them
    timed = list(map(tuple.__new__, repeat(Timed), zip(times, events, strict=True)))
    if len(timed) > 1:
        try:
            timed.sort()
        except TypeError:  # an absent value met one of the same column: the same order, spelt out
            timed.sort(key=_sort_key)
    return timed


def _sort_key(item: Timed) -> tuple[int, tuple[tuple[bool, object], ...]]:
    return (item.time_us, content_key(item.event))


class ByType:
    """A call's events by type, each list in the order of `timed_in_order`; INVITEs in two."""

    __slots__ = ("ends", "failures", "reinvites", "requests", "setups", "transfers")

    def __init__(self, timed: Sequence[Timed]) -> None:
        self.requests: list[Timed] = []
        self.reinvites: list[Timed] = []
        self.setups: list[Timed] = []
        self.failures: list[Timed] = []
        self.transfers: list[Timed] = []
        self.ends: list[Timed] = []
        for item in timed:
            _, event = item
            kind = event.type
            if kind == kinds.REQUEST:
                (self.reinvites if event.to_tag else self.requests).append(item)
            elif kind == kinds.SETUP:
                self.setups.append(item)
            elif kind == kinds.END:
                self.ends.append(item)
            elif kind == kinds.FAILURE:
                self.failures.append(item)
            else:
                self.transfers.append(item)
