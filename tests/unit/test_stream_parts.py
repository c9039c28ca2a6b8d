"""The small parts: the calls' store, the changelog's bytes, room, watchdog, settings."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import orjson
import pytest
from aiokafka.partitioner import murmur2

from callstate.call import CallState
from callstate.events import Clock, read_row
from stream_app import changelog
from stream_app.batches import Room
from stream_app.call_store import PartitionCalls, decode_call, encode_call
from stream_app.changelog import PARTITION_KEY, Restored, changelog_record
from stream_app.errors import SettingsError, StreamAppError
from stream_app.settings import WorkerSettings, faust_broker, faust_credentials
from stream_app.watchdog import Movement, Shortening
from tests.calls import iso


def state(call_id: str, events: int = 1) -> CallState:
    made = CallState()
    for n in range(events):
        row = {"id": n, "call_id": call_id, "event_type": "R", "event_time": iso(n)}
        made.apply(read_row("a", row), 100)
    return made


# -- calls -----------------------------------------------------------------------------------------


def test_a_call_is_the_same_object_until_it_is_cut() -> None:
    calls = PartitionCalls({}, decoded_max=10)
    first = state("c")
    calls.put("c", first)
    assert calls.get("c") is first
    assert [change[0] for change in calls.take_changes()] == ["c"]
    assert calls.get("c") is first
    assert calls.take_changes() == []


def test_what_is_not_recent_is_decoded_again() -> None:
    table: dict[str, bytes] = {}
    calls = PartitionCalls(table, decoded_max=1)
    for name in ("a", "b", "c"):
        calls.put(name, state(name, events=2))
    assert len(calls.take_changes()) == 3
    again = calls.get("a")
    assert again is not None
    assert encode_call(again) == table["a"]
    told = decode_call(table["b"])
    assert told is not None
    assert len(told.events) == 2
    assert calls.get("nobody") is None
    assert sorted(name for name, _ in calls.items()) == ["a", "b", "c"]


def test_states_that_older_versions_wrote_are_read() -> None:
    """Version 1 was plain JSON, with each event's lateness and clock before its columns."""
    held = state("c", events=2)
    held.closed = True
    late = read_row("a", {"id": 9, "call_id": "c", "event_type": "E", "event_time": iso(9)})
    held.apply(late._replace(clock=Clock(False, 5, 7)), 100)
    *head, _, _, _ = held.to_wire()[1:]
    events = [
        [event.id == 9, event.clock and list(event.clock), *event[:-1]]
        for event in held.events.values()
    ]
    again = decode_call(orjson.dumps([1, *head, events]))
    assert again is not None
    assert again.to_wire() == held.to_wire()
    assert again.late == frozenset((("a", 9),))
    assert len(encode_call(held)) < len(orjson.dumps(held.to_wire()))


def test_one_broken_state_is_left_away(caplog: pytest.LogCaptureFixture) -> None:
    calls = PartitionCalls(
        {"good": encode_call(state("good")), "bad": b"\x01\x00", "worse": b"{"}, 10
    )
    assert [name for name, _ in calls.items()] == ["good"]
    assert calls.get("bad") is None
    assert [record.message for record in caplog.records] == ["call_state_unreadable"] * 2


def test_deleted_calls_leave_a_tombstone_if_they_were_ever_written() -> None:
    table: dict[str, bytes] = {}
    calls = PartitionCalls(table, decoded_max=10)
    calls.put("kept", state("kept"))
    calls.take_changes()
    calls.delete("kept")
    calls.put("brief", state("brief"))
    calls.delete("brief")
    assert calls.get("kept") is None
    assert list(calls.items()) == []
    assert calls.take_changes() == [("kept", None)]
    assert table == {}


# -- changelog -------------------------------------------------------------------------------------


class Read:
    """A confluent message, as far as reading back looks at it."""

    def __init__(self, key: bytes | None, value: bytes | None) -> None:
        self._key, self._value = key, value

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value


def read_back(*records: tuple[int, bytes, bytes | None]) -> Restored:
    restored = Restored()
    for epoch, key, payload in records:
        record = changelog_record("t", 0, epoch, key, payload)
        message: Any = Read(record.key, record.value)
        changelog._apply(restored, message)
    return restored


def test_reading_back_gives_the_newest_of_each_key() -> None:
    restored = read_back(
        (1, b"a", b"a1"), (1, b"b", b"b1"), (1, PARTITION_KEY, b"s1"), (1, b"a", None),
        (2, b"b", b"b2"), (2, PARTITION_KEY, b"s2"),
    )  # fmt: skip
    assert restored.calls == {"b": b"b2"}
    assert restored.state == b"s2"
    assert restored.epoch == 2


def test_a_record_of_a_worker_that_woke_too_late_is_ignored() -> None:
    restored = read_back((1, b"a", b"old"), (2, b"a", b"new"), (1, b"a", b"zombie"))
    assert restored.calls == {"a": b"new"}
    assert restored.zombie_records == 1


def test_a_changelog_of_a_newer_format_is_refused() -> None:
    message: Any = Read(b"a", b"\x63" + bytes(8) + b"{}")
    with pytest.raises(StreamAppError, match="format 99"):
        changelog._apply(Restored(), message)


# -- room ------------------------------------------------------------------------------------------


async def test_room_counts_what_is_queued_and_held() -> None:
    room = Room(10)
    assert await room.wait(0.01)
    room.fetched(1, 12)
    assert not await room.wait(0.01)
    room.taken(1, 12, held=True)
    assert not await room.wait(0.01)
    waiting = asyncio.create_task(room.wait(5))
    await asyncio.sleep(0)
    room.let_go(12)
    assert await waiting
    assert room.records == 0


async def test_room_forgets_what_a_rebalance_threw_away() -> None:
    room = Room(10)
    room.fetched(1, 20)
    room.fetched(2, 3)
    assert room.records == 3
    room.taken(1, 20, held=False)
    assert room.records == 3
    room.taken(2, 3, held=False)
    assert room.records == 0
    room.fetched(2, 20)
    room.emptied()
    assert await room.wait(0.01)


# -- watchdog --------------------------------------------------------------------------------------


def test_only_lag_without_movement_is_a_stall() -> None:
    movement = Movement(stall_seconds=10)
    assert movement.stalled(0, {0: (5, 9), 1: (9, 9), 2: (1, None)}, excused=False) == []
    assert movement.stalled(9, {0: (5, 9), 1: (9, 9), 2: (1, None)}, excused=False) == []
    assert movement.stalled(10, {0: (5, 9), 1: (9, 9), 2: (1, None)}, excused=False) == [0]
    assert movement.stalled(11, {0: (6, 9), 1: (9, 10)}, excused=False) == []
    assert movement.stalled(30, {0: (6, 9), 1: (9, 10)}, excused=True) == []
    assert movement.stalled(39, {0: (6, 9)}, excused=False) == []
    assert movement.stalled(41, {1: (9, 10)}, excused=False) == [], "another worker has 0 now"


# -- settings --------------------------------------------------------------------------------------


def settings(**more: Any) -> WorkerSettings:
    return WorkerSettings(**{"bootstrap_servers": "h:1, g:2", "sink_dsn": "x", **more})


def test_only_a_log_that_stays_shorter_is_another_one() -> None:
    shortening = Shortening(5.0)
    assert shortening.shortened(0, {0: (7, 7), 1: (7, 9), 2: (7, None), 3: (7, 6)}) == []
    assert shortening.shortened(4, {3: (7, 7)}) == [], "its new leader knows more by now"
    assert shortening.shortened(5, {3: (7, 6)}) == []
    assert shortening.shortened(9, {3: (7, 6)}) == []
    assert shortening.shortened(10, {3: (7, 6)}) == [3]


def test_bad_settings_name_the_setting_and_what_is_allowed() -> None:
    with pytest.raises(SettingsError, match=r"partitions = 0: must be from 1 to 1000"):
        settings(partitions=0)
    with pytest.raises(SettingsError, match="sink_dsn is empty"):
        settings(sink_dsn="")
    with pytest.raises(SettingsError, match="must be from 6"):
        settings(session_timeout_seconds=1)


def test_librdkafka_names_with_dots_or_underscores() -> None:
    made = settings(kafka={"security_protocol": "ssl", "ssl.ca.file": "/ca"})
    assert made.librdkafka(linger_ms=3) == {
        "security.protocol": "ssl",
        "ssl.ca.location": "/ca",
        "bootstrap.servers": "h:1, g:2",
        "linger.ms": 3,
    }
    assert faust_broker(made) == ["kafka://h:1", "kafka://g:2"]
    assert made.changelog_topic == "cdrstream-open_calls-changelog"
    assert made.dead_letter_topic == "sipx.call-state-events.dead-letter"


def test_security_is_translated_for_faust() -> None:
    assert faust_credentials(settings()) is None
    sasl = faust_credentials(
        settings(
            kafka={
                "security_protocol": "sasl_ssl",
                "sasl_mechanism": "SCRAM-SHA-512",
                "sasl_username": "u",
                "sasl_password": "p",
                "enable_ssl_certificate_verification": False,
            }
        )
    )
    assert (sasl.username, sasl.password, sasl.mechanism.value) == ("u", "p", "SCRAM-SHA-512")
    assert sasl.ssl_context.verify_mode is ssl.CERT_NONE
    with pytest.raises(SettingsError, match=r"sasl.mechanism = 'GSSAPI'"):
        faust_credentials(
            settings(kafka={"security.protocol": "sasl_ssl", "sasl.mechanism": "GSSAPI"})
        )


@pytest.mark.parametrize("key", [b"", b"a", b"ab", b"abc", b"abcd", b"4d6eec3c95d8@10.1.6.218"])
def test_murmur2_of_aiokafka_is_that_of_java(key: bytes) -> None:
    """Java's `Utils.murmur2`, written down again; the broker test compares librdkafka with it."""
    assert murmur2(key) & 0x7FFFFFFF == reference_murmur2(key) & 0x7FFFFFFF


def reference_murmur2(data: bytes) -> int:
    mask, magic = 0xFFFFFFFF, 0x5BD1E995
    value = 0x9747B28C ^ len(data)
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * magic & mask
        word = (word ^ word >> 24) * magic & mask
        value = (value * magic & mask) ^ word
    rest = data[whole:]
    if rest:
        value = (value ^ int.from_bytes(rest, "little")) * magic & mask
    value = (value ^ value >> 13) * magic & mask
    return value ^ value >> 15
