"""Markers of progress, and clocks against a reference."""

from __future__ import annotations

import random

import pytest

from callstate.events import Clock
from cdc.clock_probe import (
    DRIFT_PPM,
    ClockTracker,
    Drift,
    Measured,
    Reading,
    best,
    compare,
    stopwatch_us,
)
from cdc.clocks import ServerClock
from cdc.heartbeat import FLUSH_DELAY_US, Markers, Sample, before_header
from cdc.metrics import ReaderMetrics
from cdc.settings import ReaderSettings

BLOCK, SEGMENT = 8_192, 16 * 1024 * 1024


def test_progress_is_the_time_of_the_newest_marker_passed() -> None:
    markers = Markers(BLOCK, SEGMENT)
    for time_us, lsn in ((1_000, 100), (2_000, 200), (3_000, 200), (4_000, 300)):
        markers.add(Sample(time_us, lsn, lsn))
    assert not markers.passed(99)
    assert markers.progress_us is None
    assert markers.passed(250)
    assert markers.progress_us == 3_000
    assert not markers.passed(250)
    assert markers.passed(300)
    assert (markers.progress_us, markers.waiting) == (4_000, False)


def test_unflushed_log_delays_the_time_and_does_not_stop_it() -> None:
    markers = Markers(BLOCK, SEGMENT)
    markers.add(Sample(10_000_000, 500, 400))
    assert markers.passed(400)
    assert markers.progress_us == 10_000_000 - FLUSH_DELAY_US
    markers.add(Sample(11_000_000, 500, 400, 30_000_000))  # a slow log writer
    assert not markers.passed(400)
    assert markers.passed(500)
    assert markers.progress_us == 11_000_000


@pytest.mark.parametrize(
    ("inserted", "end"),
    [
        (BLOCK * 5 + 24, BLOCK * 5),  # one short header into an empty page
        (SEGMENT * 2 + 40, SEGMENT * 2),  # one long header into an empty segment
        (BLOCK * 5 + 40, BLOCK * 5 + 40),  # a record may well end here
        (BLOCK * 5 + 48, BLOCK * 5 + 48),
        (BLOCK * 5, BLOCK * 5),
    ],
)
def test_page_headers_hold_nothing(inserted: int, end: int) -> None:
    assert before_header(inserted, BLOCK, SEGMENT) == end


def test_markers_are_bounded_and_stay_true() -> None:
    markers = Markers(BLOCK, SEGMENT, markers_max=16)
    for number in range(1, 1_000):
        markers.add(Sample(number, number, number))
    assert markers.passed(500)
    assert 0 < (markers.progress_us or 0) <= 500
    assert markers.passed(999)
    assert 500 < (markers.progress_us or 0) <= 999


def _look(rng: random.Random, now_us: float, offset_us: float, trip_us: float) -> Reading:
    share = rng.random()
    shown = round(now_us + offset_us + share * trip_us)
    return Reading(shown, round(now_us + trip_us / 2), round(trip_us / 2) + 1)


@pytest.mark.parametrize("drift_ppm", [0, 50, -150])
def test_bounds_hold_under_delays_and_drift(drift_ppm: int) -> None:
    rng = random.Random(drift_ppm)
    tracker = ClockTracker()
    for second in range(0, 2_000, 10):
        now = second * 1e6
        offset = -5_500_000 + now * drift_ppm / 1e6
        looks = [_look(rng, now, offset, rng.expovariate(1 / 3_000)) for _ in range(8)]
        reference = best(_look(rng, now, 0, rng.expovariate(1 / 1_000)) for _ in range(8))
        tracker.add(compare(best(looks), reference))
        later = now + rng.random() * 10e6
        clock = tracker.clock(round(later))
        assert clock is not None
        true = -5_500_000 + later * drift_ppm / 1e6
        assert abs(clock.offset_us - true) <= clock.error_us + 5
    assert tracker.steps == 0


def test_a_step_is_taken_at_once_and_a_bad_look_is_not() -> None:
    tracker = ClockTracker()
    assert tracker.clock(0) is None
    tracker.add(Measured(1_000, 100, 0))
    tracker.add(Measured(30_000, 50_000, 10))  # a slow round trip that contradicts nothing
    assert tracker.clock(10) == Clock(False, 100, 1_000)
    tracker.add(Measured(-1_500_000, 50_000, 20))
    assert tracker.clock(20) == Clock(False, 50_000, -1_500_000)
    assert tracker.steps == 1
    assert tracker.clock(20 + 1_000_000) == Clock(False, 50_000 + DRIFT_PPM, -1_500_000)


def probes(drift_ppm: float, seconds: int, error_us: int = 300) -> Drift:
    """What is known after probes every ten seconds, each off by up to its error."""
    rng, drift = random.Random(7), Drift()
    for second in range(0, seconds, 10):
        off = rng.randint(-error_us, error_us)
        drift.add(Measured(round(1_000 + second * drift_ppm) + off, error_us, second * 1_000_000))
    return drift


@pytest.mark.parametrize("drift_ppm", [0.0, 40.0, -120.0])
def test_drift_is_told_within_its_error(drift_ppm: float) -> None:
    told = probes(drift_ppm, 3_600).ratio
    assert told is not None
    assert told * 1e6 == pytest.approx(drift_ppm, abs=0.6)


def test_a_drift_that_may_be_error_is_not_told() -> None:
    assert probes(40.0, 60).ratio is None
    assert probes(40.0, 3_600, error_us=60_000).ratio is None
    drift = probes(40.0, 3_600)
    drift.begin_anew()  # the clock was set
    assert drift.ratio is None


def test_one_good_look_a_minute_is_enough_and_one_bad_look_does_no_harm() -> None:
    drift = probes(40.0, 3_600)
    drift.add(Measured(90_000, 80_000, 3_600_000_000))
    assert drift.ratio is not None
    assert drift.ratio * 1e6 == pytest.approx(40.0, abs=0.6)


def test_progress_is_told_by_the_clock_as_it_was_set() -> None:
    markers = Markers(8_192, 16 * 2**20)
    markers.add(Sample(10_000_000, 100, 100))
    markers.passed(100)
    markers.add(Sample(11_000_000, 200, 200))
    markers.shift(-1_500_000)
    assert markers.progress_us == 8_500_000
    markers.passed(200)
    assert markers.progress_us == 9_500_000
    markers.add(Sample(10_500_000, 300, 300))  # a second later, by the clock that was set back
    markers.passed(300)
    assert markers.progress_us == 10_500_000


def test_a_clock_that_was_set_forward_proves_nothing() -> None:
    """Or our own stopwatch stood: what was written while we were frozen is still to come."""
    markers = Markers(8_192, 16 * 2**20)
    markers.add(Sample(10_000_000, 100, 100))
    markers.passed(100)
    markers.add(Sample(11_000_000, 200, 200))
    markers.shift(9_000_000)
    assert markers.progress_us == 10_000_000
    markers.passed(200)
    assert markers.progress_us == 11_000_000


def test_nothing_is_known_of_another_machines_clock() -> None:
    """A promoted standby: while the reference is away its rows must not carry the old offset."""
    settings = ReaderSettings(server="a", dsn="", kafka={}, reference_dsn="elsewhere")
    metrics = ReaderMetrics("a")
    clock = ServerClock(settings, metrics)
    clock.belongs_to(("system", 1))
    clock._tracker.add(Measured(5_500_000, 100, stopwatch_us()))
    clock.belongs_to(("system", 1))
    stamp = clock.stamp()
    assert stamp is not None
    assert stamp.offset_us == 5_500_000
    clock.belongs_to(("system", 2))
    assert clock.stamp() is None
    assert metrics.clock_offset_us is None
