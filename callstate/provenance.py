"""Why a CDR says what it says: the reasons, in a form that a person or a program can read.

Owns the making of `Provenance` from a call's events, what was done to their times and the verdict.
"""

from __future__ import annotations

from typing import Any

from callstate.call import CallState, identity
from callstate.cdr import Cdr, Provenance
from callstate.clocks import Corrected
from callstate.events import Clock, format_time
from callstate.legs import Leg
from callstate.ordering import Order, order
from callstate.resolution import Verdict
from callstate.timed import Timed


def explain(
    call_id: str,
    state: CallState,
    corrected: Corrected,
    timed: list[Timed],
    verdict: Verdict,
    watermark_us: int | None,
    hidden: str,
) -> Provenance:
    """The provenance of one revision."""
    resolved = order(timed)
    late = state.late
    revision = state.next_revision()
    before = state.told if state.told is not None and state.told.call_id == call_id else None
    rule = verdict.rule if not hidden else f"{verdict.rule}; hidden: {hidden}"
    return Provenance(
        call_id=call_id,
        revision=revision,
        events=tuple(_event(item, late=identity(item.event) in late) for item in resolved.timed),
        servers=tuple(offset.server for offset in corrected.offsets),
        offsets=corrected.offsets,
        missing=verdict.missing,
        rule=rule,
        legs=tuple(_leg(leg, index) for index, leg in enumerate(verdict.legs)),
        inversions=tuple(resolved.inversions),
        watermark_us=watermark_us,
        late_events=len(late),
        events_dropped=state.events_dropped,
        suspect=state.gaps > 0,
        changed=_changed(before, None if hidden else verdict.cdr) if state.closed else {},
        notes=verdict.notes + _skew_notes(resolved) + _dropped_notes(state),
        basis=_basis(state),
    )


def _basis(state: CallState) -> dict[str, Any]:
    basis: dict[str, Any] = {}
    if state.known:
        basis["known"] = sorted(state.known)
    if state.gaps:
        basis["gaps"] = state.gaps
    if state.reclocked:
        basis["reclocked"] = state.reclocked
    if state.uses:
        basis["uses"] = list(state.uses)
    return basis


def _changed(before: Cdr | None, after: Cdr | None) -> dict[str, list[Any]]:
    """Column to [old, new] of what this revision changed; a CDR that comes or goes is all null."""
    old = before.columns() if before is not None else {}
    new = after.columns() if after is not None else {}
    return {
        column: [old.get(column), new.get(column)]
        for column in (new or old)
        if old.get(column) != new.get(column)
    }


def _dropped_notes(state: CallState) -> tuple[str, ...]:
    if not state.events_dropped:
        return ()
    return (f"{state.events_dropped} event(s) beyond the bound were counted and not kept",)


def tell_briefly(
    call_id: str,
    state: CallState,
    corrected: Corrected,
    timed: list[Timed],
    verdict: Verdict,
    watermark_us: int | None,
    hidden: str,
) -> Provenance:
    """As `explain`, without the events and their order: for those who throw the reasons away."""
    servers = tuple(offset.server for offset in corrected.offsets)
    return Provenance(
        call_id, state.next_revision(), (), servers, (), verdict.missing, verdict.rule
    )


def _event(item: Timed, *, late: bool) -> dict[str, Any]:  # noqa: PLR0912  spelt out, see below
    """The row's columns that are not empty; spelt out, for this is done once for every event."""
    time_us, event = item
    (
        server,
        row_id,
        observer,
        event_seq,
        raw_time_us,
        kind,
        cseq,
        _,
        from_tag,
        to_tag,
        from_url,
        to_url,
        contact,
        refer_to,
        referred_by,
        failure_status,
        failure_reason,
        request_uri,
        reference,
        caller_internal,
        callee_route,
        branch_id,
        via_count,
        clock,
    ) = event
    raw_time = format_time(raw_time_us)
    told: dict[str, Any] = {
        "server": server,
        "id": row_id,
        "observer": observer,
        "event_seq": event_seq,
        "event_type": kind,
        "cseq": cseq,
        "raw_time": raw_time,
        "time": raw_time if time_us == raw_time_us else format_time(time_us),
    }
    if from_tag:
        told["from_tag"] = from_tag
    if to_tag:
        told["to_tag"] = to_tag
    if from_url:
        told["from_url"] = from_url
    if to_url:
        told["to_url"] = to_url
    if contact:
        told["contact"] = contact
    if refer_to:
        told["refer_to"] = refer_to
    if referred_by:
        told["referred_by"] = referred_by
    if failure_reason:
        told["failure_reason"] = failure_reason
    if request_uri:
        told["request_uri"] = request_uri
    if reference:
        told["reference"] = reference
    if callee_route:
        told["callee_route"] = callee_route
    if branch_id:
        told["branch_id"] = branch_id
    if failure_status:
        told["failure_status"] = failure_status
    if via_count:
        told["via_count"] = via_count
    if caller_internal is not None:
        told["caller_internal"] = caller_internal
    if clock is not None:
        told["clock"] = _clock(clock)
    if late:
        told["late"] = True
    return told


def _clock(clock: Clock) -> list[int]:
    """What is needed to say the same again of this event: offset, error, late, by traffic."""
    late, error_us, offset_us, traffic = clock
    return [offset_us, error_us, int(late), int(traffic)]


def _leg(leg: Leg, index: int) -> dict[str, Any]:
    connect_us = leg.setup.time_us if leg.setup else None
    ended_us = leg.ended_us
    return {
        "to_tag": leg.callee_tag,
        "termination": leg.termination,
        "connect_time": None if connect_us is None else format_time(connect_us),
        "end_time": None if ended_us is None else format_time(ended_us),
        "verdict": "won" if index == 0 else _why_lost(leg),
    }


def _why_lost(leg: Leg) -> str:
    if leg.setup is None:
        return "lost: no setup known"
    if leg.ended_us is None:
        return "lost: no end known"
    if leg.end is None:
        return "lost: failed, another completed"
    return "lost: shorter than the winner"


def _skew_notes(resolved: Order) -> tuple[str, ...]:
    if not resolved.inversions:
        return ()
    servers: set[tuple[str, str]] = set()
    for before, after in resolved.inversions:
        one, other = resolved.timed[before].event, resolved.timed[after].event
        if one.server != other.server:
            servers.add((one.server, other.server))
    pairs = ", ".join(f"{one} before {other}" for one, other in sorted(servers))
    count = len(resolved.inversions)
    return (
        f"{count} pair(s) ordered by CSeq against the clocks" + (f": {pairs}" if pairs else ""),
    )
