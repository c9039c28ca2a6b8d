"""The one door: a partition's records in, effects out.

The live stream, replay, the offline command, the simulation and the tests all drive this object and
nothing below it. Same records in the same order, same effects, byte for byte, however they are cut
into batches: timers fire at the record that moves the watermark, never at the end of a batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from callstate import events as kinds
from callstate.call import Applied, CallState
from callstate.chains import chained_calls
from callstate.clock_steps import Position
from callstate.clocks import PROBE, Corrected, TrafficClocks, correct, corrected_progress
from callstate.config import ResolutionConfig, to_us
from callstate.counters import Counters
from callstate.effects import (
    AnswerReference,
    AskReference,
    DeadLetter,
    Effect,
    EmitCdr,
    HideCall,
    RecordLate,
    SkewObserved,
)
from callstate.envelope import Gap, Heartbeat, Malformed, Record, ReferenceAsked, ReferenceKnown
from callstate.events import CallEvent, row_of
from callstate.exchanges import Exchange, exchanges
from callstate.provenance import explain, tell_briefly
from callstate.resolution import Verdict, resolve, timed_in_order
from callstate.traffic_clocks import fit
from callstate.watermark import Watermark

SNAPSHOT_VERSION = 1
_CHAIN = "leg of a chain"


class CallStore(Protocol):
    """Where the calls of one partition live: a dict here, a Faust table in the stream app.

    The processor `get`s a call once in a batch, keeps it, changes it, and `put`s it once at the
    end of the batch, so a store may encode on `put` and decode on `get`.
    """

    def get(self, call_id: str) -> CallState | None:
        """The call's state, or None."""

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state that is new or changed."""

    def delete(self, call_id: str) -> None:
        """Forgets a call; one that is not there is no error."""

    def items(self) -> Iterable[tuple[str, CallState]]:
        """All calls, in any order."""


class DictStore(dict[str, CallState]):
    """Calls in memory, for files, simulation and tests."""

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state."""
        self[call_id] = state

    def delete(self, call_id: str) -> None:
        """Forgets a call."""
        self.pop(call_id, None)


class PartitionProcessor:
    """Turns one partition's records into effects.

    Guarantees: applying a record twice changes nothing; the last effect about a call is a function
    of the set of its events; the watermark never retreats; no record raises.
    """

    def __init__(
        self, config: ResolutionConfig, calls: CallStore, *, explaining: bool = True
    ) -> None:
        """Without `explaining` provenance holds the revision alone, which saves half the time."""
        self.config = config
        self._explain = explain if explaining else tell_briefly
        self.counters = Counters()
        self._calls = calls
        self._watermark = Watermark(
            config.servers,
            to_us(config.allowed_lateness_seconds),
            None if config.idle_after_seconds is None else to_us(config.idle_after_seconds),
        )
        self._grace_us = to_us(config.grace_seconds)
        self._timers: list[tuple[int, str]] = []
        self._touched: dict[str, CallState] = {}
        self._gaps: list[tuple[int, int]] = []
        self._skewed: set[str] = set()
        self._effects: list[Effect] = []
        self._traffic: TrafficClocks | None = None
        self._waits_us = _waits(config)

    @property
    def watermark_us(self) -> int | None:
        """Event time up to which this partition is complete; None before every server spoke."""
        return self._watermark.time_us

    @property
    def watermark(self) -> Watermark:
        """The frontiers behind `watermark_us`, for status pages; not to be changed."""
        return self._watermark

    def feed(self, records: Sequence[Record]) -> list[Effect]:
        """A batch of records of one partition, in offset order."""
        self._effects = []
        for record in records:
            if type(record) is CallEvent:
                self._event(record)
            elif type(record) is Heartbeat:
                self._heartbeat(record)
            else:
                self._other(record)
        for call_id, state in self._touched.items():
            self._calls.put(call_id, state)
        self._touched.clear()
        return self._effects

    def finish(self) -> Iterator[Effect]:
        """End of input: every call is final, in the order of their Call-IDs.

        For files; a live stream never ends. Each call is forgotten once it is told.
        """
        for call_id in sorted(call_id for call_id, _ in self._calls.items()):
            state = self._calls.get(call_id)
            self._effects = []
            if state is not None and state.events:
                self._tell(call_id, state, *self._judge(state))
            self._calls.delete(call_id)
            yield from self._effects

    def fit_traffic_clocks(self, reference: str) -> None:
        """Measures the servers' clocks by the calls that are held, before `finish`."""
        found: list[Exchange] = []
        for _, state in self._calls.items():
            found.extend(exchanges(state.events.values()))
        self._traffic = fit(found, reference, self._rows_of) if found else None

    def _rows_of(self, server: str) -> Iterator[Position]:
        for _, state in self._calls.items():
            for event in state.events.values():
                if event.server == server:
                    yield Position(event.id or 0, event.time_us)

    def use_traffic_clocks(self, clocks: TrafficClocks | None) -> None:
        """Offsets for servers whose events carry no probe."""
        self._traffic = clocks

    def snapshot(self) -> dict[str, Any]:
        """The partition's own state, JSON-able; the calls are in the store."""
        return {
            "v": SNAPSHOT_VERSION,
            "watermark": self._watermark.snapshot(),
            "gaps": self._gaps,
            "skewed": sorted(self._skewed),
            "counters": self.counters.to_json(),
        }

    def restore(self, snapshot: dict[str, Any] | None) -> None:
        """Takes up where `snapshot` was made, and sets the timers of the calls in the store.

        Raises:
            ValueError: The snapshot's version is one that this program does not know.
        """
        if snapshot is not None:
            if snapshot["v"] != SNAPSHOT_VERSION:
                raise ValueError(f"partition state of version {snapshot['v']!r} is unknown")
            self._watermark.restore(snapshot["watermark"])
            self._gaps = [(start, end) for start, end in snapshot["gaps"]]
            self._skewed = set(snapshot["skewed"])
            self.counters = Counters.from_json(snapshot["counters"])
        self._timers = [
            (state.deadline_us, call_id)
            for call_id, state in self._calls.items()
            if state.deadline_us is not None
        ]
        heapq.heapify(self._timers)

    # -- records ---------------------------------------------------------------------------

    def _event(self, event: CallEvent) -> None:
        back = self._watermark.heard_from(event.server)
        if back is not None:
            self._effects.append(back)
        state = self._call(event.call_id)
        applied, other = state.apply(event, self.config.call_events_max)
        self.counters.events += 1
        if applied is Applied.DUPLICATE:
            self.counters.duplicates += 1
            return
        if applied is Applied.NEW:
            self.counters.applied += 1
            self._note_references(event, state)
        elif applied is Applied.TIGHTER_CLOCK:
            self.counters.duplicates += 1
        else:
            self.counters.dead_letters += 1
            reason = "two rows with one identity"
            if applied is Applied.FULL:
                reason = f"beyond {self.config.call_events_max} events of one call"
            assert other is not None
            self._effects.append(
                DeadLetter(reason, other.server, row_of(other), call_id=other.call_id)
            )
        self._schedule(event, state)

    def _schedule(self, event: CallEvent, state: CallState) -> None:
        """Looks at the call as soon as this event could close it, or change what was told."""
        now = self._watermark.time_us
        soonest = None if now is None else now + self._grace_us
        if state.closed:
            state.dirty = True
            state.late_events += 1
            late_us = 0 if now is None else max(0, now - event.time_us)
            self._effects.append(RecordLate(event.call_id, event.server, late_us))
            self._set_timer(event.call_id, state, soonest if soonest is not None else event.time_us)
            return
        wait_us = self._waits_us[event.type]
        if wait_us is None:
            return
        clock = event.clock
        due = event.time_us - (clock.offset_us if clock else 0) + wait_us + 1
        if soonest is not None and due < soonest:
            due = soonest
        if state.deadline_us is None or due < state.deadline_us:
            self._set_timer(event.call_id, state, due)

    def _heartbeat(self, beat: Heartbeat) -> None:
        self.counters.heartbeats += 1
        before = self._watermark.time_us
        frontier_us = corrected_progress(beat.progress_us, beat.clock)
        self._effects.extend(self._watermark.heartbeat(beat.server, frontier_us))
        if beat.clock is not None:
            self._watch_clock(beat)
        if self._watermark.time_us != before:
            self._fire_timers()

    def _watch_clock(self, beat: Heartbeat) -> None:
        """Warns once when a clock is surely off, and once when it surely is not any more."""
        assert beat.clock is not None
        _, error_us, offset_us = beat.clock
        threshold_us = to_us(self.config.skew_warning_seconds)
        known = beat.server in self._skewed
        if not known and abs(offset_us) - error_us > threshold_us:
            self._skewed.add(beat.server)
        elif known and abs(offset_us) + error_us < threshold_us:
            self._skewed.discard(beat.server)
        else:
            return
        self._effects.append(SkewObserved(beat.server, offset_us, error_us, PROBE, off=not known))

    def _other(self, record: Record) -> None:
        if isinstance(record, Malformed):
            self.counters.events += 1
            self.counters.dead_letters += 1
            self._effects.append(DeadLetter(record.reason, record.server, record.raw))
        elif isinstance(record, ReferenceAsked):
            self._asked(record)
        elif isinstance(record, ReferenceKnown):
            self._answered(record)
        elif isinstance(record, Gap):
            self._gap(record)

    # -- references between calls ------------------------------------------------------------

    def _note_references(self, event: CallEvent, state: CallState) -> None:
        if event.type in (kinds.REQUEST, kinds.SETUP) and state.askers:
            for asker in sorted(state.askers):
                self._effects.append(AnswerReference(asker, event.call_id))
            state.askers = frozenset()
        if event.reference:
            told_before = sum(other.reference == event.reference for other in state.events.values())
            if told_before == 1:
                for named in chained_calls(event.reference, event.call_id):
                    self._effects.append(AskReference(named, event.call_id))

    def _asked(self, question: ReferenceAsked) -> None:
        state = self._call(question.call_id)
        if any(event.type in (kinds.REQUEST, kinds.SETUP) for event in state.events.values()):
            self._effects.append(AnswerReference(question.asker, question.call_id))
        else:
            state.askers |= {question.asker}

    def _answered(self, answer: ReferenceKnown) -> None:
        state = self._call(answer.call_id)
        if answer.referenced in state.known:
            return
        state.known |= {answer.referenced}
        if state.closed:
            state.dirty = True
            now = self._watermark.time_us
            self._set_timer(answer.call_id, state, 0 if now is None else now + self._grace_us)

    # -- gaps --------------------------------------------------------------------------------

    def _gap(self, gap: Gap) -> None:
        span = (gap.from_us, gap.to_us)
        if span in self._gaps:
            return
        self._gaps.append(span)
        now = self._watermark.time_us
        self._put_touched()
        for call_id, state in list(self._calls.items()):
            if state.closed and self._gaps_of(state) != state.gaps:
                state.dirty = True
                self._touched[call_id] = state
                self._set_timer(call_id, state, 0 if now is None else now + self._grace_us)

    def _gaps_of(self, state: CallState) -> int:
        if not self._gaps or not state.events:
            return 0
        times = [event.time_us for event in state.events.values()]
        first, last = min(times), max(times)
        return sum(start <= last and end >= first for start, end in self._gaps)

    # -- timers and verdicts -------------------------------------------------------------------

    def _call(self, call_id: str) -> CallState:
        state = self._touched.get(call_id)
        if state is None:
            state = self._calls.get(call_id) or CallState()
            self._touched[call_id] = state
        return state

    def _put_touched(self) -> None:
        for call_id, state in self._touched.items():
            self._calls.put(call_id, state)

    def _set_timer(self, call_id: str, state: CallState, due_us: int) -> None:
        state.deadline_us = due_us
        heapq.heappush(self._timers, (due_us, call_id))

    def _fire_timers(self) -> None:
        now = self._watermark.time_us
        assert now is not None
        while self._timers and self._timers[0][0] <= now:
            due_us, call_id = heapq.heappop(self._timers)
            state = self._touched.get(call_id) or self._calls.get(call_id)
            if state is None or state.deadline_us != due_us:
                continue  # a later look was set meanwhile, or the call is forgotten
            self._touched[call_id] = state
            self._look_at(call_id, state, now)

    def _look_at(self, call_id: str, state: CallState, now: int) -> None:
        if not state.events or (state.closed and not state.dirty):
            self._touched.pop(call_id, None)
            self._calls.delete(call_id)
            self.counters.forgotten += 1
            return
        corrected, verdict = self._judge(state)
        if not state.closed and (verdict.final_us is None or verdict.final_us >= now):
            if verdict.final_us is None:
                state.deadline_us = None
            else:
                self._set_timer(call_id, state, verdict.final_us + 1)
            return
        self._tell(call_id, state, corrected, verdict)
        self._set_timer(call_id, state, now + to_us(self.config.late_horizon_seconds))

    def _judge(self, state: CallState) -> tuple[Corrected, Verdict]:
        events = list(state.events.values())
        corrected = correct(events, self._traffic, self.config.time_correction)
        return corrected, resolve(timed_in_order(events, corrected.times), self.config)

    def _tell(self, call_id: str, state: CallState, corrected: Corrected, verdict: Verdict) -> None:
        state.gaps = self._gaps_of(state)
        timed = timed_in_order(list(state.events.values()), corrected.times)
        hidden = verdict.hidden
        if not hidden and verdict.chained and state.known.issuperset(verdict.chained):
            hidden = _CHAIN
        provenance = self._explain(
            call_id, state, corrected, timed, verdict, self._watermark.time_us, hidden
        )
        if verdict.cdr is None:
            self._effects.extend(
                DeadLetter(verdict.rule, event.server, row_of(event), call_id) for _, event in timed
            )
        elif hidden:
            self._effects.append(HideCall(call_id, hidden, provenance))
        else:
            self._effects.append(EmitCdr(verdict.cdr, provenance))
        self.counters.told(verdict, hidden, again=state.closed)
        state.closed = True
        state.dirty = False
        state.revision = provenance.revision


def _waits(config: ResolutionConfig) -> dict[str, int | None]:
    """By event type: how long after it the call may be over; None: it ends nothing."""

    def limit(seconds: float) -> int | None:
        return to_us(seconds) if seconds > 0 else None

    failed_us = limit(config.failed_wait_seconds) or 0
    call_us = limit(config.max_call_seconds)
    ringing_us = limit(config.max_ringing_seconds)
    return {
        kinds.REQUEST: call_us if ringing_us is None else ringing_us,
        kinds.SETUP: call_us,
        kinds.TRANSFER: failed_us,
        kinds.FAILURE: failed_us,
        kinds.END: 0,
    }
