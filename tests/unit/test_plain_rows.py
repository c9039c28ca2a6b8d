"""The short way from bytes to an event and the tolerant one make the same event."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callstate.envelope import EVENT, Malformed, event_message, read_message
from callstate.events import COLUMNS, BadRow, Clock, read_row
from callstate.plain_rows import event_of_line, event_of_message

ROW: dict[str, Any] = {
    "id": 7,
    "observer": "proxy1.example.com:5060",
    "event_seq": 1,
    "event_time": "2024-03-04T09:00:00.263000Z",
    "event_type": "R",
    "cseq": 41479,
    "call_id": "one@example.com",
    "from_tag": "5091af6d",
    "to_tag": "",
    "from_url": '"Bob" <sip:200@example.com>;tag=5091af6d',
    "to_url": "<sip:260@example.com>",
    "contact": "<sip:200@10.2.6.42:5060>",
    "refer_to": "",
    "referred_by": "",
    "failure_status": 0,
    "failure_reason": "",
    "request_uri": "",
    "reference": "",
    "caller_internal": False,
    "callee_route": "",
    "branch_id": "z9hG4bKec3da490",
    "via_count": 1,
}
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "0", "12", "R", "\x00", "2024-03-04 09:00:00+00", "infinity", [], {}]),
)


def tolerantly(line: bytes) -> Any:
    try:
        return read_row("a", orjson.loads(line))
    except (BadRow, orjson.JSONDecodeError):
        return None


def test_a_plain_row_goes_the_short_way() -> None:
    line = orjson.dumps(ROW)
    assert event_of_line(line, "a") == tolerantly(line) is not None


@pytest.mark.parametrize("column", sorted(set(COLUMNS) - {"call_id", "event_type", "event_time"}))
def test_absent_and_null_are_read_alike_and_still_the_short_way(column: str) -> None:
    null = orjson.dumps({**ROW, column: None})
    absent = orjson.dumps({name: value for name, value in ROW.items() if name != column})
    assert event_of_line(null, "a") == event_of_line(absent, "a") == tolerantly(null) is not None


@given(st.dictionaries(st.sampled_from([*COLUMNS, "unknown", "row"]), VALUES, max_size=4))
def test_what_is_read_the_short_way_is_what_the_tolerant_way_reads(changed: dict[str, Any]) -> None:
    line = json.dumps({**ROW, **changed}).encode()
    short = event_of_line(line, "a")
    assert short is None or short == tolerantly(line)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{",
        b'{"call_id":"a"}',
        orjson.dumps(ROW)[:-1] + b',"row":{}}',
        orjson.dumps(ROW).replace(b"Bob", b"B\xff"),
        orjson.dumps(ROW).replace(b"Bob", b"\\ud800"),
        orjson.dumps({**ROW, "cseq": "5"}),
        orjson.dumps({**ROW, "id": 2**63}),
        orjson.dumps({**ROW, "event_type": "Z"}),
    ],
)
def test_what_is_not_plain_is_left_to_the_tolerant_way(line: bytes) -> None:
    assert event_of_line(line, "a") is None


@pytest.mark.parametrize("clock", [None, Clock(False, 1_500, -250_000), Clock(True, 10, 0)])
def test_a_message_goes_the_short_way_too(clock: Clock | None) -> None:
    message = orjson.dumps(event_message("a", "0/1", None, clock, ROW))
    short = event_of_message(message)
    assert short == read_message(EVENT, orjson.loads(message))
    assert short is not None
    assert short.clock == clock


@pytest.mark.parametrize("change", [{"v": 2}, {"server": ""}, {"row": []}, {"clock": {}}])
def test_a_message_that_is_not_plain_is_left_to_the_tolerant_way(change: dict[str, Any]) -> None:
    message = {**event_message("a", "0/1", None, None, ROW), **change}
    assert event_of_message(orjson.dumps(message)) is None
    assert isinstance(read_message(EVENT, message), Malformed)


def test_whose_the_row_is_may_stand_in_it() -> None:
    nobodys = orjson.dumps({**ROW, "server": "b"})
    assert getattr(event_of_line(nobodys, None), "server", "") == "b"
    observed = event_of_line(orjson.dumps(ROW), None)
    assert observed is not None
    assert observed.server == ROW["observer"]
    assert event_of_line(orjson.dumps({**ROW, "observer": ""}), None) is None
