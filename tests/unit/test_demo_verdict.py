"""The demo's verdict: what a naive reading of the clocks costs, and that no fault goes unseen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from ops.demo import report
from ops.demo.plan import (
    CLOCKS,
    MAX_CALL_SECONDS,
    WrongClock,
    config_text,
    final_us,
    traffic_spec,
)
from ops.demo.verdict import judge
from ops.simulation.traffic import Traffic, generate

START_US = 1_709_542_800_000_000


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return generate(traffic_spec(300, 1, START_US, dict.fromkeys(CLOCKS, START_US - 30_000_000)))


@pytest.fixture(scope="module")
def owed(traffic: Traffic) -> list[dict[str, Any]]:
    return [line["cdr"] for line in traffic.truth_lines() if line["expect"] == "cdr"]


def test_the_truth_passes_and_the_clocks_do_not(
    traffic: Traffic, owed: list[dict[str, Any]]
) -> None:
    outcome = judge(traffic, owed)
    assert outcome.exit_code == 0
    assert outcome.crossed > 50
    assert outcome.ours.off == outcome.ours.negative == outcome.ours.absent == 0
    assert outcome.ours.wrong_seconds == 0
    assert outcome.naive.calls == outcome.ours.calls > 200
    assert outcome.naive.negative > 0
    assert outcome.naive.off > outcome.naive.negative
    assert outcome.example_seconds is not None
    true, naive, ours = outcome.example_seconds
    assert abs(naive - true) > 5
    assert ours == true


def test_any_fault_fails_the_demo(traffic: Traffic, owed: list[dict[str, Any]]) -> None:
    assert judge(traffic, owed[1:]).exit_code == 1
    assert judge(traffic, [*owed, owed[0]]).exit_code == 1
    assert judge(traffic, [{**owed[0], "termination": "x"}, *owed[1:]]).exit_code == 1


def test_the_report_names_every_fault(traffic: Traffic, owed: list[dict[str, Any]]) -> None:
    page = io.StringIO()
    outcome = judge(traffic, [{**owed[0], "to_tag": "\x1b[31mred"}, *owed[2:]])
    report.print_outcome(Console(file=page, width=100), outcome)
    text = page.getvalue()
    assert owed[0]["call_id"] in text
    assert owed[1]["call_id"] in text
    assert "\x1b" not in text
    assert "2 calls are not as they should be" in report.sentence(outcome)


def test_every_call_is_over_before_the_limit_on_its_length(traffic: Traffic) -> None:
    for truth in traffic.truths:
        if truth.cdr is not None and truth.cdr.end_us is not None:
            length = truth.cdr.end_us - truth.cdr.start_us
            assert length < MAX_CALL_SECONDS * 1_000_000, truth.scenario
        assert final_us(truth) > truth.last_us


def test_nobody_waits_much_longer_than_a_minute(traffic: Traffic) -> None:
    assert max(map(final_us, traffic.truths)) - START_US < 65_000_000


def test_what_a_clock_is_told() -> None:
    assert WrongClock().faketime is None
    assert WrongClock(-5.5).faketime == "-5.5s"
    assert WrongClock(0.7, 1.00005).faketime == "+0.7s x1.00005"
    spec = WrongClock(0.7, 1.00005).since(started_us=0, epoch_us=100_000_000)
    assert round(spec.offset_ms, 3) == 705
    assert round(spec.drift_ppm, 3) == 50


def test_the_configuration_is_the_one_that_commands_read() -> None:
    import tomllib

    dsns = {name: f"host={name}" for name in CLOCKS}
    told = tomllib.loads(config_text("h:1", dsns, "host=a user=w"))
    assert [server["name"] for server in told["servers"]] == ["a", "b", "c"]
    assert told["sink"]["dsn"] == "host=a user=w"
