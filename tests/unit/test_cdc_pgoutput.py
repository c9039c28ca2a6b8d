"""Messages of the replication stream, built by hand, and the envelopes that come of them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from callstate.envelope import event_message
from callstate.events import Clock
from cdc.lsn import lsn_text, parse_lsn
from cdc.pgoutput import Chunk, Decoder, ProtocolError, Route
from cdc.rows import ABSENT, BadTuple, Column, RowEncoder, read_tuple

COLUMNS = [
    ("id", 20),
    ("observer", 25),
    ("event_time", 1114),
    ("call_id", 25),
    ("caller_internal", 16),
    ("via_count", 21),
]
ROUTES = {
    "call_state_events": Route("events", "call_id"),
    "observer_state_events": Route("observers", None),
}
RELATION = 16_400
COMMIT_US = 762_858_000_431_000  # 2024-03-04T09:00:00.431, counted from 2000


def xlog(body: bytes) -> bytes:
    return b"w" + struct.pack(">QQQ", 1, 2, 3) + body


def relation(
    columns: Sequence[tuple[str, int]] = COLUMNS,
    name: str = "call_state_events",
    oid: int = RELATION,
) -> bytes:
    body = b"R" + struct.pack(">I", oid) + b"public\0" + name.encode() + b"\0d"
    body += struct.pack(">H", len(columns))
    for column, kind in columns:
        body += b"\0" + column.encode() + b"\0" + struct.pack(">Ii", kind, -1)
    return xlog(body)


def tuple_data(values: Sequence[object]) -> bytes:
    data = b""
    for value in values:
        if value is None:
            data += b"n"
        elif value is ABSENT:
            data += b"u"
        else:
            text = value if isinstance(value, bytes) else str(value).encode()
            data += b"t" + struct.pack(">I", len(text)) + text
    return data


def insert(*values: object, oid: int = RELATION) -> bytes:
    head = b"I" + struct.pack(">I", oid) + b"N" + struct.pack(">H", len(values))
    return xlog(head + tuple_data(values))


def begin(lsn: int = 0x16_B374D848) -> bytes:
    return xlog(b"B" + struct.pack(">QQI", lsn, COMMIT_US, 7))


def commit(end: int = 0x16_B374D878) -> bytes:
    return xlog(b"C\0" + struct.pack(">QQQ", end - 0x30, end, COMMIT_US))


def keepalive(end: int, *, reply: bool = False) -> bytes:
    return b"k" + struct.pack(">QQB", end, 3, reply)


def row(call_id: object = "c@h", *, number: object = 1, via: object = 0) -> bytes:
    return insert(number, "proxy:5060", "2024-03-04 09:00:00.431", call_id, "t", via)


def decode(*messages: bytes, clock: Clock | None = None) -> Chunk:
    decoder = Decoder("a", ROUTES)
    decoder.prefix.set_clock(clock)
    return decoder.feed([memoryview(message) for message in messages])


@pytest.mark.parametrize(
    ("behind_seconds", "late"), [(0, False), (59, False), (61, True), (-61, True)]
)
def test_a_backlog_is_stamped_late(behind_seconds: int, late: bool) -> None:
    """Its rows were written when the clock may have stood otherwise."""
    committed = datetime(2024, 3, 4, 9, 0, 0, 431_000, tzinfo=UTC)
    now_us = round(committed.timestamp() * 1_000_000) + behind_seconds * 1_000_000
    decoder = Decoder("a", ROUTES)
    decoder.prefix.set_clock(Clock(False, 1_500, -5_500_000), now_us)
    messages = (relation(), begin(), row(), commit())
    ((_, _, value),) = decoder.feed([memoryview(message) for message in messages]).records
    assert json.loads(value)["clock"].get("late", False) is late


def rows_of(chunk: Chunk) -> list[dict[str, object]]:
    return [json.loads(value)["row"] for _, _, value in chunk.records]


@pytest.mark.parametrize("clock", [None, Clock(False, 1_500, -5_500_000), Clock(True, 1, 1)])
def test_envelope_says_what_event_message_says(clock: Clock | None) -> None:
    chunk = decode(relation(), begin(), row(), commit(), clock=clock)
    ((topic, key, value),) = chunk.records
    expected = {
        "id": 1,
        "observer": "proxy:5060",
        "event_time": "2024-03-04T09:00:00.431Z",
        "call_id": "c@h",
        "caller_internal": True,
        "via_count": 0,
    }
    assert json.loads(value) == event_message(
        "a", "16/B374D848", "2024-03-04T09:00:00.431000Z", clock, expected
    )
    assert (topic, key) == ("events", "c@h")
    assert chunk.safe == 0x16_B374D878
    assert chunk.size_bytes == len(value) + len(key)


def test_rows_of_every_shape_are_read_alike_by_both_ways() -> None:
    draw = random.Random(5)
    texts = ["", "t", "n", "tn", "nt", "u", "é☎", "x" * 116, "t" * 255, "y" * 256, "n" * 29_696]
    texts += ["z" * 65_536, '"\\\t\x01\x7f', "t\x01", "tt", "nn"]
    columns = [Column(f"c{n}", 25) for n in range(6)]
    encoder = RowEncoder(columns, "c2")
    for _ in range(3_000):
        values = [draw.choice([None, None, *texts]) for _ in columns]
        data = tuple_data(values)
        encoded, key = encoder.encode(memoryview(data))
        names = [column.name for column in columns]
        assert json.loads(encoded) == dict(zip(names, values, strict=True))
        assert key == (values[2] or "")


def test_values_by_their_types() -> None:
    columns = [
        ("i", 20),
        ("b", 16),
        ("f", 701),
        ("n", 1700),
        ("ts", 1114),
        ("tz", 1184),
        ("x", 999),
    ]
    shown: list[tuple[object, ...]] = [
        ("-9223372036854775808", "f", "1.5", "1.10", "infinity", "2024-01-01 10:00:00+00", "{1}"),
        ("7", "t", "NaN", "NaN", "0044-03-15 12:00:00 BC", "-infinity", ""),
        (None, None, None, None, "2024-01-01 10:00:00", None, None),
    ]
    expected = [
        [-(2**63), False, 1.5, "1.10", "infinity", "2024-01-01T10:00:00Z", "{1}"],
        [7, True, "NaN", "NaN", "0044-03-15 12:00:00 BC", "-infinity", ""],
        [None, None, None, None, "2024-01-01T10:00:00Z", None, None],
    ]
    for turns in (1, 2):  # the second time by generated code
        messages = [insert(*values) for values in shown for _ in range(turns)]
        found = [list(r.values()) for r in rows_of(decode(relation(columns), begin(), *messages))]
        assert found == [values for values in expected for _ in range(turns)]


def test_columns_that_were_not_sent_are_left_out() -> None:
    chunk = decode(relation(), begin(), row(), insert(2, ABSENT, ABSENT, "c", None, 1), row())
    assert rows_of(chunk)[1] == {"id": 2, "call_id": "c", "caller_internal": None, "via_count": 1}


def test_relation_changes_inside_a_transaction() -> None:
    more = [*COLUMNS[:4], ("new", 23)]
    chunk = decode(
        relation(), begin(), row(), relation(more), insert(2, "o", "x", "c", 5), commit()
    )
    first, second = rows_of(chunk)
    assert "new" not in first
    assert (second["new"], second["event_time"]) == (5, "x")


def test_bytes_that_are_no_utf8_are_replaced() -> None:
    chunk = decode(relation(), begin(), row(b"caf\xe9"))
    assert chunk.records[0][1] == "caf\ufffd"
    assert rows_of(chunk)[0]["call_id"] == "caf\ufffd"


def test_tables_without_a_route_are_left_out_and_routes_without_a_key_use_the_server() -> None:
    chunk = decode(
        relation(),
        relation(name="other", oid=1),
        relation(name="observer_state_events", oid=2),
        begin(),
        insert(1, "o", "x", "c", "t", 1, oid=1),
        insert(1, "o", "x", "c", "t", 1, oid=2),
        commit(),
    )
    assert [record[:2] for record in chunk.records] == [("observers", "a")]


def test_safe_position() -> None:
    decoder = Decoder("a", ROUTES)
    assert decoder.feed([keepalive(50)]).safe == 50
    assert decoder.feed([keepalive(60), begin(55), relation(), row()]).safe == 60
    assert decoder.in_transaction
    # inside a transaction a keepalive proves nothing
    chunk = decoder.feed([keepalive(1_000, reply=True), row()])
    assert (chunk.safe, chunk.reply_asked) == (0, True)
    assert decoder.transaction_rows == 2
    assert decoder.feed([commit(70), keepalive(80)]).safe == 80
    assert decoder.transaction_rows == 0


@pytest.mark.parametrize(
    "message",
    [
        row(),  # its relation was never told
        xlog(b"S"),  # streaming of protocol 2
        b"x",
        relation()[:60],
        xlog(b"I" + struct.pack(">I", RELATION) + b"N\0\6" + tuple_data(["1"] * 5)),
        xlog(b"I" + struct.pack(">I", RELATION) + b"N\0\6" + tuple_data(["1"] * 7)),
    ],
)
def test_what_is_not_the_protocol_is_an_error(message: bytes) -> None:
    known = [] if message == row() else [relation()]
    with pytest.raises(ProtocolError):
        decode(*known, begin(), message)


def test_tuples_that_end_early_or_late() -> None:
    good = tuple_data(["a", None])
    assert read_tuple(good, 2) == [b"a", None]
    for bad in (good[:-1], good[:3], good + b"n", b"b" + good):
        with pytest.raises(BadTuple):
            read_tuple(bad, 2)


def test_lsn_forms() -> None:
    assert lsn_text(parse_lsn("16/B374D848")) == "16/B374D848"
    assert parse_lsn("0/0") == 0
    for bad in ("", "16", "16-B3", "x/y", "123456789/0"):
        with pytest.raises(ValueError, match=r"LSN|literal"):
            parse_lsn(bad)
