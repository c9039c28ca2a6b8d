"""Messages of the event topic: what the reader writes is what the stream app reads."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from callstate.envelope import (
    EVENT,
    EXCHANGE,
    GAP,
    HEARTBEAT,
    REFERENCE_ASKED,
    REFERENCE_KNOWN,
    Gap,
    Heartbeat,
    Malformed,
    ReferenceAsked,
    ReferenceKnown,
    clock_message,
    event_message,
    exchange_message,
    gap_message,
    heartbeat_message,
    read_message,
    reference_message,
)
from callstate.events import Clock, read_row
from callstate.exchanges import Exchange
from tests.calls import US, clock, processor, row

ROW = {name: value for name, value in row("R", 0, id=1).items() if name != "server"}
GAP_OF_S = Gap("s", "0/1", "0/2", 5, 6, "slot lost")


def through_json(message: dict[str, Any]) -> Any:
    return orjson.loads(orjson.dumps(message))


@pytest.mark.parametrize("stamp", [None, clock(-5.5), clock(0.0007, 0.0001, late=True)])
def test_an_event(stamp: Clock | None) -> None:
    message = through_json(event_message("s", "0/1", "2024-03-04T09:00:00Z", stamp, ROW))
    assert set(message) == {"v", "server", "lsn", "commit_time", "clock", "row"}
    assert read_message(EVENT, message) == read_row("s", ROW, stamp)


@pytest.mark.parametrize("stamp", [None, clock(0.7, 0.002)])
def test_a_heartbeat(stamp: Clock | None) -> None:
    message = through_json(heartbeat_message("s", 12 * US, "0/1", stamp))
    assert read_message(HEARTBEAT, message) == Heartbeat("s", 12 * US, stamp)


def test_a_gap_and_references() -> None:
    assert read_message(GAP, through_json(gap_message(GAP_OF_S))) == GAP_OF_S
    for kind, record in (
        (REFERENCE_ASKED, ReferenceAsked("one", "two")),
        (REFERENCE_KNOWN, ReferenceKnown("one", "two")),
    ):
        assert read_message(kind, through_json(reference_message(record))) == record


SEEN = Exchange("s", "t", 1, 2, 3, 4, 5, 6)


def test_an_exchange() -> None:
    assert read_message(EXCHANGE, through_json(exchange_message(SEEN))) == SEEN


@pytest.mark.parametrize(
    "told", [None, [], ["s", "t"], ["s", "t", *range(7)], ["s", "t", *"123456"],
             ["s", "t", 10**30, 2, 3, 4, 5, 6]],
)  # fmt: skip
def test_what_is_no_exchange(told: object) -> None:
    message = exchange_message(SEEN) | {"exchange": told}
    assert isinstance(read_message(EXCHANGE, message), Malformed)


def test_a_clock_says_late_only_where_it_is() -> None:
    assert clock_message(clock(1.0, 0.5)) == {"offset_ms": 1_000.0, "error_ms": 500.0}
    assert clock_message(clock(1.0, 0.5, late=True)) == {
        "offset_ms": 1_000.0,
        "error_ms": 500.0,
        "late": True,
    }


GOOD = event_message("s", "0/1", None, None, ROW)
BEAT = heartbeat_message("s", 5, "0/1", None)


@pytest.mark.parametrize(
    ("kind", "message", "reason"),
    [
        (EVENT, None, "message is not an object"),
        (EVENT, [1], "message is not an object"),
        (EVENT, {}, "envelope version is unknown: None"),
        (EVENT, GOOD | {"v": "1"}, "envelope version is unknown: '1'"),
        (EVENT, GOOD | {"server": ""}, "server is absent"),
        (EVENT, GOOD | {"server": 4}, "server is absent"),
        (EVENT, GOOD | {"row": None}, "event cannot be read: AttributeError"),
        (EVENT, GOOD | {"row": {}}, "call_id is absent"),
        (EVENT, {"v": 1, "server": "s"}, "event cannot be read: KeyError"),
        (EVENT, GOOD | {"clock": 5}, "event cannot be read: AttributeError"),
        (EVENT, GOOD | {"clock": {}}, "event cannot be read: KeyError"),
        (EVENT, GOOD | {"clock": {"offset_ms": "x", "error_ms": 0}}, "event cannot be read"),
        (EVENT, GOOD | {"clock": {"offset_ms": 1e300, "error_ms": 0}}, "event cannot be read"),
        (HEARTBEAT, BEAT | {"progress_us": None}, "heartbeat cannot be read"),
        (HEARTBEAT, BEAT | {"progress_us": "9" * 30}, "heartbeat cannot be read"),
        (HEARTBEAT, BEAT | {"progress_us": 10**30}, "heartbeat cannot be read"),
        (HEARTBEAT, BEAT | {"progress_us": 1e30}, "heartbeat cannot be read"),
        (GAP, gap_message(GAP_OF_S) | {"from_us": -(10**30)}, "gap cannot be read"),
        (GAP, gap_message(GAP_OF_S) | {"to_us": [1]}, "gap cannot be read"),
        (REFERENCE_ASKED, {"v": 1}, "reference_asked cannot be read"),
        ("strange", GOOD, "kind is unknown: 'strange'"),
        ("", GOOD, "kind is unknown: ''"),
    ],
)
def test_what_cannot_be_read_is_malformed(kind: str, message: object, reason: str) -> None:
    record = read_message(kind, message)
    assert isinstance(record, Malformed)
    assert record.reason.startswith(reason)
    assert len(record.reason) < 200
    assert record.raw == message


def test_whatever_is_read_can_be_written_with_the_state() -> None:
    """The stream app writes a partition's state with orjson: 64 bits and no more."""
    limit = 2**60
    extreme = {"offset_ms": float(2**49), "error_ms": float(2**49)}
    door = processor("s")
    for sign in (1, -1):
        for kind, message in (
            (HEARTBEAT, BEAT | {"progress_us": sign * limit}),
            (HEARTBEAT, BEAT | {"progress_us": sign * limit, "clock": extreme}),
            (GAP, gap_message(GAP_OF_S) | {"from_us": -limit, "to_us": sign * limit}),
            (EVENT, GOOD | {"clock": extreme, "row": ROW | {"id": sign * (2**63 - 1)}}),
        ):
            record = read_message(kind, json.loads(json.dumps(message)))
            assert not isinstance(record, Malformed)
            door.feed([record])
            orjson.dumps(door.snapshot())
    for _, state in door._calls.all():
        orjson.dumps(state.to_wire())
