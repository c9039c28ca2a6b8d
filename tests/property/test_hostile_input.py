"""What strangers send: a CDR with what can be saved or a dead letter, never an exception."""

from __future__ import annotations

import json
import re
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from callstate.effects import DeadLetter, EmitCdr, HideCall
from callstate.envelope import EVENT, GAP, HEARTBEAT, Malformed, Record, read_message
from callstate.events import BadRow, CallEvent, format_time, parse_time_us, read_row, row_of
from callstate.headers import (
    address_of_record,
    contact_without_parameters,
    is_music_on_hold,
    user_part,
)
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from ops.row_files import read_line
from tests.calls import beat, processor, row, with_references, written

texts = st.text(st.characters(), max_size=40) | st.sampled_from(
    (
        "<sip:a@h>;tag=1",
        '"; tag=x" <sip:a@h>',
        "\x00",
        "\ud800",
        "\u202e",
        "=cmd()",
        "';--",
        "<" * 9,
    )
)
numbers = st.one_of(
    st.integers(), st.sampled_from((2**31, 2**63, 2**64, -(2**63), 10**400)), st.floats(), texts
)
anything: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
times = st.one_of(
    st.sampled_from(
        (
            "infinity",
            "-infinity",
            "0044-03-15 00:00:00 BC",
            "2024-02-30T00:00:00Z",
            "9999-12-31T23:59:59.999999-14:00",
            "0001-01-01T00:00:00+14:00",
            "2024-03-04 09:00:00.123",
            "20240304T090000",
            "2024-03-04",
            "",
        )
    ),
    st.datetimes().map(str),
    anything,
)
COLUMNS = (
    "id", "observer", "event_seq", "event_type", "cseq", "call_id", "from_tag", "to_tag",
    "from_url", "to_url", "contact", "refer_to", "referred_by", "failure_status",
    "failure_reason", "request_uri", "reference", "caller_internal", "callee_route",
    "branch_id", "via_count", "unknown_column",
)  # fmt: skip


@st.composite
def hostile_rows(draw: st.DrawFn) -> dict[str, Any]:
    """A good row of which some columns are not."""
    told = row(draw(st.sampled_from("RSFTE")), draw(st.integers(0, 300)), call_id="bad")
    for column in draw(st.sets(st.sampled_from(COLUMNS), max_size=4)):
        told[column] = draw(anything)
    if draw(st.booleans()):
        told["event_time"] = draw(times)
    for column in draw(st.sets(st.sampled_from(sorted(told)), max_size=2)):
        del told[column]
    return told


GOOD = (row("R", 0), row("S", 5), row("E", 65, cseq=2))


@given(st.lists(hostile_rows(), max_size=8), st.data())
def test_bad_rows_disturb_no_other_call(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    lines = [json.dumps(told).encode() for told in rows]
    good = [json.dumps({"id": -number} | told).encode() for number, told in enumerate(GOOD, 1)]
    log = data.draw(st.permutations([*lines, *good]))
    records = [record for line in log if (record := read_line(line, "s")) is not None]
    records = [one for one in records if not (_same_row(one) or _same_call(one, good))]
    door = processor("s")
    effects = [*with_references(door, [*records, beat("s", 1e6)]), *door.finish()]
    assert written(effects)["call"]["end_time"] == "2024-03-04T09:01:05.000000Z"
    for effect in effects:
        _can_be_written(effect)


def _same_row(record: Record) -> bool:
    """A bad row that takes the identity of a good one is another matter."""
    return type(record) is CallEvent and record.id in (-1, -2, -3) and record.call_id != "call"


def _same_call(record: Record, good: list[bytes]) -> bool:
    """As is one that claims to be of the good call."""
    return (
        type(record) is CallEvent
        and record.call_id == "call"
        and not any(read_line(line, "s") == record for line in good)
    )


def _can_be_written(effect: object) -> None:
    """As JSON, as PostgreSQL takes it: neither NUL nor lone surrogates."""
    if isinstance(effect, EmitCdr):
        told = json.dumps([effect.cdr.columns(), effect.provenance.to_json()], ensure_ascii=False)
        told.encode()
        assert "\\u0000" not in told
        assert effect.cdr.failure_status is None or -(2**15) <= effect.cdr.failure_status < 2**15
    elif isinstance(effect, HideCall):
        json.dumps(effect.provenance.to_json(), ensure_ascii=False).encode()
    elif isinstance(effect, DeadLetter):
        json.dumps(effect.raw)


@given(hostile_rows())
def test_a_row_is_an_event_or_has_a_reason(told: dict[str, Any]) -> None:
    try:
        event = read_row("s", told)
    except BadRow as bad:
        assert bad.args[0]
        return
    assert event.call_id
    if event.time_us == parse_time_us(format_time(event.time_us)):  # a year that can be written
        assert read_row("s", row_of(event)) == event
    assert not any("\x00" in value for value in event if isinstance(value, str))


@given(times)
def test_a_time_is_a_time_or_has_a_reason(told: object) -> None:
    try:
        parse_time_us(told)
    except BadRow as bad:
        assert bad.args[0]


@given(
    st.sampled_from((EVENT, HEARTBEAT, GAP, "reference_asked", "reference_known", "x")), st.data()
)
def test_any_message_is_a_record(kind: str, data: st.DataObject) -> None:
    members = ("v", "server", "lsn", "clock", "row", "progress_us", "from_us", "to_us", "call_id")
    message = data.draw(st.dictionaries(st.sampled_from(members), anything) | anything)
    if isinstance(message, dict) and data.draw(st.booleans()):
        message |= {"v": 1, "server": "s"}
        if data.draw(st.booleans()):
            message["clock"] = data.draw(
                st.fixed_dictionaries({"offset_ms": numbers, "error_ms": numbers})
            )
            message["row"] = data.draw(hostile_rows())
            message["progress_us"] = data.draw(numbers)
    record = read_message(kind, message)
    if isinstance(record, Malformed):
        assert record.reason
    door = PartitionProcessor(processor("s", "t").config, DictStore())
    for effect in [*door.feed([record, beat("t", 1e6), beat("s", 1e6)]), *door.finish()]:
        _can_be_written(effect)


@given(st.binary(max_size=60))
@example(b"\xef\xbb\xbf{}")
@example(b"[" * 100_000)
@example(b'{"v":1,"row":null}')
@example(b'{"v":1,"server":"s","progress_us":1e999}')
@example(b'{"a":' + b"9" * 5_000 + b"}")
def test_any_line_is_a_record_or_empty(line: bytes) -> None:
    record = read_line(line, None)
    assert record is None or isinstance(record, tuple)


@given(texts)
@example("<" * 1_000)
@example('"' * 1_001 + "<sip:a@h>;tag=1")
@example("\\" * 1_001)
def test_reading_of_headers_is_total(header: str) -> None:
    address = address_of_record(header)
    assert address.rstrip(">") in header or address == header
    contact_without_parameters(header)
    assert user_part(header) in header
    assert is_music_on_hold(header) == ("~~mh~" in user_part(header))


@given(texts.filter(lambda text: not re.search(r'["\\<>]', text)))
def test_what_is_inside_a_display_name_is_no_tag(name: str) -> None:
    header = f'"{name};tag=no" <sip:a@h>'
    assert address_of_record(f"{header};tag=yes") == header
