"""Several calls that belong together: transfers, chains behind a gateway, pages, music on hold.

Owns the messages of each such scenario and what each call's CDR must say.
"""

from __future__ import annotations

from dataclasses import dataclass

from ops.simulation.identities import Party
from ops.simulation.scenarios.answered import Calls, hang_up
from ops.simulation.script import CallScript, Route, World
from ops.simulation.truth import Expect


@dataclass(frozen=True, slots=True)
class _Talking:
    """A call that has been answered and not yet ended."""

    call: CallScript
    start: int
    connect: int
    route: Route

    def ends(self) -> CallScript:
        return hang_up(self.call, self.start, self.connect, self.route)

    def ends_at(self, end: int, *, by_callee: bool, termination: str = "C") -> CallScript:
        self.call.bye(end, self.route, by_callee=by_callee)
        return self.call.expect(termination, self.start, self.connect, end)


def _talking(
    world: World,
    scenario: str,
    at: int,
    *,
    caller: Party | None = None,
    callee: Party | None = None,
    reference: str = "",
) -> _Talking:
    call = CallScript(world, scenario, caller=caller, callee=callee, reference=reference)
    attempt = call.invite(at, world.route(1 if world.rng.random() < 0.7 else 2))
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    return _Talking(call, at, connect, attempt.route)


def transfer_blind(world: World, at: int) -> Calls:
    """The callee refers the caller to a third user and hangs up; the caller calls that one."""
    return _blind(world, "transfer_blind", at, end_after=(0.05, 0.5), by_callee=True)


def transfer_by_caller(world: World, at: int) -> Calls:
    """The caller refers the callee to a third user; the callee's phone places the new call."""
    return _blind(world, "transfer_by_caller", at, end_after=(0.05, 0.5), by_callee=False)


def slow_transfer(world: World, at: int) -> Calls:
    """The BYE follows the REFER only minutes later."""
    return _blind(world, "slow_transfer", at, end_after=world.timing.slow_transfer, by_callee=True)


def _blind(
    world: World, scenario: str, at: int, *, end_after: tuple[float, float], by_callee: bool
) -> Calls:
    first = _talking(world, scenario, at)
    call, who = first.call, world.identities
    target = who.callee()
    referred = first.connect + world.talk()
    call.refer(referred, first.route, target, by_callee=by_callee)
    first.ends_at(referred + world.seconds(end_after), by_callee=by_callee, termination="T")
    leg = _talking(
        world,
        f"{scenario}_leg",
        referred + world.seconds((0.02, 0.08)),
        caller=who.same_user(call.caller if by_callee else call.callee),
        callee=target,
        reference=f"{call.call_id};rel=refer",
    )
    return [call, leg.ends()]


def transfer_unended(world: World, at: int) -> Calls:
    """A REFER, but no BYE ever follows: the end is unknown."""
    first = _talking(world, "transfer_unended", at)
    call = first.call
    call.refer(first.connect + world.talk(), first.route, world.identities.callee(), by_callee=True)
    return [call.expect("U", at, first.connect, None)]


def transfer_consult(world: World, at: int) -> Calls:
    """The callee asks a third user first, then connects the caller with that one."""
    first = _talking(world, "transfer_consult", at)
    call, who = first.call, world.identities
    target = who.callee()
    consult = _talking(
        world,
        "transfer_consult_consult",
        first.connect + world.talk(),
        caller=who.same_user(call.callee),
        callee=target,
    )
    referred = consult.connect + world.talk()
    replaces = f"{consult.call.call_id}%3Bto-tag%3D{target.tag}"
    call.refer(referred, first.route, target, by_callee=True, replaces=replaces)
    final = _talking(
        world,
        "transfer_consult_final",
        referred + world.seconds((0.02, 0.08)),
        caller=who.same_user(call.caller),
        callee=who.same_user(target),
        reference=f"{consult.call.call_id};rel=xfer",
    )
    joined = final.connect + world.seconds((0.02, 0.1))
    consult.ends_at(joined, by_callee=True)
    end = joined + world.seconds((0.02, 0.2))
    return [first.ends_at(end, by_callee=True, termination="T"), consult.call, final.ends()]


def chain(world: World, at: int) -> Calls:
    """A gateway's second leg of the same conversation: hidden, for its parent has the CDR."""
    parent = _talking(world, "chain", at)
    other = f"x{world.rng.randrange(10**6)}"
    reference = world.rng.choice(
        (
            f"{parent.call.call_id};rel=chain",
            f"{other};rel=refer,{parent.call.call_id};rel=chain",
            f" {parent.call.call_id} ;rel=chain , {other};rel=xfer",
        )
    )
    leg_at = at + world.seconds((-0.02, 0.06))
    return [parent.ends(), _hidden_leg(world, "chain_leg", leg_at, reference)]


def page_chain(world: World, at: int) -> Calls:
    """A page: one call to the server, several chained ones to the phones."""
    parent = _talking(world, "page_chain", at, callee=world.identities.callee(user="page1"))
    reference = f"{parent.call.call_id};rel=chain"
    legs = [
        _hidden_leg(world, "page_chain_leg", at + world.seconds((0.03, 0.09)), reference)
        for _ in range(world.rng.randrange(2, 5))
    ]
    return [parent.ends(), *legs]


def _hidden_leg(world: World, scenario: str, at: int, reference: str) -> CallScript:
    leg = _talking(world, scenario, at, reference=reference)
    call, end = leg.call, leg.connect + world.talk()
    call.bye(end, leg.route, by_callee=world.rng.random() < 0.5)
    why = "rel=chain, and all named calls are known"
    return call.expect("C", at, leg.connect, end, expect=Expect.HIDDEN, why=why)


def chain_unknown_leg(world: World, at: int) -> Calls:
    """Chained to a call that nobody has seen: it has a CDR of its own."""
    reference = f"{world.rng.getrandbits(40):010x}@elsewhere;rel=chain"
    return [_talking(world, "chain_unknown_leg", at, reference=reference).ends()]


def chain_half_known(world: World, at: int) -> Calls:
    """Chained to a known and to an unknown call: not all are known, so it has a CDR."""
    parent = _talking(world, "chain_half_known", at)
    unknown = f"{world.rng.getrandbits(40):010x}@elsewhere"
    reference = f"{parent.call.call_id};rel=chain,{unknown};rel=chain"
    leg = _talking(
        world, "chain_half_known_leg", at + world.seconds((0.02, 0.06)), reference=reference
    )
    return [parent.ends(), leg.ends()]


def moh(world: World, at: int) -> Calls:
    """Music on hold is a call to a server's own user, and nobody's to bill."""
    user = world.rng.choice(("~~mh~", f"~~mh~{world.rng.randrange(2_000, 2_400)}"))
    music = _talking(world, "moh", at, callee=world.identities.callee(user=user))
    call, end = music.call, music.connect + world.talk()
    call.bye(end, music.route, by_callee=False)
    return [call.expect("C", at, music.connect, end, expect=Expect.HIDDEN, why="music on hold")]
