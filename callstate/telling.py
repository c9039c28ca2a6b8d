"""Judging a call and telling what came of it.

Owns the way from a call's state to its effects: times corrected, uses of the Call-ID told apart,
the verdict on each, hidden or not, with its reasons. Refuses to know when a call is judged: that is
`processor`.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from callstate.call import CallState
from callstate.call_uses import call_uses
from callstate.clocks import TRAFFIC, Corrected, TrafficClocks, correct
from callstate.config import ResolutionConfig
from callstate.counters import Counters
from callstate.effects import DeadLetter, Effect, EmitCdr, HideCall
from callstate.events import Clock, row_of
from callstate.provenance import explain, tell_briefly
from callstate.resolution import Verdict, resolve
from callstate.timed import Timed, timed_in_order

_CHAIN: Final = "leg of a chain"


class Judgement(NamedTuple):
    """The verdict on each use of a Call-ID, usually one, and what was done to the times."""

    corrected: Corrected
    uses: list[tuple[list[Timed], Verdict]]

    @property
    def final_us(self) -> int | None:
        """Event time after which the newest use's verdict stands; None: never."""
        return self.uses[-1][1].final_us


class Teller:
    """Judges calls by one set of rules and clocks."""

    def __init__(
        self, config: ResolutionConfig, clocks: TrafficClocks, *, explaining: bool, fixing: bool
    ) -> None:
        """`fixing`: told calls are remembered, and what the traffic said of a clock with them."""
        self._config = config
        self._clocks = clocks
        self._explain = explain if explaining else tell_briefly
        self._fixing = fixing

    def judge(self, state: CallState) -> Judgement:
        """The verdicts on what is known now."""
        events = list(state.events.values())
        corrected = correct(events, self._clocks, self._config.time_correction)
        uses = call_uses(timed_in_order(events, corrected.times), self._config)
        return Judgement(corrected, [(use, resolve(use, self._config)) for use in uses])

    def tell(
        self,
        call_id: str,
        state: CallState,
        judgement: Judgement,
        watermark_us: int | None,
        counters: Counters,
    ) -> list[Effect]:
        """The effects of a judgement; the state remembers that it was told."""
        effects: list[Effect] = []
        first, *others = judgement.uses
        timed, verdict = first
        if others or state.uses:
            effects += self._told_apart(call_id, state, judgement, watermark_us)
        effects[:0] = self._told(call_id, state, judgement, timed, verdict, watermark_us)
        head = effects[0]
        hidden = head.reason if isinstance(head, HideCall) else ""
        counters.told(verdict, hidden, again=state.closed)
        state.told = head.cdr if isinstance(head, EmitCdr) else None
        state.closed = True
        state.dirty = False
        state.revision = state.next_revision()
        if self._fixing:
            _fix_clocks(state, judgement.corrected)
        return effects

    def _told_apart(
        self, call_id: str, state: CallState, judgement: Judgement, watermark_us: int | None
    ) -> list[Effect]:
        """The later uses of a Call-ID under names of their own.

        A use that a late event has joined to another one is no call of its own any more: what was
        told under its name is taken back.
        """
        effects: list[Effect] = []
        names = []
        for timed, verdict in judgement.uses[1:]:
            named = _named_apart(call_id, verdict)
            if named.cdr is not None:
                names.append(named.cdr.call_id)
                effects += self._told(names[-1], state, judgement, timed, named, watermark_us)
        timed, verdict = judgement.uses[0]
        for name in sorted(set(state.uses).difference(names)):
            reason = f"one call with {call_id}"
            why = self._explain(
                name, state, judgement.corrected, timed, verdict, watermark_us, reason
            )
            effects.append(HideCall(name, reason, why))
        state.uses = tuple(names)
        return effects

    def _told(
        self,
        call_id: str,
        state: CallState,
        judgement: Judgement,
        timed: list[Timed],
        verdict: Verdict,
        watermark_us: int | None,
    ) -> list[Effect]:
        hidden = verdict.hidden
        if not hidden and verdict.chained and state.known.issuperset(verdict.chained):
            hidden = _CHAIN
        cdr = verdict.cdr
        effects: list[Effect] = []
        if cdr is None:
            hidden = verdict.rule
            effects += [
                DeadLetter(hidden, event.server, row_of(event), call_id) for _, event in timed
            ]
            if not self._fixing:
                return effects  # nothing comes later
        provenance = self._explain(
            call_id, state, judgement.corrected, timed, verdict, watermark_us, hidden
        )
        if cdr is None or hidden:
            effects.append(HideCall(call_id, hidden, provenance, unknown=cdr is None))
        else:
            effects.append(EmitCdr(cdr, provenance))
        return effects


def _named_apart(call_id: str, verdict: Verdict) -> Verdict:
    """A later use of a Call-ID under a name of its own: `;` cannot be part of a Call-ID."""
    if verdict.cdr is None:
        return verdict
    name = f"{call_id};from-tag={verdict.cdr.from_tag}"
    return verdict._replace(
        cdr=verdict.cdr._replace(call_id=name),
        notes=(*verdict.notes, "this Call-ID was used before by another call"),
    )


def _fix_clocks(state: CallState, corrected: Corrected) -> None:
    """What the traffic said when the call was first told stays with it: see `Clock.traffic`."""
    by_server = {offset.server: offset for offset in corrected.offsets if offset.source == TRAFFIC}
    if not by_server:
        return
    fixed = {}
    for (key, event), time_us in zip(state.events.items(), corrected.times, strict=True):
        told = by_server.get(event.server)
        if told is not None and event.clock is None:
            offset_us = event.time_us - time_us if told.applied else told.offset_us
            fixed[key] = Clock(False, told.error_us or 0, offset_us, True)
    state.fix_clocks(fixed)
