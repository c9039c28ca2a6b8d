"""Clocks measured by the traffic: what one call says, and what many say together."""

from __future__ import annotations

import random
from typing import Any

import orjson
import pytest

from callstate.clock_steps import Position
from callstate.exchanges import Exchange, exchanges
from callstate.traffic_clocks import FittedClocks, fit
from tests.calls import DAY_US, US, events, row, through_json

CALL = {"call_id": "c"}


def crossing(off: float, *, one_way: float = 0.004) -> list[dict[str, Any]]:
    """An answered call over s and t, whose clock is `off` seconds ahead."""
    inner = {"server": "t", "via_count": 3, "branch_id": "z3"}
    return [
        row("R", 0),
        row("R", one_way + off, **inner),
        row("S", 5 + off, **inner),
        row("S", 5 + one_way),
    ]


@pytest.mark.parametrize("off", [0.0, 0.7, -5.5])
def test_a_call_over_two_servers_measures_their_clocks(off: float) -> None:
    (found,) = exchanges(events(*crossing(off)))
    assert (found.a, found.b) == ("s", "t")
    assert abs(found.delta_us - round(off * US)) <= 1
    assert found.round_trip_us == 8_000
    assert (found.a_id, found.b_id) == (1, 2)


def test_the_outer_server_may_be_the_later_by_name() -> None:
    rows = [one | {"server": {"s": "z", "t": "b"}[one["server"]]} for one in crossing(0.7)]
    (found,) = exchanges(events(*rows))
    assert (found.a, found.b) == ("b", "z")
    assert abs(found.delta_us + 700_000) <= 1


def test_a_failure_measures_as_well_as_an_answer() -> None:
    rows = [
        one | {"event_type": "F", "failure_status": 486} if one["event_type"] == "S" else one
        for one in crossing(0.7)
    ]
    (found,) = exchanges(events(*rows))
    assert abs(found.delta_us - 700_000) <= 1


def test_a_call_on_one_server_measures_nothing() -> None:
    assert list(exchanges(events(row("R", 0), row("S", 5), row("E", 9, cseq=2)))) == []


def test_answers_alone_measure_nothing() -> None:
    assert list(exchanges(events(*crossing(0.7)[2:]))) == []


def test_a_bye_that_two_saw_is_weak_evidence() -> None:
    rows = [row("E", 9, cseq=2), row("E", 9.704, cseq=2, server="t")]
    (found,) = exchanges(events(*rows))
    assert abs(found.delta_us - 704_000) <= 1
    assert found.round_trip_us > 50_000


# -- many calls --------------------------------------------------------------------------------


def measured(
    a: str, b: str, off: Any, *, count: int = 40, every: float = 20.0, seed: int = 1
) -> list[Exchange]:
    """Exchanges of a pair; `off(at)` is b's clock minus a's, in seconds. Noise of 2 ms."""
    chance = random.Random(f"{a}{b}{seed}")
    found = []
    for n in range(count):
        at = DAY_US + round(n * every * US)
        trip = round(chance.uniform(2_000, 12_000))
        delta = round(off(n * every) * US) + chance.randrange(-trip // 4, trip // 4)
        found.append(Exchange(a, b, at, at + delta, delta, trip, n + 1, n + 1))
    return found


def offset_ms(clocks: FittedClocks, server: str, at: float, row_id: int = 0) -> float:
    told = clocks.offset(server, DAY_US + round(at * US), row_id)
    assert told is not None
    return told.offset_us / 1_000


def test_offset_and_drift() -> None:
    clocks = fit(measured("s", "t", lambda at: 0.7 + at * 40e-6), "s")
    for at in (0, 400, 780):
        assert abs(offset_ms(clocks, "t", at) - 700 - at * 0.04) < 2
    drift = clocks.drift("t")
    assert drift is not None
    assert abs(drift - 40e-6) < 5e-6


def test_through_a_chain_of_servers_that_share_no_call_with_the_reference() -> None:
    found = measured("s", "t", lambda _: 0.7) + measured("t", "u", lambda _: -5.0)
    clocks = fit(found, "s")
    assert abs(offset_ms(clocks, "u", 300) + 4_300) < 4
    assert offset_ms(clocks, "s", 300) == 0


def test_who_is_joined_to_the_reference_by_nothing_cannot_be_told() -> None:
    found = measured("s", "t", lambda _: 0.7) + measured("v", "w", lambda _: 0.1)
    clocks = fit(found, "s")
    assert clocks.offset("v", DAY_US, 0) is None
    assert clocks.offset("nobody", DAY_US, 0) is None


def test_wild_exchanges_count_for_little() -> None:
    found = measured("s", "t", lambda _: 0.7)
    wild = [x._replace(delta_us=x.delta_us + 3 * US, b_us=x.b_us + 3 * US) for x in found[::6]]
    rest = [x for n, x in enumerate(found) if n % 6]
    assert abs(offset_ms(fit([*rest, *wild], "s"), "t", 300) - 700) < 5


def test_the_order_of_exchanges_decides_nothing() -> None:
    found = measured("s", "t", lambda _: 0.7) + measured("t", "u", lambda _: -5.0)
    mixed = found[:]
    random.Random(3).shuffle(mixed)
    assert fit(mixed, "s").to_json() == fit(found, "s").to_json()


def test_a_step_is_found_dated_and_cut_out() -> None:
    def set_back(at: float) -> float:
        return 0.3 if at < 400 else -1.2

    found = measured("s", "t", set_back) + measured("t", "u", lambda at: -set_back(at), seed=2)
    clocks = fit(found, "s")
    (step,) = clocks.steps
    assert step.server == "t"
    assert abs(step.jump_us + 1_500_000) < 20_000
    assert abs(step.before.time_us - DAY_US - 400 * US) < 25 * US
    assert abs(offset_ms(clocks, "t", 100, 5) - 300) < 5
    assert abs(offset_ms(clocks, "t", 700, 36) + 1_200) < 5
    assert abs(offset_ms(clocks, "u", 700, 36)) < 8


def test_a_step_is_placed_between_two_rows_where_rows_are_known() -> None:
    found = measured("s", "t", lambda at: 0.0 if at < 400 else -1.5)
    rows = [
        Position(n, DAY_US + round((n * 20 - (1.5 if n >= 20.5 else 0)) * US)) for n in range(60)
    ]
    clocks = fit(found, "s", lambda server: rows if server == "t" else [])
    assert [step.server for step in clocks.steps] == ["t"]


def test_drift_is_no_step() -> None:
    assert fit(measured("s", "t", lambda at: at * 100e-6), "s").steps == []


def test_what_was_fitted_survives_json() -> None:
    clocks = fit(measured("s", "t", lambda at: 0.0 if at < 400 else -1.5), "s")
    told = orjson.loads(orjson.dumps(clocks.to_json()))
    again = FittedClocks.from_json(told)
    assert through_json(again.to_json()) == told
    for at in (0.0, 399.0, 401.0, 700.0):
        assert offset_ms(again, "t", at) == offset_ms(clocks, "t", at)
