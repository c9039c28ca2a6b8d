"""A call that was forgotten, made again from what was told of it.

A closed call leaves the state after the late horizon; its record and provenance stay where they
were written. Owns the way back: the same events, stamps and revision as when it was told, so that
an event or an answer that comes days later makes the revision that it would have made at once.
Refuses to know where provenance is kept.

What does not come back: events beyond the bound (counted, never kept), calls of which nobody knew
who called (no provenance was told of them), and who waited for an answer about this call.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from callstate.call import CallState, Identity, identity
from callstate.cdr import Cdr
from callstate.clocks import TRAFFIC
from callstate.events import CallEvent, Clock, parse_time_us, read_row

_TIMES: Final = ("start_time", "connect_time", "end_time")


class Told(NamedTuple):
    """What was told under one name: `Provenance.to_json`, and the CDR's columns if it has one."""

    provenance: Mapping[str, Any]
    cdr: Mapping[str, Any] | None


def call_from_provenance(call_id: str, told: Told, others: Iterable[Told] = ()) -> CallState:
    """The state of a call as it was when it was told last.

    Args:
        call_id: The Call-ID.
        told: What was told under that name.
        others: What was told of its later uses, under the names that `named_apart` gives.

    Raises:
        ValueError: The provenance lacks what it must have.
    """
    state = CallState()
    late: set[Identity] = set()
    try:
        for one in (told, *others):
            for event, was_late in _events(call_id, one.provenance):
                key = identity(event)
                state.events[key] = event
                if was_late:
                    late.add(key)
        basis = told.provenance.get("basis") or {}
        state.known = frozenset(basis.get("known", ()))
        state.gaps = basis.get("gaps", 0)
        state.reclocked = basis.get("reclocked", 0)
        state.uses = tuple(basis.get("uses", ()))
        state.events_dropped = told.provenance.get("events_dropped", 0)
        state.revision = told.provenance["revision"]
        state.told = None if told.cdr is None else _cdr(told.cdr)
    except (KeyError, TypeError) as error:
        raise ValueError(f"the provenance of a call cannot be read: {error!r:.200}") from error
    state.late = frozenset(late)
    state.closed = True
    return state


def named_apart(provenance: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which later uses of a Call-ID were told; usually none."""
    return tuple((provenance.get("basis") or {}).get("uses", ()))


def _events(call_id: str, provenance: Mapping[str, Any]) -> Iterable[tuple[CallEvent, bool]]:
    traffic = {
        offset["server"]: offset for offset in provenance["offsets"] if offset["source"] == TRAFFIC
    }
    for told in provenance["events"]:
        server = told["server"]
        row = {**told, "call_id": call_id, "event_time": told["raw_time"]}
        event = read_row(server, row, _clock(told.get("clock")))
        offset = traffic.get(server)
        if event.clock is None and offset is not None:
            # What the traffic said when the call was told stays with its events.
            applied_us = event.time_us - parse_time_us(told["time"])
            offset_us = applied_us if offset["applied"] else offset["offset_us"]
            event = event._replace(clock=Clock(False, offset["error_us"] or 0, offset_us, True))
        yield event, bool(told.get("late"))


def _clock(told: list[int] | None) -> Clock | None:
    if told is None:
        return None
    offset_us, error_us, late, traffic = told
    return Clock(bool(late), error_us, offset_us, bool(traffic))


def _cdr(columns: Mapping[str, Any]) -> Cdr:
    told: dict[str, Any] = {name: columns[name] for name in Cdr._fields if name in columns}
    for name in _TIMES:
        text = columns[name]
        told[f"{name}_us"] = None if text is None else parse_time_us(text)
    return Cdr(**told)
