"""Questions between calls: does anyone hold a request or a setup of the call that I name?

Owns who asks, who answers and what waits. The records travel by a topic, keyed by the call that
they are for, because the calls may live in other partitions, come later, or never.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from callstate import events as kinds
from callstate.call import FEW_EVENTS, CallState
from callstate.chains import chained_calls
from callstate.effects import AnswerReference, AskReference, Effect
from callstate.envelope import Record, ReferenceAsked, ReferenceKnown
from callstate.events import CallEvent

_PROVES_A_CALL: Final = frozenset((kinds.REQUEST, kinds.SETUP))


def noted(event: CallEvent, state: CallState) -> list[Effect]:
    """A new event: answers to those who wait for its call, questions about the calls it names."""
    effects: list[Effect] = []
    if state.askers and event.type in _PROVES_A_CALL:
        effects += [AnswerReference(asker, event.call_id) for asker in sorted(state.askers)]
        state.askers = frozenset()
    if event.reference and not _asked_before(event, state):
        effects += [
            AskReference(named, event.call_id)
            for named in chained_calls(event.reference, event.call_id)
            if named not in state.known
        ]
    return effects


def _asked_before(event: CallEvent, state: CallState) -> bool:
    return len(state.events) <= FEW_EVENTS and any(
        other.reference == event.reference and other is not event for other in state.events.values()
    )


def asked(question: ReferenceAsked, state: CallState) -> list[Effect]:
    """Somebody names this call: an answer now, or as soon as it is known."""
    if any(event.type in _PROVES_A_CALL for event in state.events.values()):
        return [AnswerReference(question.asker, question.call_id)]
    state.askers |= {question.asker}
    return []


def answered(answer: ReferenceKnown, state: CallState) -> bool:
    """A call that this one names is known; False where that was known before."""
    if answer.referenced in state.known:
        return False
    state.known |= {answer.referenced}
    return True


def travelling(effects: Iterable[Effect]) -> list[Record]:
    """The records that carry the questions and answers among these effects, in their order."""
    return [
        ReferenceAsked(effect.referenced, effect.asker)
        if isinstance(effect, AskReference)
        else ReferenceKnown(effect.asker, effect.referenced)
        for effect in effects
        if isinstance(effect, AskReference | AnswerReference)
    ]
