"""Correcting times: whose word counts, and when nothing is corrected."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from callstate.cdr import AppliedOffset
from callstate.clocks import correct
from callstate.config import TimeCorrection
from callstate.events import CallEvent
from tests.calls import DAY_US, US, clock, events, row

AUTO = TimeCorrection.AUTO


class Traffic:
    """Says that a server is two seconds ahead, give or take 10 ms; of `q` it knows nothing."""

    def __init__(self, offset_us: int = 2 * US) -> None:
        self.offset_us = offset_us

    def offsets(self, server: str, told: Sequence[CallEvent]) -> list[tuple[int, int]]:
        return [] if server == "q" else [(self.offset_us, 10_000)] * len(told)


def seconds(
    held: list[CallEvent], traffic: Traffic | None = None, mode: TimeCorrection = AUTO
) -> list[float]:
    return [(time - DAY_US) / US for time in correct(held, traffic, mode).times]


def test_without_anybodys_word_nothing_is_corrected() -> None:
    held = events(row("R", 0), row("S", 5))
    assert seconds(held) == [0, 5]
    assert correct(held, None, AUTO).offsets == (AppliedOffset("s", 0, None, "none", False),)


def test_a_clock_that_is_ahead_is_put_back() -> None:
    held = events(row("R", 10, clock=clock(4)), row("S", 15, clock=clock(4)))
    assert seconds(held) == [6, 11]
    assert correct(held, None, AUTO).offsets == (AppliedOffset("s", 4 * US, 1_000, "probe", True),)


@pytest.mark.parametrize(("offset", "time"), [(0.05, 10), (-0.05, 10), (0.051, 9.949)])
def test_only_an_offset_that_exceeds_its_error_is_applied(offset: float, time: float) -> None:
    assert seconds(events(row("R", 10, clock=clock(offset, 0.05)))) == [time]


@pytest.mark.parametrize(("offset_us", "time"), [(10_000, 10), (-10_000, 10), (20_000, 9.98)])
def test_the_traffics_offset_too_has_to_exceed_its_error(offset_us: int, time: float) -> None:
    assert seconds(events(row("R", 10)), Traffic(offset_us)) == [time]


def test_correction_can_be_off_and_still_tells_the_offset() -> None:
    held = events(row("R", 10, clock=clock(4)))
    assert seconds(held, mode=TimeCorrection.OFF) == [10]
    (told,) = correct(held, None, TimeCorrection.OFF).offsets
    assert (told.offset_us, told.applied) == (4 * US, False)


def test_all_of_a_servers_times_are_corrected_or_none() -> None:
    held = events(row("R", 10, clock=clock(0.01, 0.05)), row("S", 15, clock=clock(4)))
    assert seconds(held) == [9.99, 11]


def test_each_server_is_corrected_by_its_own_offset() -> None:
    held = events(
        row("R", 10, clock=clock(1)),
        row("R", 10, server="t", via_count=3, clock=clock(-2)),
        row("S", 11, server="u", via_count=3),
    )
    assert seconds(held) == [9, 12, 11]


def test_a_row_without_a_probe_takes_that_of_the_nearest_row() -> None:
    held = events(row("R", 0, clock=clock(1)), row("S", 5), row("E", 100, cseq=2, clock=clock(3)))
    assert seconds(held) == [-1, 4, 97]


def test_the_probe_goes_before_the_traffic() -> None:
    held = events(row("R", 10, server="t", clock=clock(4)))
    assert seconds(held, Traffic()) == [6]


def test_the_traffic_goes_before_a_probe_that_came_late() -> None:
    held = events(row("R", 10, server="t", clock=clock(4, late=True)))
    assert seconds(held, Traffic()) == [8]
    assert seconds(held) == [6]


def test_the_traffic_serves_where_there_is_no_probe() -> None:
    held = events(row("R", 10, server="t"), row("S", 11, server="q"))
    assert seconds(held, Traffic()) == [8, 11]
    told = correct(held, Traffic(), AUTO).offsets
    assert [(one.server, one.source, one.applied) for one in told] == [
        ("q", "none", False),
        ("t", "traffic", True),
    ]
