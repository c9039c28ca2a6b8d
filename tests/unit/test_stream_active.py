"""Who is talking now: what counts, what the table is told, and the XML."""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree

import pytest

from callstate.call import STATE_VERSION, CallState
from stream_app.active_calls import active_call
from stream_app.active_http import active_xml, of_user
from stream_app.call_store import PartitionCalls, encode_call
from stream_app.sink import ActiveRow
from tests.calls import DAY, events, iso, row, us

TALKING = (row("R", 0, from_url='"A & B" <sip:201@x>;tag=a'), row("S", 2))


def state(*rows: dict[str, Any]) -> CallState:
    made = CallState()
    made.add(events(*rows))
    return made


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


def test_a_call_id_that_fits_into_no_index_keeps_nobody_out_of_the_table() -> None:
    assert active_call("c" * 500, state(*TALKING)) is not None
    assert active_call("c" * 3_000, state(*TALKING)) is None


def partition(**states: CallState) -> PartitionCalls:
    calls = PartitionCalls({}, decoded_max=0)
    note(calls, **states)
    return calls


def note(calls: PartitionCalls, **states: CallState | None) -> None:
    for name, one in states.items():
        if one is None:
            calls.delete(name)
        else:
            calls.put(name, one)
    calls.take_changes()


def test_the_table_is_told_of_differences_only() -> None:
    calls = partition(one=state(*TALKING))
    first = calls.take_active_change()
    assert first is not None
    assert (first.clear, first.gone, [call.call_id for call in first.calls]) == (True, [], ["one"])
    assert calls.take_active_change() is None
    note(calls, rings=state(TALKING[0]))
    assert calls.take_active_change() is None
    note(calls, brief=state(*TALKING))
    note(calls, brief=None, one=None)
    change = calls.take_active_change()
    assert change is not None
    assert (change.clear, sorted(change.gone), change.calls) == (False, ["brief", "one"], [])
    note(calls, two=state(*TALKING))
    calls.take_active_change()
    calls.active.tell_all_again()
    again = calls.take_active_change()
    assert again is not None
    assert (again.clear, [call.call_id for call in again.calls]) == (True, ["two"])


def test_a_partition_without_calls_clears_what_another_worker_told() -> None:
    calls = PartitionCalls({}, decoded_max=0)
    change = calls.take_active_change()
    assert change is not None
    assert (change.clear, change.gone, change.calls) == (True, [], [])
    assert calls.take_active_change() is None


def test_very_many_calls_are_told_in_portions() -> None:
    names = [f"call-{number:04}" for number in range(2_300)]
    encoded = encode_call(state(*TALKING))
    calls = PartitionCalls(dict.fromkeys(names, encoded), decoded_max=0)
    portions = []
    for change in iter(calls.take_active_change, None):
        portions.append(change)
        if len(portions) == 1:  # calls come and go while they are told
            again = {name: state(*TALKING) for name in ("new", names[1_500])}
            note(calls, **{names[2_299]: None}, **again)
    assert [(each.clear, len(each.calls), each.gone) for each in portions] == [
        (True, 1_000, []),
        (False, 1_000, [names[2_299]]),
        (False, 300, []),
    ]
    told = {call.call_id for each in portions for call in each.calls}
    assert sorted(told) == [*names[:2_299], "new"]


def test_a_backlog_does_not_pile_up_what_is_to_be_told() -> None:
    calls = PartitionCalls({}, decoded_max=0)
    assert calls.take_active_change() is not None
    talking = state(*TALKING)
    for number in range(25_000):
        calls.put(f"call-{number}", talking)
    calls.take_changes()
    assert len(calls.active._changed) <= 10_000
    portions = list(iter(calls.take_active_change, None))
    assert [each.clear for each in portions] == [True] + [False] * (len(portions) - 1)
    told = {call.call_id for each in portions for call in each.calls}
    assert told == {f"call-{number}" for number in range(25_000)}


def test_calls_that_are_read_back_are_active_again_and_not_read_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded = encode_call(state(*TALKING))
    ringing = encode_call(state(TALKING[0]))
    table = {"call": encoded, "broken": encoded[:-9], "rings": ringing}
    calls = PartitionCalls(table, decoded_max=0)
    with monkeypatch.context() as patch:
        patch.setattr("stream_app.call_store.decode_call", None)
        assert list(calls.deadlines(us(100))) == []
        assert calls.active.oldest_us() == us(0)
        assert list(calls.talking()) == ["call", "broken"]
    change = calls.take_active_change()
    assert change is not None
    assert ([call.call_id for call in change.calls], change.gone) == (["call"], ["broken"])


def test_what_an_older_version_wrote_is_active_again() -> None:
    talking, ringing = (
        b"\x02" + struct.pack(">B?q", STATE_VERSION, talks, 5) + encode_call(one)[18:]
        for talks, one in ((True, state(*TALKING)), (False, state(TALKING[0])))
    )
    calls = PartitionCalls({"call": talking, "rings": ringing}, decoded_max=0)
    assert list(calls.deadlines(us(100))) == []
    assert calls.active.oldest_us() == us(0)
    change = calls.take_active_change()
    assert change is not None
    assert [call.call_id for call in change.calls] == ["call"]


def test_the_oldest_call_is_the_one_that_began_first() -> None:
    calls = PartitionCalls({}, decoded_max=0)
    assert calls.active.oldest_us() is None
    later = state(row("R", 57), row("S", 62))
    note(calls, first=state(*TALKING), later=later, rings=state(row("R", -100)))
    assert calls.active.oldest_us() == us(0)
    note(calls, first=state(*TALKING, row("S", 3)))  # heard of again: not younger for that
    assert calls.active.oldest_us() == us(0)
    note(calls, first=None)
    assert calls.active.oldest_us() == us(50)  # to ten seconds
    note(calls, later=None)
    assert calls.active.oldest_us() is None


def test_the_oldest_call_is_known_after_a_restart() -> None:
    table: dict[str, bytes] = {}
    for at in (900, 0, 500, *range(1_000, 1_020)):  # as the changelog has them
        one = state(row("R", at), row("S", at + 2))
        one.deadline_us = us(at + 28_800)
        table[f"at {at}"] = encode_call(one)
    calls = PartitionCalls(table, decoded_max=0)
    assert len(list(calls.deadlines(us(40_000)))) == 23
    assert calls.active.oldest_us() == us(0)
    note(calls, **{"at 0": None})
    assert calls.active.oldest_us() == us(500)


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
