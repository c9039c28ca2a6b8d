"""Whose clock is off, by how much, and who says so; raw times become times of the reference.

Owns the correction of event times. An offset is a server's clock minus the reference's. The probe's
word, stamped on each event by the reader, goes first: then a correction is a function of the call's
own events. Where a server's events carry none, the traffic's word (`TrafficClocks`) is asked.

All of a server's times in a call are corrected or none, and only where an offset exceeds its own
error bound: below that nothing is known that a correction could use.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class TrafficClocks(Protocol):
    """Offsets as the traffic tells them."""

    def offset(self, server: str, time_us: int, row_id: int) -> Offset | None:
        """Offset of `server` when its own clock read `time_us`; None where it cannot be told."""


class Corrected(NamedTuple):
    """Times on the reference's scale, parallel to the events given, and what was done to them."""

    times: list[int]
    offsets: tuple[AppliedOffset, ...]


def correct(
    events: Sequence[CallEvent], traffic: TrafficClocks | None, mode: TimeCorrection
) -> Corrected:
    """Corrects the times of one call's events."""
    by_server: dict[str, list[CallEvent]] = {}
    for event in events:
        by_server.setdefault(event.server, []).append(event)
    times = [event.time_us for event in events]
    applied = []
    for server in sorted(by_server):
        points, told = _points(server, by_server[server], traffic, mode)
        applied.append(told)
        if told.applied:
            for index, event in enumerate(events):
                if event.server == server:
                    times[index] -= _at(points, event.time_us)
    return Corrected(times, tuple(applied))


def _points(
    server: str, events: list[CallEvent], traffic: TrafficClocks | None, mode: TimeCorrection
) -> tuple[Sequence[tuple[int, int]], AppliedOffset]:
    """(raw time, offset) pairs to correct by, and what is told of them."""
    found: list[tuple[int, Offset]] = [
        (event.time_us, Offset(event.clock.offset_us, event.clock.error_us))
        for event in events
        if event.clock is not None and not event.clock.late
    ]
    source = PROBE
    if not found and traffic is not None:
        source = TRAFFIC
        for event in events:
            offset = traffic.offset(server, event.time_us, event.id or 0)
            if offset is not None:
                found.append((event.time_us, offset))
    if not found:
        source = PROBE
        found = [
            (event.time_us, Offset(event.clock.offset_us, event.clock.error_us))
            for event in events
            if event.clock is not None
        ]
    if not found:
        return (), AppliedOffset(server, 0, None, NO_SOURCE, applied=False)
    found.sort()
    middle = sorted(offset for _, offset in found)[len(found) // 2]
    exceeds = any(abs(offset.offset_us) > offset.error_us for _, offset in found)
    applied = exceeds and mode is TimeCorrection.AUTO
    told = AppliedOffset(server, middle.offset_us, middle.error_us, source, applied=applied)
    return [(time, offset.offset_us) for time, offset in found], told


def _at(points: Sequence[tuple[int, int]], time_us: int) -> int:
    """The offset measured nearest to a moment, in the server's own time."""
    if len(points) == 1:
        return points[0][1]
    return min(points, key=lambda point: (abs(point[0] - time_us), point))[1]


def corrected_progress(progress_us: int, clock: Clock | None) -> int:
    """A server's progress on the reference's scale; uncorrected where no probe has succeeded."""
    return progress_us if clock is None else progress_us - clock.offset_us
