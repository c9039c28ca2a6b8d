"""Calls that somebody answers: plain, over several proxies, authenticated, retried, forked.

Owns the messages of each such scenario and what its CDR must say. Refuses to know how often a
scenario occurs (`scenarios`).
"""

from __future__ import annotations

from dataclasses import replace

from ops.simulation.script import Attempt, CallScript, Hop, Route, World

Calls = list[CallScript]


def finish(call: CallScript, attempt: Attempt, start: int, answer_at: int) -> CallScript:
    """Answer, talk, hang up by either side, over the attempt's own proxies."""
    connect = call.answer(answer_at, attempt)
    return hang_up(call, start, connect, attempt.route)


def hang_up(call: CallScript, start: int, connect: int, route: Route) -> CallScript:
    """The end of an ordinary call, and its truth."""
    by_callee = call.world.rng.random() < 0.5
    end = call.bye(connect + call.world.talk(), route, by_callee=by_callee)
    return call.expect("C", start, connect, end)


def simple(world: World, at: int) -> Calls:
    """One proxy sees everything."""
    call = CallScript(world, "simple")
    attempt = call.invite(at, world.route())
    return [finish(call, attempt, at, attempt.arrived_us + world.ring())]


def two_hop(world: World, at: int) -> Calls:
    """Caller and callee are registered at different servers; each proxy writes everything."""
    call = CallScript(world, "two_hop")
    attempt = call.invite(at, world.route(2))
    return [finish(call, attempt, at, attempt.arrived_us + world.ring())]


def three_hop(world: World, at: int) -> Calls:
    """A third proxy between the two."""
    call = CallScript(world, "three_hop")
    attempt = call.invite(at, world.route(3))
    return [finish(call, attempt, at, attempt.arrived_us + world.ring())]


def bye_other(world: World, at: int) -> Calls:
    """The BYE passes only a server that the INVITE never crossed."""
    call = CallScript(world, "bye_other")
    servers = world.servers(2)
    attempt = call.invite(at, [Hop(servers[0], True)])
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    return [hang_up(call, at, connect, (Hop(servers[-1]),))]


def spread_classic(world: World, at: int) -> Calls:
    """Request, answer and end are each written by another server."""
    call = CallScript(world, "spread_classic")
    servers = world.servers(3)
    attempt = call.invite(at, [Hop(servers[0], True)])
    answered = replace(attempt, route=(Hop(servers[1 % len(servers)]),))
    connect = call.answer(attempt.arrived_us + world.ring(), answered)
    return [hang_up(call, at, connect, (Hop(servers[-1]),))]


def auth407(world: World, at: int) -> Calls:
    """Challenged with 407, which no proxy writes; then answered, or busy."""
    return [_authenticated(CallScript(world, "auth407"), at, same_server=True)]


def auth407_other(world: World, at: int) -> Calls:
    """The second INVITE, with credentials, reaches another server."""
    return [_authenticated(CallScript(world, "auth407_other"), at, same_server=False)]


def auth401(world: World, at: int) -> Calls:
    """Challenged with 401, which is written as a failure and is none."""
    return [_authenticated(CallScript(world, "auth401"), at, same_server=True, status=401)]


def _authenticated(
    call: CallScript, at: int, *, same_server: bool, status: int = 407
) -> CallScript:
    world = call.world
    servers = world.servers(2)
    first = call.invite(at, [Hop(servers[0])])
    if status == 401:
        challenger = world.identities.another_phone(call.callee)
        call.fail(at + world.seconds((0.002, 0.02)), first, 401, "Unauthorized", by=challenger)
    call.next_attempt()
    second_at = at + world.seconds((0.03, 0.12))
    attempt = call.invite(second_at, [Hop(servers[0 if same_server else -1], True)])
    if world.rng.random() < 0.3:
        end = call.fail(second_at + world.seconds((0.1, 1.0)), attempt, 486, "Busy Here")
        return call.expect("F", at, None, end, failure_status=486, failure_reason="Busy Here")
    return finish(call, attempt, at, attempt.arrived_us + world.ring())


def failover503(world: World, at: int) -> Calls:
    """One server is overloaded; the phone tries the next one."""
    call = CallScript(world, "failover503")
    servers = world.servers(2)
    first = call.invite(at, [Hop(servers[0])])
    elsewhere = world.identities.another_phone(call.callee)
    call.fail(at + world.seconds((0.005, 0.05)), first, 503, "Service Unavailable", by=elsewhere)
    call.next_attempt()
    second_at = at + world.seconds((0.06, 0.2))
    attempt = call.invite(second_at, [Hop(servers[-1], world.rng.random() < 0.3)])
    return [finish(call, attempt, at, attempt.arrived_us + world.ring())]


def same_id_retry(world: World, at: int) -> Calls:
    """Busy, then tried again with the same Call-ID and tag, and answered."""
    call = CallScript(world, "same_id_retry")
    route = world.route()
    first = call.invite(at, route)
    elsewhere = world.identities.another_phone(call.callee)
    busy_at = at + world.seconds((0.1, 0.6))
    call.fail(busy_at, first, 486, "Busy Here", by=elsewhere)
    call.next_attempt()
    second_at = busy_at + world.seconds(world.timing.retry_gap)
    attempt = call.invite(second_at, route)
    return [finish(call, attempt, at, attempt.arrived_us + world.ring())]


def seqfork(world: World, at: int) -> Calls:
    """The inner proxy tries one phone after the other; the first is busy."""
    return [_sequential(CallScript(world, "seqfork"), at, 486, "Busy Here", (0.1, 0.5))]


def seqfork487(world: World, at: int) -> Calls:
    """The first phone rings in vain until the inner proxy cancels it and tries the next one."""
    ringing = world.timing.ring
    call = CallScript(world, "seqfork487")
    return [_sequential(call, at, 487, "Request Terminated", (min(1.0, ringing[1]), ringing[1]))]


def _sequential(
    call: CallScript, at: int, status: int, reason: str, after: tuple[float, float]
) -> CallScript:
    world = call.world
    attempt = call.invite(at, world.route(2))
    inner = attempt.route[-1]
    branch, via = attempt.branches[-1]
    only_inner = replace(attempt, route=(inner,), branches=((branch, via),))
    first_phone = world.identities.another_phone(call.callee)
    failed = call.fail(
        attempt.arrived_us + world.seconds(after), only_inner, status, reason, by=first_phone
    )
    if len(attempt.route) == 1:  # one server: the outermost branch must not be the failed one
        return _answered_elsewhere(call, attempt, at, failed)
    retry, retry_branch = failed + world.seconds((0.002, 0.02)), world.identities.branch()
    call.write_request(retry, inner.server, retry_branch, via, internal=call.caller.internal)
    answered = replace(attempt, branches=(*attempt.branches[:-1], (retry_branch, via)))
    return finish(call, answered, at, retry + world.ring())


def _answered_elsewhere(call: CallScript, attempt: Attempt, at: int, failed: int) -> CallScript:
    """On a single server the forking shows as a new attempt of the phone."""
    call.next_attempt()
    again = failed + call.world.seconds((0.05, 0.2))
    second = call.invite(again, attempt.route)
    return finish(call, second, at, second.arrived_us + call.world.ring())


def parallel_fork(world: World, at: int) -> Calls:
    """Several phones ring; one answers, the inner proxy cancels the others (487)."""
    call = CallScript(world, "parallel_fork")
    attempt = call.invite(at, world.route(2))
    inner, (_, via) = attempt.route[-1], attempt.branches[-1]
    last = len(attempt.route) > 1
    losers = []
    for _ in range(world.rng.randrange(1, 4)):
        branch = world.identities.branch()
        seen = attempt.arrived_us + world.network()
        fork_via = via if last else via + 2
        call.write_request(seen, inner.server, branch, fork_via, internal=call.caller.internal)
        losers.append((branch, fork_via))
    answer_at = attempt.arrived_us + 3 * world.network() + world.ring()
    for loser in losers:
        lost = replace(attempt, route=(inner,), branches=(loser,))
        other = world.identities.another_phone(call.callee)
        cancelled = answer_at + world.seconds((0.005, 0.3))
        call.fail(cancelled, lost, 487, "Request Terminated", by=other)
    return [finish(call, attempt, at, answer_at)]


def parallel_race(world: World, at: int) -> Calls:
    """Two phones answer at once; the caller ends one of the two legs in an instant."""
    call = CallScript(world, "parallel_race")
    attempt = call.invite(at, world.route())
    loser = world.identities.another_phone(call.callee)
    connect = attempt.arrived_us + world.ring()
    loser_at = max(attempt.arrived_us + 1_000, connect + world.seconds((-0.08, 0.09)))
    call.answer(connect, attempt)
    call.answer(loser_at, attempt, by=loser)
    cseq = call.cseq
    call.bye(
        max(loser_at, connect) + world.seconds((0.01, 0.08)),
        attempt.route,
        by_callee=False,
        peer=loser,
    )
    call.cseq = cseq  # CSeq is counted per dialog, and the other leg is a dialog of its own
    return [hang_up(call, at, connect, attempt.route)]


def reinvite_classic(world: World, at: int) -> Calls:
    """Either side re-INVITEs, and the proxy writes S, now and then also R with a To tag."""
    return [_reinvited(CallScript(world, "reinvite_classic"), at, written=True)]


def reinvite_head(world: World, at: int) -> Calls:
    """A newer proxy writes no re-INVITE: only the CSeq of the BYE tells of them."""
    return [_reinvited(CallScript(world, "reinvite_head"), at, written=False)]


def _reinvited(call: CallScript, at: int, *, written: bool) -> CallScript:
    world = call.world
    attempt = call.invite(at, world.route())
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    talk = max(world.talk(), 1_000_000)
    count = world.rng.randrange(1, 6)
    for number in range(1, count + 1):
        by_callee = world.rng.random() < 0.3
        moment = connect + talk * number // (count + 2)
        if written:
            request = world.rng.random() < 0.5
            call.reinvite(moment, attempt.route[0], by_callee=by_callee, request=request)
        elif by_callee:
            call.callee_cseq += 1
        else:
            call.cseq += 1
    by_callee = world.rng.random() < 0.5
    end = call.bye(connect + talk, attempt.route, by_callee=by_callee)
    return call.expect("C", at, connect, end)


def reinvite_failed(world: World, at: int) -> Calls:
    """A re-INVITE is refused with 488: the call goes on."""
    call = CallScript(world, "reinvite_failed")
    attempt = call.invite(at, world.route())
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    talk = max(world.talk(), 1_000_000)
    call.next_attempt()
    branch = (world.identities.branch(), 1)
    refused = replace(attempt, cseq=call.cseq, branches=(branch,))
    call.fail(connect + talk // 2, refused, 488, "Not Acceptable Here")
    end = call.bye(connect + talk, attempt.route, by_callee=world.rng.random() < 0.5)
    return [call.expect("C", at, connect, end)]


def late_answer(world: World, at: int) -> Calls:
    """Answered after longer ringing than any limit allows: still a call to bill."""
    call = CallScript(world, "late_answer")
    attempt = call.invite(at, world.route())
    return [finish(call, attempt, at, attempt.arrived_us + world.seconds(world.timing.late_ring))]
