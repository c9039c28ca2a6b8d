"""Calls of which events are lost, and headers that strangers write.

Owns the messages of each such scenario and what can still be said of the call.
"""

from __future__ import annotations

from dataclasses import replace

from ops.simulation.identities import DOMAIN, STRANGE_NAMES, Party, TagForm
from ops.simulation.scenarios.answered import Calls, finish, hang_up
from ops.simulation.script import CallScript, World
from ops.simulation.truth import Expect


def lost_bye(world: World, at: int) -> Calls:
    """No end was written: closed as unknown by the limit on a call's length."""
    call = CallScript(world, "lost_bye")
    attempt = call.invite(at, world.route(world.rng.randrange(1, 3)))
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    return [call.expect("U", at, connect, None)]


def lost_invite(world: World, at: int) -> Calls:
    """No request was written: the start is the answer, and nobody knows the caller's contact."""
    call = CallScript(world, "lost_invite")
    attempt = call.invite(at, world.route(), lost=True)
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    end = call.bye(connect + world.talk(), attempt.route, by_callee=world.rng.random() < 0.5)
    why = "no R: start = connect, the caller's contact is unknown"
    return [
        call.expect("C", connect, connect, end, why=why, caller_contact=None, caller_internal=None)
    ]


def lost_setup(world: World, at: int) -> Calls:
    """No answer was written: completed, with an unknown connect time."""
    call = CallScript(world, "lost_setup")
    attempt = call.invite(at, world.route())
    end = call.bye(
        attempt.arrived_us + world.ring() + world.talk(),
        attempt.route,
        by_callee=world.rng.random() < 0.5,
    )
    return [call.expect("C", at, None, end, why="no S: connect unknown")]


def only_bye(world: World, at: int) -> Calls:
    """Nothing but an end: nobody knows who called whom."""
    call = CallScript(world, "only_bye")
    call.bye(at, world.route(), by_callee=world.rng.random() < 0.5)
    return [call.expect_nothing(Expect.NONE, "E only")]


def weird(world: World, at: int) -> Calls:
    """A display name that is legal and hostile."""
    name = world.rng.choice(STRANGE_NAMES)
    return [_ordinary(world, "weird", at, world.identities.caller(name=name))]


def malformed_upper_tag(world: World, at: int) -> Calls:
    """`;TAG=`: parameter names know no case (RFC 3261 section 7.3.1)."""
    return _with_tag_form(world, "malformed_upper_tag", at, TagForm.UPPER)


def malformed_space_tag(world: World, at: int) -> Calls:
    """White space round the semicolon and the equals sign (RFC 3261 section 25.1)."""
    form = world.rng.choice((TagForm.SPACED, TagForm.SPACED_WIDE))
    return _with_tag_form(world, "malformed_space_tag", at, form)


def _with_tag_form(world: World, scenario: str, at: int, form: TagForm) -> Calls:
    caller = replace(world.identities.caller(), tag_form=form)
    callee = replace(world.identities.callee(), tag_form=form)
    return [_ordinary(world, scenario, at, caller, callee)]


def malformed_bracket(world: World, at: int) -> Calls:
    """An address whose `<` is never closed: the CDR supplies the `>`."""
    caller = replace(world.identities.caller(), open_bracket=True)
    return [_ordinary(world, "malformed_bracket", at, caller)]


def malformed_bigint(world: World, at: int) -> Calls:
    """The greatest CSeq that SIP allows."""
    call = CallScript(world, "malformed_bigint")
    call.cseq = 2**31 - 2
    attempt = call.invite(at, world.route())
    return [finish(call, attempt, at, attempt.arrived_us + world.ring())]


def malformed_quote(world: World, at: int) -> Calls:
    """A quote that is never closed: what can be saved of such a header is not defined."""
    caller = replace(world.identities.caller(), address=f'"never closed <sip:2000@{DOMAIN}>')
    call = _ordinary(world, "malformed_quote", at, caller)
    return [call.expect_nothing(Expect.UNDEFINED, "unbalanced quote")]


def malformed_no_from_tag(world: World, at: int) -> Calls:
    """A caller of RFC 2543 times sends no tag."""
    caller = replace(world.identities.caller(), tag="")
    call = _ordinary(world, "malformed_no_from_tag", at, caller)
    return [call.expect_nothing(Expect.UNDEFINED, "no From tag")]


def malformed_no_to_tag(world: World, at: int) -> Calls:
    """An answer without a To tag."""
    callee = replace(world.identities.callee(), tag="")
    call = _ordinary(world, "malformed_no_to_tag", at, None, callee)
    return [call.expect_nothing(Expect.UNDEFINED, "answer without a To tag")]


def _ordinary(
    world: World,
    scenario: str,
    at: int,
    caller: Party | None = None,
    callee: Party | None = None,
) -> CallScript:
    call = CallScript(world, scenario, caller=caller, callee=callee)
    attempt = call.invite(at, world.route())
    connect = call.answer(attempt.arrived_us + world.ring(), attempt)
    return hang_up(call, at, connect, attempt.route)
