"""The rules: the set of a call's events, with corrected times, becomes one verdict.

Owns what a CDR says: which of the call's dialogs or attempts speaks for it, how it ended, and until
when (in event time) the verdict could still change. Refuses to know how times were corrected
(`clocks`), when the verdict is asked for (`processor`) and how it is told (`telling`).

A verdict is a function of the set: CSeq, direction and the SIP lifecycle (RFC 3261 sections 12 to
15) decide before any clock does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from callstate.attempts import Refusal, first_request, last_refusal, starting_reinvites
from callstate.cdr import ABANDONED, FAILED, Cdr
from callstate.chains import chained_calls
from callstate.config import ResolutionConfig, to_us
from callstate.headers import address_of_record, contact_without_parameters, is_music_on_hold
from callstate.legs import Leg, legs_of
from callstate.timed import ByType, Timed

_REQUEST_TIMEOUT = 408
_TERMINATED = 487


class Verdict(NamedTuple):
    """What the events of one call say.

    Attributes:
        cdr: The record, or None where nobody knows who called (`rule` says what there was).
        hidden: Why the call is not written even so, `""` where it is.
        chained: Calls that it names as its chain; if all are known, it is hidden.
        final_us: Event time after which, with no further event, the verdict stands; None: never.
        rule: What decided, in words.
        missing: Of "start", "setup", "end": what no event told.
        legs: All dialogs, the winner first.
        notes: What contradicted itself and how that was settled.
    """

    cdr: Cdr | None
    final_us: int | None
    rule: str
    hidden: str = ""
    chained: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    legs: tuple[Leg, ...] = ()
    notes: tuple[str, ...] = ()


def resolve(timed: Sequence[Timed], config: ResolutionConfig) -> Verdict:
    """The verdict on a call's distinct events, given in the order of `timed_in_order`.

    For a Call-ID that was used again, see `call_uses`.
    """
    parts = ByType(timed)
    starts = parts.requests or starting_reinvites(parts)
    if not starts and not parts.setups:
        return _nobody_called(parts, timed, config)
    first = first_request(starts) if starts else None
    caller_tag = first.event.from_tag if first else parts.setups[0].event.from_tag
    legs = legs_of(parts, caller_tag)
    established = [leg for leg in legs if leg.setup or leg.end]
    if first is None or any(leg.setup for leg in established):
        return _answered(parts, first, caller_tag, legs, established, config)
    refusal = last_refusal(starts, parts.failures)
    if established and not _refused_in_early_dialog(established, refusal):
        return _answered(parts, first, caller_tag, legs, established, config)
    return _unanswered(parts, first, refusal, config)


def _nobody_called(parts: ByType, timed: Sequence[Timed], config: ResolutionConfig) -> Verdict:
    """With neither request nor setup nobody knows who called."""
    what = "end" if parts.ends else "failure" if parts.failures else "transfer"
    last_us = timed[-1].time_us
    return Verdict(None, last_us + _limit(config.failed_wait_seconds), f"{what} only")


def _refused_in_early_dialog(established: Sequence[Leg], refusal: Refusal) -> bool:
    """Whether the BYE that looks like a lost setup only ended an early dialog that was refused."""
    if refusal.failure is None:
        return False
    failure = refusal.failure.event
    tags = frozenset((failure.from_tag, failure.to_tag))
    return any(leg.tags == tags for leg in established)


def _answered(
    parts: ByType,
    first: Timed | None,
    caller_tag: str,
    legs: list[Leg],
    established: list[Leg],
    config: ResolutionConfig,
) -> Verdict:
    if len(legs) > 1:
        legs.sort(key=Leg.rank)
    winner = min(established, key=Leg.rank) if len(established) > 1 else established[0]
    start = first or winner.setup
    assert start is not None
    connect_us = winner.setup.time_us if winner.setup else None
    end_us = winner.ended_us
    start_us, end_us, notes = _without_contradiction(start.time_us, connect_us, end_us)
    failure = winner.failure.event if winner.failure else None
    still_open = [leg for leg in established if leg.ended_us is None]
    if still_open:
        limit = _limit_or_none(config.max_call_seconds)
        final_us = None if limit is None else start_us + limit + 1
    else:
        wait = _limit(config.failed_wait_seconds)
        final_us = max(
            (leg.ended_us or 0) + (wait if leg.end is None else 0) for leg in established
        )
    cdr = _record(
        parts, first, start, caller_tag, winner, start_us, connect_us, end_us, winner.termination
    )
    if failure is not None:
        cdr = _with_failure(cdr, failure.failure_status, failure.failure_reason)
    missing: tuple[str, ...] = ()
    if first is None or winner.setup is None or end_us is None:
        known = {"start": first, "setup": winner.setup, "end": end_us}
        missing = tuple(part for part, what in known.items() if what is None)
    return _verdict(cdr, final_us, _rule_of(winner, config), missing, tuple(legs), notes)


def _unanswered(
    parts: ByType,
    first: Timed,
    refusal: Refusal,
    config: ResolutionConfig,
) -> Verdict:
    failure = refusal.failure
    caller_tag = first.event.from_tag
    no_part: tuple[str, ...] = ()
    if failure is not None:
        event = failure.event
        callee_tag = event.to_tag if event.to_tag != caller_tag else ""
        start_us, end_us, notes = _without_contradiction(first.time_us, None, failure.time_us)
        status, reason = event.failure_status, event.failure_reason
        termination = ABANDONED if status == _TERMINATED else FAILED
        final_us: int | None = failure.time_us + _limit(config.failed_wait_seconds)
        rule, missing = f"the last attempt failed with {status}", no_part
    else:
        callee_tag, start_us, end_us, notes = "", first.time_us, None, ()
        status, reason, termination = _REQUEST_TIMEOUT, "Request Timeout", FAILED
        limit = _limit_or_none(config.max_ringing_seconds)
        limit = _limit_or_none(config.max_call_seconds) if limit is None else limit
        final_us = None if limit is None else refusal.request.time_us + limit + 1
        rule = f"no final answer within {config.max_ringing_seconds:g} s of ringing"
        missing = ("end",)
    leg = Leg(frozenset((caller_tag, callee_tag)), callee_tag)
    cdr = _record(parts, first, first, caller_tag, leg, start_us, None, end_us, termination)
    cdr = _with_failure(cdr, status, reason)
    return _verdict(cdr, final_us, rule, missing, (), notes)


def _verdict(
    cdr: Cdr,
    final_us: int | None,
    rule: str,
    missing: tuple[str, ...],
    legs: tuple[Leg, ...],
    notes: tuple[str, ...],
) -> Verdict:
    hidden = "music on hold" if is_music_on_hold(cdr.callee_aor) else ""
    chained = chained_calls(cdr.reference, cdr.call_id) if cdr.reference else ()
    return Verdict(cdr, final_us, rule, hidden, chained, missing, legs, notes)


def _record(
    parts: ByType,
    first: Timed | None,
    start: Timed,
    caller_tag: str,
    leg: Leg,
    start_us: int,
    connect_us: int | None,
    end_us: int | None,
    termination: str,
) -> Cdr:
    event = start.event
    contact = _first_text(parts.requests, first, "contact") if first else ""
    callee_contact, route = _of_answers(leg.setups, caller_tag)
    return Cdr(
        call_id=event.call_id,
        from_tag=caller_tag,
        to_tag=leg.callee_tag,
        caller_aor=address_of_record(event.from_url),
        callee_aor=address_of_record(event.to_url),
        start_time_us=start_us,
        connect_time_us=connect_us,
        end_time_us=end_us,
        termination=termination,
        failure_status=None,
        failure_reason=None,
        reference=_first_text(parts.requests, first, "reference") if first else "",
        caller_contact=contact_without_parameters(contact) if contact else None,
        callee_contact=contact_without_parameters(callee_contact) if callee_contact else None,
        caller_internal=_caller_internal(parts),
        callee_route=route,
    )


def _first_text(requests: Sequence[Timed], first: Timed, column: str) -> str:
    """The column of the first request, else of the first one in order that has it."""
    text: str = getattr(first.event, column)
    if text or len(requests) < 2:
        return text
    in_order = sorted(requests, key=lambda i: (i.event.cseq, i.event.via_count, i.time_us))
    return next((t for i in in_order if (t := getattr(i.event, column))), "")


def _of_answers(setups: list[Timed], caller_tag: str) -> tuple[str, str | None]:
    """Contact and route of a leg's answers, each the first that is told; no route without answers.

    In the order in which answers pass the proxies; those to the callee's own re-INVITEs do not
    count.
    """
    if not setups:
        return "", None
    if len(setups) > 1:
        own = [item for item in setups if item.event.from_tag == caller_tag] or setups
        setups = sorted(own, key=lambda i: (i.event.cseq, -i.event.via_count, i.time_us))
    contact = route = ""
    for _, event in setups:
        contact = contact or event.contact
        route = route or event.callee_route
    return contact, route


def _caller_internal(parts: ByType) -> bool | None:
    internal: bool | None = None
    for requests in (parts.requests, parts.reinvites):
        for item in requests:
            told = item.event.caller_internal
            if told:
                return True
            if told is not None:
                internal = False
    return internal


def _with_failure(cdr: Cdr, status: int, reason: str) -> Cdr:
    return cdr._replace(failure_status=status or None, failure_reason=reason or None)


def _without_contradiction(
    start_us: int, connect_us: int | None, end_us: int | None
) -> tuple[int, int | None, tuple[str, ...]]:
    """Start lowered to connect, end raised to connect or start: no duration is negative."""
    notes: tuple[str, ...] = ()
    if connect_us is not None and start_us > connect_us:
        notes = (f"start lowered by {start_us - connect_us} us to connect",)
        start_us = connect_us
    floor = start_us if connect_us is None else connect_us
    if end_us is not None and end_us < floor:
        notes = (*notes, f"end raised by {floor - end_us} us")
        end_us = floor
    return start_us, end_us, notes


def _rule_of(leg: Leg, config: ResolutionConfig) -> str:
    if leg.end is not None:
        return "REFER and BYE" if leg.transfers else "BYE"
    if leg.failure is not None:
        return f"{leg.failure.event.failure_status} in the established dialog"
    return f"end unknown: open for more than {config.max_call_seconds:g} s"


def _limit(seconds: float) -> int:
    """A wait in microseconds; a timer that is off waits for nothing."""
    return to_us(seconds) if seconds > 0 else 0


def _limit_or_none(seconds: float) -> int | None:
    """A limit in microseconds; a timer that is off limits nothing."""
    return to_us(seconds) if seconds > 0 else None
