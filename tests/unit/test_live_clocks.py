"""What one partition knows of the clocks while the stream runs, and what it says of them."""

from __future__ import annotations

from typing import Any

import orjson

from callstate.effects import ClocksDisagree, ClockStepped, Effect, SkewObserved
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from tests.calls import beat, clock, events, processor, row, us


def crossing_call(number: int, at: float, off: float) -> list[dict[str, Any]]:
    """A call over `s` and `t`, whose clock is `off` by so many seconds; 4 ms a hop."""
    one = {"call_id": f"c{number}", "server": "s", "via_count": 1, "branch_id": "z1"}
    two = one | {"server": "t", "via_count": 3, "branch_id": "z3"}
    return [
        row("R", at, **one),
        row("R", at + 0.004 + off, **two),
        row("S", at + 2 + off, **two),
        row("S", at + 2.004, **one),
        row("E", at + 9, cseq=2, call_id=f"c{number}", server="s"),
        row("E", at + 9.004 + off, cseq=2, call_id=f"c{number}", server="t"),
    ]


def live(step_at: float, before: float, after: float, until: int = 400) -> list[Effect]:
    """The effects of a call every five seconds; `t`'s clock is set at `step_at`. No probes."""
    door = processor("s", "t", reference="s")
    told: list[Effect] = []
    ids = 0
    for at in range(0, until, 5):
        off = before if at < step_at else after
        rows = crossing_call(at, at, off)
        for one in rows:
            ids += 1
            one["id"] = ids
        told += door.feed(events(*rows))
        told += door.feed([beat("s", at + 10), beat("t", at + 10 + off)])
    # whatever is known must survive a restart: the edge writes it with orjson
    snapshot = orjson.loads(orjson.dumps(door.snapshot()))
    again = PartitionProcessor(door.config, DictStore())
    again.restore(snapshot)
    assert orjson.loads(orjson.dumps(again.snapshot())) == snapshot
    return told


def test_the_traffic_alone_finds_a_clock_that_is_off() -> None:
    skews = [effect for effect in live(1e9, 0.8, 0.8) if isinstance(effect, SkewObserved)]
    assert [(one.server, one.source, one.off) for one in skews] == [("t", "traffic", True)]
    assert abs(skews[0].offset_us - 800_000) < 5_000


def test_the_traffic_alone_finds_a_step() -> None:
    steps = [effect for effect in live(200, 0.1, -1.4) if isinstance(effect, ClockStepped)]
    assert [(one.server, one.source) for one in steps] == [("t", "traffic")]
    assert abs(steps[0].jump_us + 1_500_000) < 20_000
    assert abs(steps[0].at_us - us(200)) < 20_000_000


def test_clocks_that_are_right_are_not_spoken_of() -> None:
    quiet = (SkewObserved, ClockStepped, ClocksDisagree)
    assert not [effect for effect in live(1e9, 0.0, 0.0) if isinstance(effect, quiet)]


def probed(*offsets: float, error: float = 0.01) -> list[Effect]:
    """What is said of a server whose probe tells these offsets, a minute apart."""
    door = processor("s")
    told: list[Effect] = []
    for minute, offset in enumerate(offsets):
        told += door.feed([beat("s", 60 * minute + offset, offset=offset, error=error)])
    return [one for one in told if isinstance(one, SkewObserved | ClockStepped)]


def test_a_warning_has_hysteresis() -> None:
    """Threshold 0.5 s, error 0.2 s: within 0.3 to 0.7 s nothing is said either way."""
    told = probed(0.6, 0.65, 0.71, 0.6, 0.4, 0.6, 0.29, 0.5, error=0.2)
    assert [one.off for one in told if isinstance(one, SkewObserved)] == [True, False]


def test_a_probe_finds_a_step_and_no_drift_is_one() -> None:
    told = [one for one in probed(0.0, 0.0, -1.5, -1.5) if isinstance(one, ClockStepped)]
    assert [(one.jump_us, one.source) for one in told] == [(-1_500_000, "probe")]
    assert abs(told[0].at_us - us(120)) < 2_000_000
    drifting = [minute * 60 * 50e-6 for minute in range(60)]
    assert not [one for one in probed(*drifting) if isinstance(one, ClockStepped)]


def test_probe_and_traffic_that_contradict_each_other_are_told() -> None:
    door = processor("s", "t", reference="s")
    told: list[Effect] = []
    ids = 0
    for at in range(0, 2_000, 5):
        rows = crossing_call(at, at, 0.8)
        for one in rows:
            ids += 1
            one |= {"id": ids, "clock": clock(0.0)}
        told += door.feed(events(*rows))
        told += door.feed([beat("s", at + 10, offset=0), beat("t", at + 10.8, offset=0)])
    found = [one for one in told if isinstance(one, ClocksDisagree)]
    assert found
    assert {one.server for one in found} == {"t"}
    assert abs(found[0].traffic_us - 800_000) < 5_000
    assert found[0].probe_us == 0


def test_what_the_traffic_tells_of_a_clock_can_be_looked_up() -> None:
    door = processor("s", "t", reference="s")
    assert door.traffic_clocks == {}
    ids = 0
    for at in range(0, 200, 5):
        rows = crossing_call(at, at, 0.8)
        for one in rows:
            ids += 1
            one |= {"id": ids, "clock": clock(0.8 if one["server"] == "t" else 0.0)}
        door.feed(events(*rows))
        door.feed([beat("s", at + 10, offset=0), beat("t", at + 10.8, offset=0.8)])
    told = door.traffic_clocks
    assert set(told) == {"t"}  # s is the reference
    assert abs(told["t"].offset_us - 800_000) <= told["t"].error_us < 20_000
    hours = 3 * 3_600
    door.feed([beat("s", hours, offset=0), beat("t", hours + 0.8, offset=0.8)])
    assert door.traffic_clocks == {}  # that was long ago


def heard_of(probe: Any) -> int:
    """How many exchanges are taken up from 40 calls within four seconds."""
    door = processor("s", "t", reference="s")
    ids = 0
    for number in range(40):
        rows = [one | {"clock": probe} for one in crossing_call(number, number / 10, 0)]
        for one in rows:
            ids += 1
            one["id"] = ids
        door.feed(events(*rows))
    return int(door.snapshot()["clocks"]["fresh"])


def test_the_traffic_of_probed_clocks_is_looked_at_now_and_then() -> None:
    assert heard_of(None) >= 40
    assert 4 <= heard_of(clock(0)) <= 20
