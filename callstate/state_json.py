"""A call's state as JSON and back, the short way: events go in and come out as they are.

Owns the speed of `CallState.to_wire` and `from_wire`: the same JSON, without a list a row in
between. Refuses to read other versions: `from_wire` does.
"""

from __future__ import annotations

import msgspec

from callstate.call import STATE_VERSION, CallState
from callstate.cdr import Cdr
from callstate.events import CallEvent

_Wire = tuple[
    int,
    int | None,
    bool,
    bool,
    int,
    Cdr | None,
    int,
    list[str],
    list[str],
    int,
    int,
    list[str],
    list[int],
    list[CallEvent],
]
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Wire).decode
_decode_any = msgspec.json.Decoder().decode


class UnreadableState(Exception):
    """Bytes that hold no call's state of any version."""


def encode_state(state: CallState) -> bytes:
    """The JSON of `state.to_wire()`."""
    return _encode(state.fields())


def decode_state(encoded: bytes) -> CallState:
    """The state that `encode_state` of this version, or `to_wire` of any, made JSON of.

    Raises:
        UnreadableState: It is no JSON.
        ValueError: It is of a version that this program does not know.
    """
    try:
        wire = _decode(encoded)
    except msgspec.DecodeError as error:
        try:
            other = _decode_any(encoded)
        except msgspec.DecodeError:
            raise UnreadableState(str(error)) from None
        if not isinstance(other, list) or len(other) < 2:
            raise UnreadableState("not the form of a state") from None
        return CallState.from_wire(other)
    return CallState.of(wire) if wire[0] == STATE_VERSION else CallState.from_wire(wire)
