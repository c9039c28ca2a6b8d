"""The open calls of one partition: encoded in the table, decoded while they are worked on.

Owns the encoding of a call's state in the table, the bounded cache of decoded calls, and which
calls have changed since the last commit. Refuses to know where the bytes are kept (memory, RocksDB)
and how they reach the changelog.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter, OrderedDict
from collections.abc import Iterator, MutableMapping
from typing import Final

from cramjam import DecompressionError, lz4

from callstate.call import STATE_VERSION, CallState
from callstate.held_calls import deadlines_of
from callstate.state_json import UnreadableState, decode_state, encode_state
from stream_app.active_calls import NOBODY, ActiveCalls, Change, step_of, talking_since_us

log = logging.getLogger(__name__)

_LZ4: Final = b"\x01"  # JSON, which older versions wrote as it is, never begins with it
_LZ4_BEHIND_11: Final = b"\x02"
_HEADED: Final = b"\x03"
# Before the compressed state: its version, when it is looked at next, and since when somebody talks
# in it, so that a partition is looked through without decoding its calls.
_HEAD: Final = struct.Struct(">cBqq")
_KNOWN: Final = _HEADED + bytes([STATE_VERSION])  # how a head begins that this program can use
_NEVER: Final = 2**63 - 1  # instead of a time, where a call has no deadline

CallChange = tuple[str, bytes | None]


def encode_call(state: CallState, since_us: int | None = None) -> bytes:
    """A call's state as table and changelog hold it; its version is inside: `state_json`.

    Compressed, because the events of a call repeat most of its texts: 1 us makes a third of it.
    `since_us` is `talking_since_us`, where that is known already.
    """
    due_us = _NEVER if state.deadline_us is None else state.deadline_us
    if since_us is None:
        since_us = talking_since_us(state)
    head = _HEAD.pack(_HEADED, STATE_VERSION, due_us, since_us)
    return head + bytes(lz4.compress_block(encode_state(state)))


def decode_call(encoded: bytes) -> CallState | None:
    """Reads what `encode_call` of this or an older version wrote; None for bytes that are broken.

    Raises:
        ValueError: A newer version wrote it: this program must not touch it.
    """
    kind = encoded[:1]
    try:
        if kind == _HEADED:
            encoded = bytes(lz4.decompress_block(encoded[_HEAD.size :]))
        elif kind == _LZ4_BEHIND_11:
            encoded = bytes(lz4.decompress_block(encoded[11:]))
        elif kind == _LZ4:
            encoded = bytes(lz4.decompress_block(encoded[1:]))
        return decode_state(encoded)
    except (UnreadableState, DecompressionError):
        return None


def _head(encoded: bytes) -> tuple[int, int] | None:
    """When a call is looked at next, and since when somebody talks in it.

    None where that cannot be told without decoding it.
    """
    if not encoded.startswith(_KNOWN) or len(encoded) <= _HEAD.size:
        return None
    _, _, due_us, since_us = _HEAD.unpack_from(encoded)
    return due_us, since_us


def _talking_since(encoded: bytes) -> int:
    """`talking_since_us` of a call that is encoded."""
    head = _head(encoded)
    if head is not None:
        return head[1]
    state = decode_call(encoded)
    return NOBODY if state is None else talking_since_us(state)


class PartitionCalls:
    """The `CallStore` that a processor works on.

    Between commits a call that is worked on is a decoded object; `take_changes` encodes what has
    changed, once a commit however many batches touched it, and lets go of what is not recent.
    """

    def __init__(self, encoded: MutableMapping[str, bytes], decoded_max: int) -> None:
        self._encoded = encoded
        self._decoded: OrderedDict[str, CallState] = OrderedDict()
        self._decoded_max = decoded_max
        self._changed: dict[str, CallState | None] = {}
        # Of calls that were read: since when somebody talked as the table has it; None: it is not
        # in the table. What is not known here is looked up there, which RocksDB makes dear.
        self._as_written: dict[str, int | None] = {}
        self._count = 0
        self.active = ActiveCalls()

    def __len__(self) -> int:
        """Calls as of the last commit, counted since they were looked through."""
        return self._count

    def __contains__(self, call_id: str) -> bool:
        """Whether the call is held; cheaper than `get`."""
        if call_id in self._changed:
            return self._changed[call_id] is not None
        return call_id in self._decoded or call_id in self._encoded

    def get(self, call_id: str) -> CallState | None:
        """The call's state; the same object until the next commit."""
        state = self._decoded.get(call_id)
        if state is not None:
            self._decoded.move_to_end(call_id)
            return state
        if call_id in self._changed:
            return None  # deleted since the last commit
        encoded = self._encoded.get(call_id)
        state = None if encoded is None else self._decode(call_id, encoded)
        if state is None:
            self._as_written[call_id] = None
        elif encoded is not None:
            self._as_written[call_id] = _talking_since(encoded)
            self._decoded[call_id] = state
        return state

    def talking(self) -> Iterator[str]:
        """Calls in which somebody talks, as of the last commit; they may change meanwhile."""
        for call_id in self.all_names():
            encoded = self._encoded.get(call_id)
            if encoded is not None and _talking_since(encoded) != NOBODY:
                yield call_id

    def all_names(self) -> Iterator[str]:
        """All calls as of the last commit; they may change meanwhile."""
        encoded = self._encoded
        return iter(tuple(encoded) if isinstance(encoded, dict) else encoded)

    def talking_state(self, call_id: str) -> CallState | None:
        """The state of such a call, to be looked at and not kept; None where nobody talks."""
        state = self._decoded.get(call_id)
        if state is not None or call_id in self._changed:
            return state
        encoded = self._encoded.get(call_id)
        if encoded is None or _talking_since(encoded) == NOBODY:
            return None
        return decode_call(encoded)

    def take_active_change(self) -> Change | None:
        """What the table of active calls is to be told next; None where it knows all."""
        return self.active.take_change(self)

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state; it is encoded at the next commit."""
        self._decoded[call_id] = state
        self._decoded.move_to_end(call_id)
        self._changed[call_id] = state

    def delete(self, call_id: str) -> None:
        """Forgets a call."""
        self._decoded.pop(call_id, None)
        self._changed[call_id] = None

    def items(self) -> Iterator[tuple[str, CallState]]:
        """All calls; what is not decoded yet is decoded for the caller alone, and not kept."""
        for call_id, state in list(self._changed.items()):
            if state is not None:
                yield call_id, state
        broken = []
        for call_id, encoded in self._encoded.items():
            if call_id not in self._changed:
                state = self._decoded.get(call_id) or decode_call(encoded)
                if state is not None:
                    yield call_id, state
                else:
                    broken.append((call_id, encoded))
        for call_id, encoded in broken:
            self._decode(call_id, encoded)

    def deadline(self, call_id: str) -> int | None:
        """When the call is looked at next; mostly without decoding it."""
        state = self._decoded.get(call_id)
        if state is None and call_id not in self._changed:
            encoded = self._encoded.get(call_id)
            head = None if encoded is None else _head(encoded)
            if head is not None:
                return None if head[0] == _NEVER else head[0]
            state = self.get(call_id)
        return None if state is None else state.deadline_us

    def deadlines(self, before_us: int) -> Iterator[tuple[str, int]]:
        """When calls are looked at next, and a count of who is talking: a look through all.

        Only where an older version wrote a call it is decoded for that.

        Raises:
            ValueError: A newer version wrote it.
        """
        changed = self._changed
        states = ((call_id, state) for call_id, state in changed.items() if state is not None)
        yield from deadlines_of(states, before_us)
        broken = []
        count = 0
        begun: Counter[int] = Counter()
        for call_id, encoded in self._encoded.items():
            count += 1
            head = _head(encoded)
            if head is None:
                state = decode_call(encoded)
                if state is None:
                    broken.append((call_id, encoded))
                    continue
                due_us = _NEVER if state.deadline_us is None else state.deadline_us
                since_us = talking_since_us(state)
            else:
                due_us, since_us = head
            if since_us != NOBODY:
                begun[step_of(since_us)] += 1
            if due_us < before_us and call_id not in changed:
                yield call_id, due_us
        self._count = count
        self.active.begun_in(begun)
        for call_id, encoded in broken:
            self._decode(call_id, encoded)

    def _decode(self, call_id: str, encoded: bytes) -> CallState | None:
        state = decode_call(encoded)
        if state is None:
            # One broken state must not keep the partition: the call begins anew, and a revision
            # that knows less than the one in the database is refused there.
            log.error("call_state_unreadable", extra={"call_id": call_id})
            if self._encoded.pop(call_id, None) is not None:
                self._count -= 1
        return state

    def take_changes(self) -> list[CallChange]:
        """What changed since the last call, encoded (None: deleted) and kept in the table.

        To be called between batches only: it may drop decoded objects that a batch still holds.
        """
        changes: list[CallChange] = []
        for call_id, state in self._changed.items():
            before_us = self._since_as_written(call_id)
            if state is None:
                self._as_written.pop(call_id, None)
                if before_us is None:
                    continue
                del self._encoded[call_id]
                self._count -= 1
                encoded, since_us = None, NOBODY
            else:
                self._count += before_us is None
                since_us = talking_since_us(state)
                encoded = self._encoded[call_id] = encode_call(state, since_us)
                if state.closed and not state.dirty:
                    # Told: nearly always what comes next is that it is forgotten, hours later.
                    self._decoded.pop(call_id, None)
                    self._as_written.pop(call_id, None)
                else:
                    self._as_written[call_id] = since_us
            if since_us != NOBODY or (before_us is not None and before_us != NOBODY):
                self.active.note(call_id, NOBODY if before_us is None else before_us, since_us)
            changes.append((call_id, encoded))
        self._changed.clear()
        while len(self._decoded) > self._decoded_max:
            call_id, _ = self._decoded.popitem(last=False)
            self._as_written.pop(call_id, None)
        return changes

    def _since_as_written(self, call_id: str) -> int | None:
        if call_id in self._as_written:
            return self._as_written[call_id]
        encoded = self._encoded.get(call_id)
        return None if encoded is None else _talking_since(encoded)
