"""How far a server's clock is from the reference's, asked over SQL.

Owns the measurement (Cristian's: a clock read is somewhere inside its round trip) and which of
several is best. Refuses to judge (`callstate` does) and to use the reader's own clock for more than
a stopwatch: offset = (server - reader) - (reference - reader), so the reader may run anywhere.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from callstate.events import Clock
from cdc.connect import Connection
from cdc.queries import fetch_one

# What two clocks may drift apart while an old measurement is still preferred to a newer, worse one.
DRIFT_PPM = 200
_MINUTE_US = 60_000_000
_DRIFT_MINUTES = 60
_DRIFT_ERROR_MAX = 25e-6  # a good quartz is within it

_CLOCK = "select (extract(epoch from clock_timestamp()) * 1000000)::int8"


class Reading(NamedTuple):
    """One look at a clock: it showed `clock_us` at `at_us` of the stopwatch, give or take."""

    clock_us: int
    at_us: int
    error_us: int


class Measured(NamedTuple):
    """An offset with its bound, and when it was true by the stopwatch."""

    offset_us: int
    error_us: int
    at_us: int


def stopwatch_us() -> int:
    """The reader's monotonic clock."""
    return time.monotonic_ns() // 1_000


def best(readings: Iterable[Reading]) -> Reading:
    """The one with the shortest round trip."""
    return min(readings, key=lambda reading: reading.error_us)


def compare(server: Reading, reference: Reading) -> Measured:
    """The server's clock minus the reference's; the bound is half of both round trips."""
    offset = (server.clock_us - server.at_us) - (reference.clock_us - reference.at_us)
    # 1 us: each clock is read in whole microseconds.
    return Measured(
        offset, server.error_us + reference.error_us + 1, max(server.at_us, reference.at_us)
    )


class Drift:
    """How fast a server's clock gains on the reference's, by the last hour of minutes with a probe.

    The best probe of each minute is kept; the ratio is that of the best in the older half to the
    best in the newer one, so that a single slow round trip moves nothing.
    """

    def __init__(self) -> None:
        self._minutes: deque[Measured] = deque(maxlen=_DRIFT_MINUTES)

    def add(self, measured: Measured) -> None:
        """Takes a measurement, newer than all before."""
        minutes = self._minutes
        if minutes and minutes[-1].at_us // _MINUTE_US == measured.at_us // _MINUTE_US:
            if measured.error_us < minutes[-1].error_us:
                minutes[-1] = measured
        else:
            minutes.append(measured)

    def begin_anew(self) -> None:
        """The clock was set: what was before it says nothing of its pace."""
        self._minutes.clear()

    @property
    def ratio(self) -> float | None:
        """Seconds a second; None while the probes' own errors could be all of it."""
        known = list(self._minutes)
        half = len(known) // 2
        if not half:
            return None
        older, newer = (min(part, key=_error) for part in (known[:half], known[half:]))
        span_us = newer.at_us - older.at_us
        if older.error_us + newer.error_us > span_us * _DRIFT_ERROR_MAX:
            return None
        return (newer.offset_us - older.offset_us) / span_us


def _error(measured: Measured) -> int:
    return measured.error_us


class ClockTracker:
    """The best knowledge of one server's offset.

    A newer measurement wins unless the older one, its bound widened by drift since, is tighter
    still; where the two contradict each other the clock was set, and the newer one wins.
    """

    def __init__(self) -> None:
        self._held: Measured | None = None
        self.steps = 0
        self.drift = Drift()

    def add(self, measured: Measured) -> None:
        """Takes a new measurement."""
        held = self._held
        if held is not None:
            bound = held.error_us + (measured.at_us - held.at_us) * DRIFT_PPM // 1_000_000
            if abs(measured.offset_us - held.offset_us) > bound + measured.error_us:
                self.steps += 1
                self.drift.begin_anew()
            elif bound < measured.error_us:
                self.drift.add(measured)
                return
        self.drift.add(measured)
        self._held = measured

    def forget(self) -> None:
        """Another clock stands in its place."""
        self._held = None
        self.drift.begin_anew()

    def clock(self, now_us: int) -> Clock | None:
        """The stamp for records, its bound widened to now; None before the first measurement."""
        held = self._held
        if held is None:
            return None
        widened = held.error_us + max(0, now_us - held.at_us) * DRIFT_PPM // 1_000_000
        return Clock(False, widened, held.offset_us)


class StepWatch:
    """Notices that a clock was set, from looks that are taken anyway, between two probes.

    A clock alone cannot be judged, but its pace can: against the stopwatch it moves by drift only.
    """

    def __init__(self) -> None:
        self._before: Reading | None = None
        self.moved_us = 0  # by how much, at the last look

    def stepped(self, reading: Reading) -> bool:
        """Whether the clock moved by more since the last look than both errors and drift allow."""
        before, self._before = self._before, reading
        if before is None:
            return False
        moved = (reading.clock_us - before.clock_us) - (reading.at_us - before.at_us)
        self.moved_us = moved
        drift = (reading.at_us - before.at_us) * DRIFT_PPM // 1_000_000
        return abs(moved) > reading.error_us + before.error_us + drift + 1


async def read_clock(conn: Connection, rounds: int) -> Reading:
    """Reads a server's clock `rounds` times and keeps the best look.

    Raises:
        CdcError: The connection is gone.
    """
    readings = []
    for _ in range(rounds):
        before = time.monotonic_ns()
        (clock_us,) = await fetch_one(conn, _CLOCK)
        after = time.monotonic_ns()
        half = (after - before) // 2
        readings.append(Reading(clock_us, (before + half) // 1_000, half // 1_000 + 1))
    return best(readings)
