"""Calls that nobody answers, and an answered one that a failure ends.

Owns the messages of each such scenario and what its CDR must say.
"""

from __future__ import annotations

from dataclasses import replace

from ops.simulation.scenarios.answered import Calls
from ops.simulation.script import CallScript, Hop, World

_BUSY = ("Busy Here", "Busy", "User's busy")
_FAILURES = (
    (403, "Forbidden"),
    (404, "Not Found"),
    (480, "Temporarily Unavailable"),
    (484, "Address Incomplete"),
    (488, "Not Acceptable Here"),
    (500, "Server Internal Error"),
    (503, "Service Unavailable"),
    (603, "Decline"),
)


def _failed(
    call: CallScript, at: int, after: int, status: int, reason: str, *, hops: int
) -> CallScript:
    attempt = call.invite(at, call.world.route(hops))
    end = call.fail(attempt.arrived_us + after, attempt, status, reason)
    termination = "A" if status == 487 else "F"
    return call.expect(termination, at, None, end, failure_status=status, failure_reason=reason)


def busy(world: World, at: int) -> Calls:
    """486, in the words of different phones."""
    reason = world.rng.choice(_BUSY)
    after, hops = world.seconds((0.05, 1.0)), world.rng.randrange(1, 3)
    return [_failed(CallScript(world, "busy"), at, after, 486, reason, hops=hops)]


def failed_misc(world: World, at: int) -> Calls:
    """Every other final error."""
    status, reason = world.rng.choice(_FAILURES)
    after, hops = world.seconds((0.02, 1.5)), world.rng.randrange(1, 3)
    return [_failed(CallScript(world, "failed_misc"), at, after, status, reason, hops=hops)]


def abandoned(world: World, at: int) -> Calls:
    """The caller hangs up while it rings: 487."""
    after, hops = world.seconds(world.timing.abandon), world.rng.randrange(1, 3)
    call = CallScript(world, "abandoned")
    return [_failed(call, at, after, 487, "Request Terminated", hops=hops)]


def noanswer408(world: World, at: int) -> Calls:
    """The callee's proxy gives up: 408."""
    after, hops = world.seconds(world.timing.no_answer), world.rng.randrange(1, 3)
    call = CallScript(world, "noanswer408")
    return [_failed(call, at, after, 408, "Request Timeout", hops=hops)]


def silent(world: World, at: int) -> Calls:
    """No final answer is ever written: closed by the ringing limit, without an end."""
    call = CallScript(world, "silent")
    call.invite(at, world.route(world.rng.randrange(1, 3)))
    return [
        call.expect(
            "F", at, None, None, to_tag="", failure_status=408, failure_reason="Request Timeout"
        )
    ]


def auth401_given_up(world: World, at: int) -> Calls:
    """Challenged with 401, and no other attempt: then it is the failure."""
    call = CallScript(world, "auth401_given_up")
    attempt = call.invite(at, [Hop(world.servers(1)[0])])
    end = call.fail(attempt.arrived_us + world.seconds((0.002, 0.02)), attempt, 401, "Unauthorized")
    return [call.expect("F", at, None, end, failure_status=401, failure_reason="Unauthorized")]


def fork_all_fail(world: World, at: int) -> Calls:
    """All phones of a fork fail; what counts is the answer that the caller's own branch got."""
    call = CallScript(world, "fork_all_fail")
    attempt = call.invite(at, world.route(2))
    inner, (_, via) = attempt.route[-1], attempt.branches[-1]
    fork_via = via if len(attempt.route) > 1 else via + 2
    moment = attempt.arrived_us + world.network()
    for status, reason in ((480, "Temporarily Unavailable"), (486, "Busy Here")):
        branch = world.identities.branch()
        call.write_request(moment, inner.server, branch, fork_via, internal=call.caller.internal)
        moment += world.seconds((0.05, 0.6))
        phone = world.identities.another_phone(call.callee)
        lost = replace(attempt, route=(inner,), branches=((branch, fork_via),))
        call.fail(moment, lost, status, reason, by=phone)
    end = call.fail(moment + world.seconds((0.001, 0.01)), attempt, 600, "Busy Everywhere")
    return [call.expect("F", at, None, end, failure_status=600, failure_reason="Busy Everywhere")]


def end_481(world: World, at: int) -> Calls:
    """A re-INVITE finds the other side gone: 408 or 481 ends an established call."""
    call = CallScript(world, "end_481")
    attempt = call.invite(at, world.route())
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    call.next_attempt()
    probe = replace(attempt, cseq=call.cseq, branches=((world.identities.branch(), 1),))
    status = world.rng.choice((408, 481))
    end = call.fail(connect + world.talk(), probe, status, "Gone")
    return [call.expect("F", at, connect, end, failure_status=status, failure_reason="Gone")]
