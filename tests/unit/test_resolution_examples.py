"""The worked examples: events in arrival order, and the CDRs that they must become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from callstate.effects import DeadLetter, EmitCdr
from callstate.events import read_row
from tests.calls import processor, with_references

EXAMPLES = Path(__file__).parent.parent / "data" / "examples"
DAY = "2024-03-04T"

# Where an example says that the old system was wrong, what is right, told in columns.
IDEAL: dict[str, list[dict[str, Any]]] = {
    "probe_bye_twice_two_proxies": [{"end_time": DAY + "09:01:00.000000Z", "termination": "C"}],
    "probe_callee_hangs_up_no_setup": [{"to_tag": "t1", "connect_time": None, "termination": "C"}],
    "probe_end_before_request": [
        {
            "start_time": DAY + "09:00:00.000000Z",
            "connect_time": DAY + "09:00:01.000000Z",
            "end_time": DAY + "09:01:00.000000Z",
            "termination": "C",
            "to_tag": "t1",
        }
    ],
    "probe_end_before_setup": [
        {
            "connect_time": DAY + "09:00:01.000000Z",
            "end_time": DAY + "09:01:00.000000Z",
            "termination": "C",
        }
    ],
    "probe_parallel_two_answers": [
        {
            "to_tag": "t1",
            "connect_time": DAY + "09:00:05.000000Z",
            "end_time": DAY + "09:05:00.000000Z",
            "termination": "C",
        }
    ],
    "probe_status_408_no_answer": [
        {
            "to_tag": "t1",
            "end_time": DAY + "09:00:30.000000Z",
            "termination": "F",
            "failure_status": 408,
        }
    ],
    "state_retire_long_ringing": [
        {
            "call_id": call_id,
            "termination": "F",
            "failure_status": 408,
            "failure_reason": "Request Timeout",
            "to_tag": "",
            "end_time": None,
        }
        for call_id in ("id1", "id2")
    ],
}


def example_names() -> list[str]:
    return sorted(path.stem for path in EXAMPLES.glob("*.json") if not path.stem.startswith("aux_"))


def resolve(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[DeadLetter]]:
    door = processor()
    with_references(door, [read_row(row.get("observer") or "", row) for row in rows])
    told = list(door.finish())
    return (
        [effect.cdr.columns() for effect in told if isinstance(effect, EmitCdr)],
        [effect for effect in told if isinstance(effect, DeadLetter)],
    )


@pytest.mark.parametrize("name", example_names())
@pytest.mark.parametrize("arrival", ["as given", "reversed"])
def test_example(name: str, arrival: str) -> None:
    example = json.loads((EXAMPLES / f"{name}.json").read_text())
    rows = [event for event in example["events"] if "event_type" in event]
    if arrival == "reversed":
        rows.reverse()
    cdrs, _ = resolve(rows)
    expected = IDEAL.get(name, example["expected_cdrs"])
    assert len(cdrs) == len(expected)
    for wanted, got in zip(
        sorted(expected, key=lambda cdr: cdr.get("call_id", "")),
        sorted(cdrs, key=lambda cdr: cdr["call_id"]),
        strict=True,
    ):
        assert {column: got[column] for column in wanted} == wanted


def test_every_ideal_is_told_in_columns() -> None:
    ideals = {
        name
        for name in example_names()
        if json.loads((EXAMPLES / f"{name}.json").read_text()).get("ideal")
    }
    assert ideals <= IDEAL.keys()


def test_failures_without_a_request_are_dead_letters_not_calls() -> None:
    example = json.loads((EXAMPLES / "fixture_simple_success.json").read_text())
    _, letters = resolve(example["events"])
    assert sorted(letter.call_id for letter in letters) == [
        "testSimpleSuccessBogusCallEarly",
        "testSimpleSuccessBogusCallInTimeWindow",
        "testSimpleSuccessBogusCallLate",
    ]
    assert {letter.reason for letter in letters} == {"failure only"}
