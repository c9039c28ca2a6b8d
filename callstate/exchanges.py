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


class _Seen(NamedTuple):
    time_us: int
    via: int
    row_id: int


def exchanges(events: Collection[CallEvent]) -> Iterator[Exchange]:
    """All that one call's distinct events can tell; nothing for a call on one server."""
    servers = {event.server for event in events}
    if len(servers) < 2:
        return
    requests: dict[tuple[str, int], dict[str, list[_Seen]]] = {}
    answers: dict[tuple[str, int], dict[tuple[str, int], dict[str, list[_Seen]]]] = {}
    ends: dict[tuple[str, str, int], dict[str, _Seen]] = {}
    for event in events:
        if event.type == kinds.REQUEST:
            if event.to_tag:
                continue
            seen = _Seen(event.time_us, event.via_count, event.id or 0)
            attempt = requests.setdefault((event.from_tag, event.cseq), {})
            attempt.setdefault(event.server, []).append(seen)
        elif event.type in (kinds.SETUP, kinds.FAILURE):
            seen = _Seen(event.time_us, event.via_count, event.id or 0)
            answer = (event.to_tag, event.failure_status)
            by_server = answers.setdefault((event.from_tag, event.cseq), {}).setdefault(answer, {})
            by_server.setdefault(event.server, []).append(seen)
        elif event.type == kinds.END:
            seen = _Seen(event.time_us, event.via_count, event.id or 0)
            first = ends.setdefault((event.from_tag, event.to_tag, event.cseq), {})
            held = first.get(event.server)
            if held is None or seen < held:
                first[event.server] = seen
    for attempt_key, by_server in requests.items():
        if len(by_server) > 1 and attempt_key in answers:
            yield from _two_way(by_server, answers[attempt_key])
    for first in ends.values():
        if len(first) > 1:
            yield from _one_way(first)


def _two_way(
    requests: dict[str, list[_Seen]], answers: dict[tuple[str, int], dict[str, list[_Seen]]]
) -> Iterator[Exchange]:
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
            _, answer_out, answer_in = min(measured, key=lambda hop: abs(hop[2][0] - hop[1][0]))
            yield _exchange(one, other, outer_first, out, inn, answer_out, answer_in)


def _hop(
    one: list[_Seen], other: list[_Seen], *, rising: bool = True
) -> tuple[bool, _Seen, _Seen] | None:
    """The tightest passage between two servers: (goes from `one`, where it left, where it came).

    Requests pass by rising, answers by falling via_count.
    """
    best: tuple[bool, _Seen, _Seen] | None = None
    for here in sorted(one)[:_OBSERVATIONS_MAX]:
        for there in sorted(other)[:_OBSERVATIONS_MAX]:
            if here.via == there.via:
                continue
            from_one = (here.via < there.via) == rising
            leave, come = (here, there) if from_one else (there, here)
            if best is None or abs(leave.via - come.via) < abs(best[1].via - best[2].via):
                best = (from_one, leave, come)
            elif best[0] == from_one and abs(leave.via - come.via) == abs(
                best[1].via - best[2].via
            ):
                tighter = come.time_us - leave.time_us < best[2].time_us - best[1].time_us
                best = (from_one, leave, come) if tighter else best
    return best


def _exchange(
    one: str,
    other: str,
    outer_is_one: bool,
    request_out: _Seen,
    request_in: _Seen,
    answer_out: _Seen,
    answer_in: _Seen,
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
            request_out.row_id,
            request_in.row_id,
        )
    return Exchange(
        one,
        other,
        request_in.time_us,
        request_out.time_us,
        -inner_minus_outer_us,
        round_trip_us,
        request_in.row_id,
        request_out.row_id,
    )


def _one_way(first: dict[str, _Seen]) -> Iterator[Exchange]:
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
                a.row_id,
                b.row_id,
            )
