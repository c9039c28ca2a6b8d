"""The replication stream cut and bent at any place: an error of ours, never another one."""

from __future__ import annotations

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from cdc.pgoutput import Chunk, Decoder, ProtocolError, Route

ROUTES = {"call_state_events": Route("events", "call_id")}


def xlog(body: bytes) -> bytes:
    return b"w" + struct.pack(">QQQ", 1, 2, 3) + body


def values(*texts: bytes | None) -> bytes:
    shown = (b"n" if text is None else b"t" + struct.pack(">I", len(text)) + text for text in texts)
    return struct.pack(">H", len(texts)) + b"".join(shown)


RELATION = (
    b"R\0\0\0\7public\0call_state_events\0d\0\3"
    + b"\1id\0\0\0\0\x14\xff\xff\xff\xff"
    + b"\0call_id\0\0\0\0\x19\xff\xff\xff\xff"
    + b"\0event_time\0\0\0\4\x5a\xff\xff\xff\xff"
)
MESSAGES = [
    xlog(RELATION),
    xlog(b"B" + struct.pack(">QQI", 0x16_B374D848, 762_858_000_431_000, 7)),
    xlog(b"I\0\0\0\7N" + values(b"1", "ünï".encode(), b"2024-03-04 09:00:00.431")),
    xlog(b"I\0\0\0\7N" + values(b"2", b"c@h", None)),
    xlog(b"C\0" + struct.pack(">QQQ", 0x16_B374D848, 0x16_B374D878, 762_858_000_431_000)),
    b"k" + struct.pack(">QQB", 0x16_B374D900, 3, 1),
]
PLACES = st.tuples(st.integers(0, len(MESSAGES) - 1), st.integers(0, 120))


def read(messages: list[bytes]) -> Chunk | None:
    try:
        return Decoder("a", ROUTES).feed([memoryview(message) for message in messages])
    except ProtocolError:
        return None


def test_as_it_is_it_is_read() -> None:
    chunk = read(MESSAGES)
    assert chunk is not None
    assert [key for _, key, _ in chunk.records] == ["ünï", "c@h"]
    assert chunk.safe == 0x16_B374D900


@given(place=PLACES)
def test_a_message_that_ends_early(place: tuple[int, int]) -> None:
    which, size = place
    cut = list(MESSAGES)
    cut[which] = cut[which][: max(1, size)]
    chunk = read(cut)
    if cut != MESSAGES and chunk is not None:
        assert len(chunk.records) <= 2


@given(place=PLACES, bent=st.binary(min_size=1, max_size=9))
@example(place=(1, 33), bent=b"\x7f" * 8)
def test_bytes_that_are_others(place: tuple[int, int], bent: bytes) -> None:
    which, at = place
    message = bytearray(MESSAGES[which])
    message[at : at + len(bent)] = bent
    read([*MESSAGES[:which], bytes(message), *MESSAGES[which + 1 :]])


@given(message=st.binary(min_size=1, max_size=60))
def test_any_bytes_at_all(message: bytes) -> None:
    read([*MESSAGES[:2], message])
    read([*MESSAGES[:2], xlog(message)])
