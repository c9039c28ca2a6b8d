"""The rules: the set of a call's events, with corrected times, becomes one verdict.

Owns every decision of what a CDR says: who called, which dialog won, how the call ended, and until
when (in event time) the verdict could still change. Refuses to know where times were corrected
(`clocks`), when the verdict is asked for (`processor`) and how it is told (`provenance`).

A verdict is a function of the set: `resolve` sorts what it is given, and CSeq, direction and the
SIP lifecycle (RFC 3261 sections 12 to 15) decide before any clock does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import itemgetter
from typing import NamedTuple

from callstate import events as kinds
from callstate.cdr import ABANDONED, COMPLETED, FAILED, TRANSFERRED, UNKNOWN, Cdr
from callstate.chains import chained_calls
from callstate.config import ResolutionConfig, to_us
from callstate.events import CallEvent, content_key
from callstate.headers import address_of_record, contact_without_parameters, is_music_on_hold

_REQUEST_TIMEOUT = 408
_ENDS_DIALOG = (408, 481)
_TERMINATED = 487


class Timed(NamedTuple):
    """An event and its corrected time. Sorted by that time, then by row, then by content."""

    time_us: int
    event: CallEvent


_time = itemgetter(0)


class Leg:
    """One dialog: an unordered pair of tags (RFC 3261 section 12).

    `setup` is its first answer, `end` its first BYE, `failure` what ended it without one.
    """

    __slots__ = (
        "callee_tag",
        "end",
        "ends",
        "failure",
        "failures",
        "setup",
        "setups",
        "tags",
        "transfers",
    )

    def __init__(self, tags: frozenset[str], callee_tag: str) -> None:
        self.tags = tags
        self.callee_tag = callee_tag
        self.setups: list[Timed] = []
        self.ends: list[Timed] = []
        self.transfers: list[Timed] = []
        self.failures: list[Timed] = []
        self.setup: Timed | None = None
        self.end: Timed | None = None
        self.failure: Timed | None = None

    @property
    def termination(self) -> str:
        """How this dialog ended, as in column `termination`."""
        if self.end is not None:
            return TRANSFERRED if self.transfers else COMPLETED
        return FAILED if self.failure is not None else UNKNOWN

    @property
    def ended_us(self) -> int | None:
        """Time of the end or of the failure that ended the dialog."""
        over = self.end or self.failure
        return None if over is None else over.time_us

    def rank(self) -> tuple[object, ...]:
        """The best leg has the least rank."""
        connect, ended = self.setup and self.setup.time_us, self.ended_us
        whole = connect is not None and ended is not None
        length = max(0, ended - connect) if connect is not None and ended is not None else 0
        return (
            not whole,
            connect is None,
            self.end is None,
            -length,
            connect if connect is not None else ended or 0,
            self.callee_tag,
        )


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


def timed_in_order(events: Iterable[CallEvent], times: Iterable[int]) -> list[Timed]:
    """Events with their times, sorted so that no order of arrival can be told from another."""
    timed = list(map(Timed, times, events))
    if len(timed) > 1:
        try:
            timed.sort()
        except TypeError:  # an absent value met one of the same column: the same order, spelt out
            timed.sort(key=_sort_key)
    return timed


def _sort_key(item: Timed) -> tuple[int, tuple[tuple[bool, object], ...]]:
    return (item.time_us, content_key(item.event))


class _Sorted:
    """A call's events by type, each list in the order of `timed_in_order`."""

    __slots__ = ("ends", "failures", "reinvites", "requests", "setups", "transfers")

    def __init__(self, timed: Sequence[Timed]) -> None:
        self.requests: list[Timed] = []
        self.reinvites: list[Timed] = []
        self.setups: list[Timed] = []
        self.failures: list[Timed] = []
        self.transfers: list[Timed] = []
        self.ends: list[Timed] = []
        for item in timed:
            event = item.event
            kind = event.type
            if kind == kinds.REQUEST:
                (self.reinvites if event.to_tag else self.requests).append(item)
            elif kind == kinds.SETUP:
                self.setups.append(item)
            elif kind == kinds.END:
                self.ends.append(item)
            elif kind == kinds.FAILURE:
                self.failures.append(item)
            else:
                self.transfers.append(item)


def resolve(timed: Sequence[Timed], config: ResolutionConfig) -> Verdict:
    """The verdict on a call's distinct events, given in the order of `timed_in_order`.

    For a Call-ID that was used again, see `episodes`.
    """
    parts = _Sorted(timed)
    starts = parts.requests or _starting_reinvites(parts)
    if not starts and not parts.setups:
        return _nobody_called(parts, timed, config)
    first = _first_request(starts) if starts else None
    caller_tag = first.event.from_tag if first else parts.setups[0].event.from_tag
    legs = _legs(parts, caller_tag)
    established = [leg for leg in legs if leg.setup or leg.end]
    if first is None or any(leg.setup for leg in established):
        return _answered(parts, first, caller_tag, legs, established, config)
    refusal = _last_refusal(starts, parts.failures)
    if established and not _refused_in_early_dialog(established, refusal):
        return _answered(parts, first, caller_tag, legs, established, config)
    return _unanswered(parts, first, refusal, config)


def episodes(timed: list[Timed], config: ResolutionConfig) -> list[list[Timed]]:
    """The calls inside one Call-ID, usually one: its uses that have nothing to do with each other.

    A request with another From tag that comes when everything before it is over for longer than a
    failure waits for another try begins a call of its own. Events go with the use whose tags they
    have, those without known tags with the first.
    """
    callers = {event.from_tag for _, event in timed if event.type == kinds.REQUEST}
    if len(callers) < 2:
        return [timed]
    wait_us = _limit(config.failed_wait_seconds)
    uses: list[tuple[set[str], list[Timed]]] = []
    last_us = None
    for item in timed:
        event = item.event
        use = next((use for use in reversed(uses) if not use[0].isdisjoint(_tags(event))), None)
        if use is None:
            over = last_us is None or item.time_us - last_us > wait_us
            if not uses or (over and _starts_dialog(event)):
                uses.append((set(), []))
            use = uses[-1]
        use[0].update(_tags(event))
        use[1].append(item)
        last_us = item.time_us
    return [events for _, events in uses]


def _starts_dialog(event: CallEvent) -> bool:
    return event.type == kinds.REQUEST and not event.to_tag


def _tags(event: CallEvent) -> tuple[str, ...]:
    return tuple(tag for tag in (event.from_tag, event.to_tag) if tag)


def _nobody_called(parts: _Sorted, timed: Sequence[Timed], config: ResolutionConfig) -> Verdict:
    """With neither request nor setup nobody knows who called."""
    what = "end" if parts.ends else "failure" if parts.failures else "transfer"
    last_us = timed[-1].time_us
    return Verdict(None, last_us + _limit(config.failed_wait_seconds), f"{what} only")


def _starting_reinvites(parts: _Sorted) -> list[Timed]:
    """Requests with a To tag start a call only if nothing of their direction was set up before."""
    first_cseq: dict[str, int] = {}
    for _, event in parts.setups:
        cseq = first_cseq.get(event.from_tag, event.cseq)
        first_cseq[event.from_tag] = min(cseq, event.cseq)
    return [
        item
        for item in parts.reinvites
        if first_cseq.get(item.event.from_tag, item.event.cseq) >= item.event.cseq
    ]


def _first_request(starts: Sequence[Timed]) -> Timed:
    """Lowest CSeq, then lowest via_count; of several callers' tags the earliest."""
    if len(starts) == 1:
        return starts[0]
    firsts: dict[str, Timed] = {}
    for item in starts:
        event = item.event
        held = firsts.get(event.from_tag)
        if held is None or (event.cseq, event.via_count) < (held.event.cseq, held.event.via_count):
            firsts[event.from_tag] = item
    return min(firsts.values(), key=_time)


def _legs(parts: _Sorted, caller_tag: str) -> list[Leg]:
    legs: dict[frozenset[str], Leg] = {}

    def leg_of(event: CallEvent) -> Leg:
        from_tag, to_tag = event.from_tag, event.to_tag
        tags = frozenset((from_tag, to_tag))
        leg = legs.get(tags)
        if leg is None:
            callee = to_tag if to_tag != caller_tag else from_tag if from_tag != caller_tag else ""
            leg = legs[tags] = Leg(tags, callee)
        return leg

    for item in parts.setups:
        leg_of(item.event).setups.append(item)
    for item in parts.ends:
        leg_of(item.event).ends.append(item)
    for item in parts.transfers:
        leg_of(item.event).transfers.append(item)
    for item in parts.failures:
        if item.event.failure_status in _ENDS_DIALOG:
            leg = legs.get(frozenset((item.event.from_tag, item.event.to_tag)))
            if leg is not None:
                leg.failures.append(item)
    for leg in legs.values():
        _settle(leg, caller_tag)
    own = [leg for leg in legs.values() if caller_tag in leg.tags]
    return own if any(leg.setup or leg.end for leg in own) else list(legs.values())


def _settle(leg: Leg, caller_tag: str) -> None:
    """First setup, first end and the failure that ended the dialog."""
    if len(leg.setups) == 1:
        leg.setup = leg.setups[0]
    elif leg.setups:
        # The answer to the first INVITE goes backwards through the proxies: the innermost saw it
        # first. Answers to re-INVITEs of either side come later than that.
        leg.setup = min(
            leg.setups,
            key=lambda item: (
                item.event.from_tag != caller_tag,
                item.event.cseq,
                -item.event.via_count,
                item.time_us,
            ),
        )
    if leg.ends:
        leg.end = leg.ends[0]
    elif leg.setup is not None:
        leg.failure = next((item for item in leg.failures if _is_after(item, leg.setup)), None)


def _is_after(failure: Timed, setup: Timed) -> bool:
    """A failure of the dialog itself: of a later transaction, or later where CSeq cannot tell."""
    if failure.event.from_tag == setup.event.from_tag:
        if failure.event.cseq != setup.event.cseq:
            return failure.event.cseq > setup.event.cseq
        return failure.time_us > setup.time_us
    return True


class _Refusal(NamedTuple):
    request: Timed  # the outermost request of the last attempt
    failure: Timed | None


def _last_refusal(starts: Sequence[Timed], failures: Sequence[Timed]) -> _Refusal:
    """The last attempt and the final failure that the caller saw of it, if any.

    Only a failure with the branch and via_count of the attempt's outermost request is that one.
    """
    attempts: dict[tuple[str, int], list[Timed]] = {}
    for item in starts:
        attempts.setdefault((item.event.from_tag, item.event.cseq), []).append(item)
    if len(attempts) == 1:
        last = starts
    else:
        began: dict[str, int] = {}
        for item in starts:
            began.setdefault(item.event.from_tag, item.time_us)
        last = attempts[max(attempts, key=lambda key: (began[key[0]], key[0], key[1]))]
    outermost = min(last, key=lambda item: item.event.via_count).event.via_count
    branches = {i.event.branch_id: i for i in last if i.event.via_count == outermost}
    cseq = last[0].event.cseq
    cseqs = {key[1] for key in attempts}
    request = next(iter(branches.values()))
    for item in failures:
        event = item.event
        if event.via_count == outermost and event.branch_id in branches:
            named = event.branch_id or event.cseq == cseq or event.cseq not in cseqs
            if named:
                return _Refusal(branches[event.branch_id], item)
    return _Refusal(request, None)


def _refused_in_early_dialog(established: Sequence[Leg], refusal: _Refusal) -> bool:
    """Whether the BYE that looks like a lost setup only ended an early dialog that was refused."""
    if refusal.failure is None:
        return False
    failure = refusal.failure.event
    tags = frozenset((failure.from_tag, failure.to_tag))
    return any(leg.tags == tags for leg in established)


def _answered(
    parts: _Sorted,
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
    parts: _Sorted,
    first: Timed,
    refusal: _Refusal,
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
    parts: _Sorted,
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
    setups = _in_lifecycle_order(leg.setups, caller_tag)
    callee_contact = next((item.event.contact for item in setups if item.event.contact), "")
    route = next((item.event.callee_route for item in setups if item.event.callee_route), "")
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
        callee_route=(route or "") if setups else None,
    )


def _first_text(requests: Sequence[Timed], first: Timed, column: str) -> str:
    """The column of the first request, else of the first one in order that has it."""
    text: str = getattr(first.event, column)
    if text or len(requests) < 2:
        return text
    in_order = sorted(requests, key=lambda i: (i.event.cseq, i.event.via_count, i.time_us))
    return next((t for i in in_order if (t := getattr(i.event, column))), "")


def _in_lifecycle_order(setups: list[Timed], caller_tag: str) -> list[Timed]:
    """Answers as they passed the proxies; those to the callee's own re-INVITEs do not count."""
    if len(setups) < 2:
        return setups
    own = [item for item in setups if item.event.from_tag == caller_tag] or setups
    return sorted(own, key=lambda i: (i.event.cseq, -i.event.via_count, i.time_us))


def _caller_internal(parts: _Sorted) -> bool | None:
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
