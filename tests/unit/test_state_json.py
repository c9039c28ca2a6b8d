"""The short way of a state to JSON and back is that of `to_wire` and `from_wire`."""

from __future__ import annotations

import msgspec
import orjson
import pytest

from callstate.call import CallState
from callstate.cdr import Cdr
from callstate.state_json import UnreadableState, decode_state, encode_state
from tests.calls import clock
from tests.unit.test_call import EVENT, MANY

CDR = Cdr("c", "f", "t", "a", "b", 1, None, 3, "F", 486, "Busy", None, "x", None, True, "")


def full() -> CallState:
    state = CallState()
    for event in (EVENT._replace(clock=clock(1)), EVENT._replace(id=8), EVENT._replace(id=None)):
        state.apply(event, MANY)
    state.deadline_us, state.revision, state.events_dropped, state.gaps = 9, 3, 4, 1
    state.known, state.askers, state.uses = frozenset("ab"), frozenset("c"), ("x;from-tag=1",)
    state.told, state.closed, state.reclocked = CDR, True, 2
    state.apply(EVENT._replace(id=99, from_url='"\x01\\ü\u2028" <sip:a>'), MANY)
    return state


@pytest.mark.parametrize("state", [CallState(), full()], ids=["empty", "full"])
def test_it_is_the_same_json(state: CallState) -> None:
    encoded = encode_state(state)
    assert orjson.loads(encoded) == orjson.loads(orjson.dumps(state.to_wire()))
    for again in (decode_state(encoded), CallState.from_wire(orjson.loads(encoded))):
        assert again.to_wire() == state.to_wire()
        assert again.events == state.events
        assert again.late == state.late
        assert type(again.told) is type(state.told)


def test_what_is_no_state_is_told() -> None:
    for broken in (b"", b"{", b"\xff", b"{}", b"[]", b"7"):
        with pytest.raises(UnreadableState):
            decode_state(broken)
    newer = msgspec.json.encode([99, *full().to_wire()[1:]])
    with pytest.raises(ValueError, match="version 99"):
        decode_state(newer)
