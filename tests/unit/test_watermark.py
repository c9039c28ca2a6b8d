"""Whom the watermark waits for, and what moves it."""

from __future__ import annotations

from typing import Any

import pytest

from callstate.effects import EmitCdr, RecordLate, SourceChanged
from callstate.processor import PartitionProcessor
from callstate.watermark import Watermark
from tests.calls import DAY_US, US, beat, events, processor, row, written

SECOND = US


def marks(*servers: str, idle: float | None = 60, lateness: float = 5) -> Watermark:
    return Watermark(servers, round(lateness * US), None if idle is None else round(idle * US))


def tell(watermark: Watermark, server: str, at: float, *, measured: bool = True) -> list[str]:
    """A heartbeat; what changed, as `server state`."""
    told = watermark.heartbeat(server, DAY_US + round(at * US), measured=measured)
    return [f"{change.server} {change.state}" for change in told]


def reached(watermark: Watermark) -> float | None:
    return None if watermark.time_us is None else (watermark.time_us - DAY_US) / US


def test_it_is_the_least_frontier_less_the_lateness() -> None:
    watermark = marks("p", "q")
    tell(watermark, "p", 100)
    assert reached(watermark) is None  # q has not spoken
    assert watermark.holder() == ("q", None)
    tell(watermark, "q", 40)
    assert reached(watermark) == 35
    assert watermark.holder() == ("q", DAY_US + 40 * US)
    tell(watermark, "q", 300)
    assert reached(watermark) == 95


def test_a_frontier_that_goes_back_takes_it_nowhere() -> None:
    watermark = marks("p")
    tell(watermark, "p", 100)
    tell(watermark, "p", 50)
    assert reached(watermark) == 95
    tell(watermark, "p", 101)
    assert reached(watermark) == 96


def test_a_silent_server_is_set_aside_by_the_others_progress() -> None:
    watermark = marks("p", "q")
    tell(watermark, "p", 0)
    tell(watermark, "q", 0)
    changes = [change for at in range(1, 70) for change in tell(watermark, "p", at)]
    assert changes == ["q set_aside"]
    assert reached(watermark) == 64


def test_a_server_that_was_never_heard_is_set_aside_as_well() -> None:
    watermark = marks("p", "q")
    changes = [change for at in range(70) for change in tell(watermark, "p", at)]
    assert changes == ["q set_aside"]
    assert reached(watermark) == 64


def test_never_means_never() -> None:
    watermark = marks("p", "q", idle=None)
    tell(watermark, "q", 0)
    assert not [change for at in range(0, 100_000, 100) for change in tell(watermark, "p", at)]
    assert reached(watermark) == -5


def test_when_all_are_silent_nobody_is_set_aside() -> None:
    watermark = marks("p", "q")
    for _ in range(1_000):
        assert not tell(watermark, "p", 10)
        assert not tell(watermark, "q", 10)


def test_one_leap_after_an_outage_of_all_sets_nobody_aside() -> None:
    watermark = marks("p", "q", "r")
    for server in "pqr":
        tell(watermark, server, 0)
    assert tell(watermark, "p", 7_200) == []
    assert tell(watermark, "q", 7_200) == []
    assert tell(watermark, "r", 7_200) == []
    assert reached(watermark) == 7_195


def test_who_comes_back_is_waited_for_again() -> None:
    watermark = marks("p", "q")
    tell(watermark, "q", 0)
    for at in range(3_600):
        tell(watermark, "p", at)
    assert watermark.sources["q"].set_aside
    before = reached(watermark)
    assert tell(watermark, "q", 10) == ["q active"]
    for at in range(3_600, 3_650):
        tell(watermark, "p", at)
    assert reached(watermark) == before  # nothing is taken back, and nothing goes on
    tell(watermark, "q", 3_640)
    assert reached(watermark) == 3_635


def test_an_event_takes_a_server_back_as_well() -> None:
    watermark = marks("p", "q")
    tell(watermark, "q", 0)
    for at in range(100):
        tell(watermark, "p", at)
    change = watermark.heard_from("q")
    assert change == SourceChanged("q", "active", DAY_US)
    assert watermark.heard_from("q") is None


def test_a_server_that_catches_up_slowly_is_not_set_aside() -> None:
    watermark = marks("p", "q")
    tell(watermark, "q", 0)
    changes = []
    for at in range(1, 500):
        changes += tell(watermark, "p", at)
        changes += tell(watermark, "q", at / 10)
    assert changes == []


def test_a_new_server_is_waited_for_from_its_first_heartbeat() -> None:
    watermark = marks("p")
    tell(watermark, "p", 1_000)
    tell(watermark, "new", 990)
    tell(watermark, "p", 1_010)
    assert reached(watermark) == 995
    tell(watermark, "new", 1_020)
    assert reached(watermark) == 1_005


def test_a_server_that_is_removed_holds_nothing_for_long() -> None:
    watermark = marks("p", "q", "gone")
    for server in ("p", "q", "gone"):
        tell(watermark, server, 0)
    for at in range(1, 100):
        tell(watermark, "p", at)
        tell(watermark, "q", at)
    assert reached(watermark) == 94


@pytest.mark.parametrize("off", [-1.7e9, 1e9], ids=["1970", "far future"])
def test_a_clock_that_nobody_measured_and_that_is_absurd_counts_for_nothing(off: float) -> None:
    watermark = marks("p", "q", "odd")
    told: list[str] = []
    for at in range(100):
        told += tell(watermark, "p", at, measured=False)
        told += tell(watermark, "q", at, measured=False)
        told += tell(watermark, "odd", at + off, measured=False)
    assert told[-1] == "odd untrusted" or told == ["odd untrusted"]
    assert reached(watermark) == 94
    assert not watermark.sources["p"].set_aside
    assert tell(watermark, "odd", 100, measured=False) == ["odd active"]


def test_a_clock_that_is_wrong_and_measured_counts() -> None:
    watermark = marks("p", "q")
    tell(watermark, "p", 100)
    assert tell(watermark, "q", -5_000) == []
    assert reached(watermark) == -5_005


def test_a_restart_knows_all_of_it() -> None:
    watermark = marks("p", "q")
    tell(watermark, "q", 0)
    for at in range(40):
        tell(watermark, "p", at)
    again = marks("p", "q", "configured since")
    again.restore(watermark.snapshot())
    assert again.snapshot()["sources"]["p"] == watermark.snapshot()["sources"]["p"]
    assert again.time_us == watermark.time_us
    assert [c for at in range(40, 70) for c in tell(again, "p", at)].count("q set_aside") == 1


# -- what it closes -------------------------------------------------------------------------

CALL = (row("R", 0), row("S", 5), row("E", 65, cseq=2))


def told_by(door: PartitionProcessor, *records: Any) -> list[Any]:
    return [
        effect for effect in door.feed(list(records)) if isinstance(effect, EmitCdr | RecordLate)
    ]


def test_a_call_is_told_when_the_watermark_has_passed_its_end() -> None:
    door = processor("s")
    assert told_by(door, *events(*CALL), beat("s", 70)) == []
    (told,) = told_by(door, beat("s", 70.1))
    assert told.cdr.termination == "C"
    assert told.provenance.watermark_us == DAY_US + 65_100_000


def test_event_times_do_not_push_it() -> None:
    door = processor("s")
    door.feed([beat("s", 10)])
    future = row("E", 10**8, call_id="other")
    assert told_by(door, *events(*CALL, future)) == []
    assert door.watermark_us == DAY_US + 5 * US


def test_a_late_event_makes_a_revision_that_says_so() -> None:
    door = processor("s")
    *rows, end = events(*CALL)
    assert told_by(door, *rows, beat("s", 30_000))[0].cdr.termination == "U"
    late, revised = told_by(door, end, beat("s", 30_001))
    assert isinstance(late, RecordLate)
    assert late.late_us == 29_995_000_000 - 65_000_000
    assert revised.cdr.termination == "C"
    assert revised.provenance.revision == 3
    assert revised.provenance.late_events == 1


def test_the_limits_are_measured_against_it() -> None:
    door = processor("s")
    request = events(row("R", 0))
    assert told_by(door, *request, beat("s", 125)) == []
    (told,) = told_by(door, beat("s", 125.1))
    assert (told.cdr.termination, told.cdr.failure_status) == ("F", 408)


def test_a_call_answered_after_the_ringing_limit_is_a_call_if_the_answer_is_there() -> None:
    door = processor("s")
    rows = events(row("R", 0), row("S", 130), row("E", 200, cseq=2))
    told = told_by(door, *rows[:2], beat("s", 180), rows[2], beat("s", 300))
    assert [one.cdr.termination for one in told] == ["C"]


def test_a_failure_waits_for_another_try() -> None:
    door = processor("s")
    busy = events(row("R", 0), row("F", 3))
    assert told_by(door, *busy, beat("s", 187)) == []
    again = [
        event._replace(id=(event.id or 0) + 10)
        for event in events(
            row("R", 180, cseq=2, branch_id="z2"),
            row("S", 181, cseq=2, branch_id="z2"),
            row("E", 190, cseq=3),
        )
    ]
    told = told_by(door, *again, beat("s", 400))
    assert [one.cdr.termination for one in told] == ["C"]


def test_a_server_that_was_away_for_an_hour_brings_revisions() -> None:
    door = processor("s", "away", late_horizon_seconds=7_200)
    start, answer = events(row("R", 0), row("S", 5))
    door.feed([beat("away", 1), start, answer])
    effects = [effect for at in range(0, 3_600, 5) for effect in door.feed([beat("s", at)])]
    states = [one.state for one in effects if isinstance(one, SourceChanged)]
    assert states == ["set_aside"]
    end = events(row("E", 65, cseq=2, server="away", id=77))
    effects += door.feed([*end, beat("away", 3_600), beat("s", 3_700), beat("away", 3_700)])
    effects += door.feed([beat("s", 40_000), beat("away", 40_000)])
    assert written(effects)["call"]["termination"] == "C"


def test_a_server_that_is_configured_no_more_does_not_hold_the_watermark() -> None:
    before = Watermark(("a", "b"), 0, None)
    for name in ("a", "b"):
        before.heartbeat(name, DAY_US + SECOND * (10), measured=True)
    after = Watermark(("a",), 0, None)
    after.restore(before.snapshot())
    after.heartbeat("a", DAY_US + SECOND * (20), measured=True)
    assert after.time_us == DAY_US + SECOND * (20)
    after.heartbeat(
        "b", DAY_US + SECOND * (11), measured=True
    )  # it speaks after all, and is waited for
    after.heartbeat("a", DAY_US + SECOND * (30), measured=True)
    assert after.time_us == DAY_US + SECOND * (20)
