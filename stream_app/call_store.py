"""The open calls of one partition: encoded in the table, decoded while they are worked on.

Owns the encoding of a call's state in the table, the bounded cache of decoded calls, and which
calls have changed since the last commit. Refuses to know where the bytes are kept (memory, RocksDB)
and how they reach the changelog.
"""

from __future__ import annotations

import logging
import struct
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from itertools import islice
from typing import Final

from cramjam import DecompressionError, lz4

from callstate.call import STATE_VERSION, CallState
from callstate.state_json import UnreadableState, decode_state, encode_state
from stream_app.active_calls import ActiveCalls, is_established, time_us

log = logging.getLogger(__name__)

_LZ4: Final = b"\x01"  # JSON, which older versions wrote as it is, never begins with it
_HEADED: Final = b"\x02"
# Before the compressed state: its version, whether somebody talks in it, and when it is looked at
# next, so that a partition is taken up without decoding its calls.
_HEAD: Final = struct.Struct(">cB?q")
_NEVER: Final = -(2**63)
_OLDEST_AMONG: Final = 8

Change = tuple[str, bytes | None]


def encode_call(state: CallState, *, is_active: bool = False) -> bytes:
    """A call's state as table and changelog hold it; its version is inside: `state_json`.

    Compressed, because the events of a call repeat most of its texts: 1 us makes a third of it.
    """
    wire = encode_state(state)
    due_us = state.deadline_us
    head = _HEAD.pack(_HEADED, STATE_VERSION, is_active, _NEVER if due_us is None else due_us)
    return head + bytes(lz4.compress_block(wire))


def decode_call(encoded: bytes) -> CallState | None:
    """Reads what `encode_call` of this or an older version wrote; None for bytes that are broken.

    Raises:
        ValueError: A newer version wrote it: this program must not touch it.
    """
    try:
        if encoded[:1] == _HEADED:
            encoded = bytes(lz4.decompress_block(encoded[_HEAD.size :]))
        elif encoded[:1] == _LZ4:
            encoded = bytes(lz4.decompress_block(encoded[1:]))
        return decode_state(encoded)
    except (UnreadableState, DecompressionError):
        return None


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
        self.active = ActiveCalls()

    def __len__(self) -> int:
        """Calls as of the last commit."""
        return len(self._encoded)

    def __contains__(self, call_id: str) -> bool:
        """Whether the call is held; cheaper than `get`."""
        if call_id in self._changed:
            return self._changed[call_id] is not None
        return call_id in self._encoded

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
        if state is not None:
            self._decoded[call_id] = state
        return state

    def peek(self, call_id: str) -> CallState | None:
        """The call's state, to be looked at and not kept."""
        state = self._decoded.get(call_id)
        if state is not None or call_id in self._changed:
            return state
        encoded = self._encoded.get(call_id)
        return None if encoded is None else decode_call(encoded)

    def oldest_us(self) -> int | None:
        """When the oldest call began in which somebody talks; None where nobody does.

        Of those that were answered first; no look through all of them.
        """
        begun = [
            min(time_us(event) for event in state.events.values())
            for call_id in islice(self.active.now, _OLDEST_AMONG)
            if (state := self.peek(call_id)) is not None and state.events
        ]
        return min(begun, default=None)

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
            if encoded is not None and encoded[:1] == _HEADED and len(encoded) > _HEAD.size:
                due_us: int = _HEAD.unpack_from(encoded)[3]
                return None if due_us == _NEVER else due_us
            state = self.get(call_id)
        return None if state is None else state.deadline_us

    def deadlines(self) -> Iterator[tuple[str, int]]:
        """When calls are looked at next, and a note of who is talking: for a partition taken up.

        Only where an older version wrote a call it is decoded for that.

        Raises:
            ValueError: A newer version wrote it.
        """
        broken = []
        due_us_of: dict[str, int] = {}
        for call_id, encoded in self._encoded.items():
            if encoded[:1] == _HEADED and len(encoded) > _HEAD.size:
                _, version, is_active, due_us = _HEAD.unpack_from(encoded)
                if version == STATE_VERSION:
                    if is_active:
                        due_us_of[call_id] = due_us
                    if due_us != _NEVER:
                        yield call_id, due_us
                    continue
            state = decode_call(encoded)
            if state is None:
                broken.append((call_id, encoded))
                continue
            if is_established(state):
                due_us_of[call_id] = _NEVER if state.deadline_us is None else state.deadline_us
            if state.deadline_us is not None:
                yield call_id, state.deadline_us
        self.active.note_unread(sorted(due_us_of, key=due_us_of.__getitem__))
        for call_id, encoded in broken:
            self._decode(call_id, encoded)

    def _decode(self, call_id: str, encoded: bytes) -> CallState | None:
        state = decode_call(encoded)
        if state is None:
            # One broken state must not keep the partition: the call begins anew, and a revision
            # that knows less than the one in the database is refused there.
            log.error("call_state_unreadable", extra={"call_id": call_id})
            del self._encoded[call_id]
        return state

    def take_changes(self) -> list[Change]:
        """What changed since the last call, encoded (None: deleted) and kept in the table.

        To be called between batches only: it may drop decoded objects that a batch still holds.
        """
        changes: list[Change] = []
        for call_id, state in self._changed.items():
            is_active = self.active.note(call_id, state)
            if state is not None:
                encoded = encode_call(state, is_active=is_active)
                self._encoded[call_id] = encoded
                changes.append((call_id, encoded))
                if state.closed and not state.dirty:
                    # Told: nearly always what comes next is that it is forgotten, an hour later.
                    self._decoded.pop(call_id, None)
            elif self._encoded.pop(call_id, None) is not None:
                changes.append((call_id, None))
        self._changed.clear()
        while len(self._decoded) > self._decoded_max:
            self._decoded.popitem(last=False)
        return changes
