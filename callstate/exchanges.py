"""What one call says about the clocks of the servers that it crossed.

An INVITE seen by A and then by B, and its answer seen by B and then by A, measures B's clock
against A's as NTP does (RFC 5905 section 8), without asking any clock: `((B1-A1) + (B2-A2)) / 2`,
wrong by half the round trip at most. A BYE that both saw is one way only, wrong by its travel time.

Owns the finding of such pairs. Refuses to know what is made of many of them: `traffic_clocks`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

from callstate import events as kinds
from callstate.events import CallEvent

_ONE_WAY_ROUND_TRIP_US: Final = 60_000  # what a BYE's unknown travel time is worth as evidence


_OBSERVATIONS_MAX: Final = 8  # of one transaction on one server; more are retransmissions


class Exchange(NamedTuple):
    """One measurement of `b`'s clock minus `a`'s (a < b by name), microseconds.

    `a_us` and `b_us` are the raw times at which it was made, `a_id` and `b_id` the rows.
    """

    a: str
    b: str
    a_us: int
    b_us: int
    delta_us: int
    round_trip_us: int
    a_id: int
    b_id: int


_ByServer = dict[str, list[CallEvent]]


def exchanges(events: Collection[CallEvent]) -> Iterator[Exchange]:
    """All that one call's distinct events can tell; nothing for a call on one server."""
    if len({event.server for event in events}) < 2:
        return
    requests: dict[tuple[str, int], _ByServer] = {}
    ends: dict[tuple[str, str, int], dict[str, CallEvent]] = {}
    for event in events:
        kind = event.type
        if kind == kinds.REQUEST:
            if not event.to_tag:
                attempt = requests.setdefault((event.from_tag, event.cseq), {})
                attempt.setdefault(event.server, []).append(event)
        elif kind == kinds.END:
            first = ends.setdefault((event.from_tag, event.to_tag, event.cseq), {})
            held = first.get(event.server)
            if held is None or _place(event) < _place(held):
                first[event.server] = event
    for key, attempt in requests.items():
        if len(attempt) > 1:
            yield from _two_way(attempt, _answers(events, *key))
    for first in ends.values():
        if len(first) > 1:
            yield from _one_way(first)


def _answers(
    events: Collection[CallEvent], from_tag: str, cseq: int
) -> dict[tuple[str, int], _ByServer]:
    """The answers to one attempt: those of one phone and status on every server that saw them."""
    answers: dict[tuple[str, int], _ByServer] = {}
    for event in events:
        if (
            event.cseq == cseq
            and event.from_tag == from_tag
            and event.type in (kinds.SETUP, kinds.FAILURE)
        ):
            by_server = answers.setdefault((event.to_tag, event.failure_status), {})
            by_server.setdefault(event.server, []).append(event)
    return answers


def _place(event: CallEvent) -> tuple[int, int, int]:
    return (event.time_us, event.via_count, event.id or 0)


def _few(seen: list[CallEvent]) -> list[CallEvent]:
    if len(seen) <= _OBSERVATIONS_MAX:
        return seen
    return sorted(seen, key=_place)[:_OBSERVATIONS_MAX]


def _two_way(requests: _ByServer, answers: dict[tuple[str, int], _ByServer]) -> Iterator[Exchange]:
    names = sorted(requests)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            forward = _hop(requests[one], requests[other])
            backward = [
                hop
                for seen in answers.values()
                if one in seen and other in seen
                for hop in (_hop(seen[other], seen[one], rising=False),)
                if hop is not None
            ]
            if forward is None or not backward:
                continue
            # forward goes outer -> inner; which of both is outer decides the signs
            outer_first, out, inn = forward
            measured = [hop for hop in backward if hop[0] == outer_first]
            if not measured:
                continue
            _, answer_out, answer_in = min(
                measured, key=lambda hop: abs(hop[2].time_us - hop[1].time_us)
            )
            yield _exchange(one, other, outer_first, out, inn, answer_out, answer_in)


def _hop(
    one: list[CallEvent], other: list[CallEvent], *, rising: bool = True
) -> tuple[bool, CallEvent, CallEvent] | None:
    """The tightest passage between two servers: (goes from `one`, where it left, where it came).

    Requests pass by rising, answers by falling via_count.
    """
    best: tuple[bool, CallEvent, CallEvent] | None = None
    tightest = (0, 0)
    for here in _few(one):
        for there in _few(other):
            if here.via_count == there.via_count:
                continue
            from_one = (here.via_count < there.via_count) == rising
            leave, come = (here, there) if from_one else (there, here)
            hop = (abs(leave.via_count - come.via_count), come.time_us - leave.time_us)
            if best is None or hop[0] < tightest[0] or (best[0] == from_one and hop < tightest):
                best, tightest = (from_one, leave, come), hop
    return best


def _exchange(
    one: str,
    other: str,
    outer_is_one: bool,
    request_out: CallEvent,
    request_in: CallEvent,
    answer_out: CallEvent,
    answer_in: CallEvent,
) -> Exchange:
    forward_us = request_in.time_us - request_out.time_us  # inner minus outer, plus travel
    backward_us = answer_out.time_us - answer_in.time_us  # inner minus outer, less travel
    inner_minus_outer_us = (forward_us + backward_us) // 2
    round_trip_us = max(0, forward_us - backward_us)
    if outer_is_one:
        return Exchange(
            one,
            other,
            request_out.time_us,
            request_in.time_us,
            inner_minus_outer_us,
            round_trip_us,
            request_out.id or 0,
            request_in.id or 0,
        )
    return Exchange(
        one,
        other,
        request_in.time_us,
        request_out.time_us,
        -inner_minus_outer_us,
        round_trip_us,
        request_in.id or 0,
        request_out.id or 0,
    )


def _one_way(first: dict[str, CallEvent]) -> Iterator[Exchange]:
    names = sorted(first)
    for index, one in enumerate(names):
        for other in names[index + 1 :]:
            a, b = first[one], first[other]
            yield Exchange(
                one,
                other,
                a.time_us,
                b.time_us,
                b.time_us - a.time_us,
                _ONE_WAY_ROUND_TRIP_US,
                a.id or 0,
                b.id or 0,
            )
