"""Who is talking now: what counts, what the table is told, and the XML."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from callstate.call import CallState
from stream_app.active_calls import ActiveCalls, active_call
from stream_app.active_http import active_xml, of_user
from stream_app.call_store import PartitionCalls, encode_call
from stream_app.sink import ActiveRow
from tests.calls import DAY, events, iso, row, us

TALKING = (row("R", 0, from_url='"A & B" <sip:201@x>;tag=a'), row("S", 2))


def state(*rows: dict[str, Any]) -> CallState:
    made = CallState()
    made.add(events(*rows))
    return made


TALKING_STATES = {name: state(*TALKING) for name in ("one", "two", "brief")}


def test_an_answered_call_is_active_until_it_ends() -> None:
    call = active_call("call", state(*TALKING))
    assert call is not None
    assert call[1:] == ('"A & B" <sip:201@x>', "<sip:b@x>", "<sip:b@10.0.0.1>", iso(0), iso(2))
    ended = row("E", 12, cseq=2, by_callee=True)
    assert active_call("call", state(*TALKING, ended)) is None
    assert active_call("call", state(*TALKING, row("S", 3, callee="c"), ended)) is not None
    assert active_call("call", state(TALKING[0])) is None
    closed = state(*TALKING)
    closed.closed = True
    assert active_call("call", closed) is None


def test_the_table_is_told_of_differences_only() -> None:
    active = ActiveCalls()
    active.note("one", state(*TALKING))
    first = active.take_change(TALKING_STATES.get)
    assert first is not None
    assert (first.clear, first.gone, [call.call_id for call in first.calls]) == (True, [], ["one"])
    assert active.take_change(TALKING_STATES.get) is None
    active.note("one", state(*TALKING))
    assert active.take_change(TALKING_STATES.get) is None
    active.note("brief", state(*TALKING))
    active.note("brief", None)
    active.note("one", None)
    change = active.take_change(TALKING_STATES.get)
    assert change is not None
    assert (change.clear, sorted(change.gone), change.calls) == (False, ["brief", "one"], [])
    active.note("two", state(*TALKING))
    active.take_change(TALKING_STATES.get)
    active.tell_all_again()
    again = active.take_change(TALKING_STATES.get)
    assert again is not None
    assert (again.clear, [call.call_id for call in again.calls]) == (True, ["two"])


def test_very_many_calls_are_told_in_portions() -> None:
    active = ActiveCalls()
    talking = state(*TALKING)
    names = [f"call-{number:04}" for number in range(2_300)]
    active.note_unread(names)
    portions = []
    while (change := active.take_change(lambda _: talking)) is not None:
        portions.append(change)
    assert [(each.clear, len(each.calls)) for each in portions] == [
        (True, 1_000),
        (False, 1_000),
        (False, 300),
    ]
    assert [call.call_id for each in portions for call in each.calls] == names
    active.note(names[0], state(*TALKING, row("S", 3)))
    [again] = iter(lambda: active.take_change(lambda _: talking), None)
    assert [call.call_id for call in again.calls] == [names[0]]


def test_calls_that_are_read_back_are_active_again_and_not_read_for_it() -> None:
    encoded = encode_call(state(*TALKING), is_active=True)
    calls = PartitionCalls({"call": encoded, "broken": encoded[:-9]}, decoded_max=0)
    assert list(calls.deadlines()) == []
    assert set(calls.active.now) == {"call", "broken"}
    change = calls.active.take_change(calls.peek)
    assert change is not None
    assert ([call.call_id for call in change.calls], change.gone) == (["call"], ["broken"])


def test_the_oldest_call_is_the_one_that_was_answered_first() -> None:
    calls = PartitionCalls({}, decoded_max=0)
    assert calls.oldest_us() is None
    later = state(row("R", 50), row("S", 52))
    ringing = state(row("R", -100))
    for name, one in (("first", state(*TALKING)), ("later", later), ("rings", ringing)):
        calls.put(name, one)
    calls.take_changes()
    assert calls.oldest_us() == us(0)
    calls.put("first", state(*TALKING, row("S", 3)))  # heard of again: not younger for that
    calls.take_changes()
    assert calls.oldest_us() == us(0)
    calls.delete("first")
    calls.take_changes()
    assert calls.oldest_us() == us(50)


def test_the_oldest_call_is_known_after_a_restart() -> None:
    table: dict[str, bytes] = {}
    for at in (900, 0, 500, *range(1_000, 1_020)):  # as the changelog has them
        one = state(row("R", at), row("S", at + 2))
        one.deadline_us = us(at + 28_800)
        table[f"at {at}"] = encode_call(one, is_active=True)
    calls = PartitionCalls(table, decoded_max=0)
    assert len(list(calls.deadlines())) == 23
    assert calls.oldest_us() == us(0)


def told(caller: str, callee: str = "<sip:202@x>") -> ActiveRow:
    return ActiveRow("c", caller, callee, "<sip:202@h>", DAY, DAY + timedelta(seconds=2))


def test_the_xml_is_what_it_always_was() -> None:
    xml = active_xml([told('"<evil> & \x01" <sip:201@x>')], DAY + timedelta(seconds=62))
    [cdr] = ElementTree.fromstring(xml)
    assert [(child.tag, child.text) for child in cdr] == [
        ("from", '"<evil> & \ufffd" <sip:201@x>'),
        ("to", "<sip:202@x>"),
        ("recipient", "<sip:202@h>"),
        ("start_time", str(int(DAY.timestamp() * 1_000))),
        ("duration", "60000"),
    ]
    assert active_xml([], datetime.now(UTC)) == "<cdrs></cdrs>"


@pytest.mark.parametrize(("user", "count"), [("201", 1), ("202", 2), ("20", 0)])
def test_a_users_calls(user: str, count: int) -> None:
    assert len(of_user([told("<sip:201@x>"), told("<sip:203@x>")], user)) == count
