"""Whose clock is off, by how much, and who says so; raw times become times of the reference.

Owns the correction of event times. An offset is a server's clock minus the reference's. The probe's
word, stamped on each event by the reader, goes first: then a correction is a function of the call's
own events. Where a server's events carry none, the traffic's word (`TrafficClocks`) is asked.

All of a server's times in a call are corrected or none, and only where an offset exceeds its own
error bound: below that nothing is known that a correction could use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import NamedTuple, Protocol

from callstate.cdr import AppliedOffset
from callstate.config import TimeCorrection
from callstate.events import CallEvent, Clock

PROBE = "probe"
TRAFFIC = "traffic"
NO_SOURCE = "none"


class Offset(NamedTuple):
    """Server minus reference at one moment, microseconds, with the half-width of its interval."""

    offset_us: int
    error_us: int


OffsetAndError = tuple[int, int]  # an Offset, plain where millions are made


class TrafficClocks(Protocol):
    """Offsets as the traffic tells them."""

    def offsets(self, server: str, events: Sequence[CallEvent]) -> Sequence[OffsetAndError]:
        """Offset of `server` at each of its events; empty where it cannot be told."""


class Corrected(NamedTuple):
    """Times on the reference's scale, parallel to the events given, and what was done to them."""

    times: list[int]
    offsets: tuple[AppliedOffset, ...]


def correct(
    events: Sequence[CallEvent], traffic: TrafficClocks | None, mode: TimeCorrection
) -> Corrected:
    """Corrects the times of one call's events."""
    times = [event.time_us for event in events]
    by_server: dict[str, list[int]] = {}
    for index, event in enumerate(events):
        by_server.setdefault(event.server, []).append(index)
    applied = []
    for server in sorted(by_server):
        places = by_server[server]
        mine = events if len(by_server) == 1 else [events[index] for index in places]
        told, offsets = _judged(server, mine, traffic, mode)
        applied.append(told)
        for index, offset_us in zip(places, offsets, strict=False):  # none where none is applied
            times[index] -= offset_us
    return Corrected(times, tuple(applied))


def _one_probe(events: Sequence[CallEvent]) -> Clock | None:
    """The probe that all events carry, made when they were written: most calls, at little cost."""
    first = events[0].clock
    if first is None or first.late or first.traffic:
        return None
    for event in events:
        if event.clock is not first and event.clock != first:
            return None
    return first


def _judged(
    server: str,
    events: Sequence[CallEvent],
    traffic: TrafficClocks | None,
    mode: TimeCorrection,
) -> tuple[AppliedOffset, Iterable[int]]:
    """What is done to one server's times, and by how much each is corrected: all or none."""
    probe = _one_probe(events)
    if probe is not None:
        _, error_us, offset_us, _ = probe
        applies = mode is TimeCorrection.AUTO and not -error_us <= offset_us <= error_us
        told = AppliedOffset(server, offset_us, error_us, PROBE, applies)
        return told, repeat(offset_us, len(events)) if applies else ()
    source, offsets = _offsets(server, events, traffic)
    if not offsets:
        return AppliedOffset(server, 0, None, source, False), ()
    middle_us, error_us = offsets[0] if len(offsets) == 1 else sorted(offsets)[len(offsets) // 2]
    if mode is TimeCorrection.AUTO:
        for offset_us, bound_us in offsets:
            if not -bound_us <= offset_us <= bound_us:  # the clock is surely off
                told = AppliedOffset(server, middle_us, error_us, source, True)
                return told, [each[0] for each in offsets]
    return AppliedOffset(server, middle_us, error_us, source, False), ()


def _offsets(
    server: str, events: Sequence[CallEvent], traffic: TrafficClocks | None
) -> tuple[str, Sequence[OffsetAndError]]:
    """Who knows the clock, and the offset at each event; none where nobody can tell.

    A probe made when the row was written goes first, then the traffic, then a probe made later.
    """
    clocks = [event.clock for event in events if event.clock is not None]
    if not clocks:
        offsets = traffic.offsets(server, events) if traffic is not None else ()
        return (TRAFFIC if offsets else NO_SOURCE), offsets
    if all(clock.late for clock in clocks) and traffic is not None:
        offsets = traffic.offsets(server, events)
        if offsets:
            return TRAFFIC, offsets
    source = TRAFFIC if all(clock.traffic for clock in clocks) else PROBE
    if len(clocks) == len(events):
        return source, [(clock.offset_us, clock.error_us) for clock in clocks]
    return source, [_nearest_probe(event, events) for event in events]


def _nearest_probe(event: CallEvent, events: Sequence[CallEvent]) -> OffsetAndError:
    """The row's own probe, else that of the row nearest in the server's own time."""
    clock = min(
        (abs(other.time_us - event.time_us), other.time_us, other.clock)
        for other in events
        if other.clock is not None
    )[2]
    return clock.offset_us, clock.error_us
