"""The one door: a partition's records in, effects out.

The live stream, replay, the offline command, the simulation and the tests all drive this object and
nothing below it. Same records in the same order, same effects, byte for byte, however they are cut
into batches: timers fire at the record that moves the watermark, never at the end of a batch.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Protocol

from callstate import events as kinds
from callstate import references
from callstate.call import Applied, CallState, identity
from callstate.clock_steps import Position
from callstate.clocks import Offset
from callstate.config import ResolutionConfig, to_us
from callstate.counters import Counters
from callstate.effects import (
    DeadLetter,
    Effect,
    RecordLate,
)
from callstate.envelope import Gap, Heartbeat, Malformed, Record, ReferenceAsked, ReferenceKnown
from callstate.events import CallEvent, row_of
from callstate.exchanges import Exchange, exchanges
from callstate.live_clocks import LiveClocks
from callstate.telling import Judgement, Teller
from callstate.watermark import Watermark

SNAPSHOT_VERSION = 1


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
        """All calls, in any order; a state that is changed is to be `put`."""

    def deadline(self, call_id: str) -> int | None:
        """The `deadline_us` of a call; None where there is no such call, too."""

    def deadlines(self, before_us: int) -> Iterable[tuple[str, int]]:
        """The `deadline_us` of all calls that have one before that time, in any order."""


class DictStore(dict[str, CallState]):
    """Calls in memory, for files, simulation and tests."""

    def put(self, call_id: str, state: CallState) -> None:
        """Keeps a state."""
        self[call_id] = state

    def delete(self, call_id: str) -> None:
        """Forgets a call."""
        self.pop(call_id, None)

    def deadline(self, call_id: str) -> int | None:
        """When the call is looked at next."""
        state = self.get(call_id)
        return None if state is None else state.deadline_us

    def deadlines(self, before_us: int) -> Iterable[tuple[str, int]]:
        """When calls are looked at next."""
        return deadlines_of(self.items(), before_us)


def deadlines_of(
    calls: Iterable[tuple[str, CallState]], before_us: int
) -> Iterator[tuple[str, int]]:
    """What `CallStore.deadlines` tells, from the calls themselves."""
    for call_id, state in calls:
        due_us = state.deadline_us
        if due_us is not None and due_us < before_us:
            yield call_id, due_us


class PartitionProcessor:
    """Turns one partition's records into effects.

    Guarantees: applying a record twice changes nothing; the last effect about a call is a function
    of the set of its events; the watermark never retreats; no record raises.
    """

    def __init__(
        self,
        config: ResolutionConfig,
        calls: CallStore,
        *,
        explaining: bool = True,
        live: bool = True,
    ) -> None:
        """Starts with nothing known of the partition; see `restore`.

        Args:
            config: The rules' settings.
            calls: Where the calls live.
            explaining: Whether provenance says more than the revision; that is half the work.
            live: Whether clocks are measured and calls closed while records come; else once at
                the end of the input, by `fit_traffic_clocks` and `finish`.
        """
        self.config = config
        self._live = live
        self.counters = Counters()
        self._calls = calls
        self._watermark = Watermark(
            config.servers,
            to_us(config.allowed_lateness_seconds),
            None if config.idle_after_seconds is None else to_us(config.idle_after_seconds),
        )
        self._events_max = config.call_events_max
        self._grace_us = to_us(config.grace_seconds)
        self._timers: list[tuple[int, str]] = []  # a heap of those that are due before `_near_us`
        self._near_us = _NEVER
        self._touched: dict[str, CallState] = {}
        self._gaps: list[tuple[int, int]] = []
        self._clocks = LiveClocks(config)
        self._teller = Teller(config, self._clocks, explaining=explaining, fixing=live)
        self._effects: list[Effect] = []
        self._waits_us = _waits(config)
        request_us, setup_us = self._waits_us[kinds.REQUEST], self._waits_us[kinds.SETUP]
        # How much longer an answered call is waited for than one that rings; 0: no longer.
        self._answered_us = max(0, (setup_us or 0) - (request_us or 0))

    @property
    def watermark_us(self) -> int | None:
        """Event time up to which this partition is complete; None before every server spoke."""
        return self._watermark.time_us

    @property
    def watermark(self) -> Watermark:
        """The frontiers behind `watermark_us`, for status pages; not to be changed."""
        return self._watermark

    @property
    def traffic_clocks(self) -> dict[str, Offset]:
        """Each server's clock as the calls tell it, for status pages; empty where they do not."""
        now_us = self._watermark.time_us
        return {} if now_us is None else self._clocks.by_traffic(now_us)

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

    def recall(self, call_id: str, state: CallState) -> None:
        """Takes up a call that was forgotten, before records about it are fed: see `recall`."""
        self._calls.put(call_id, state)
        now = self._watermark.time_us or 0
        self._set_timer(call_id, state, now + to_us(self.config.late_horizon_seconds))

    def finish(self) -> Iterator[Effect]:
        """End of input: every call is final, in the order of their Call-IDs.

        For files; a live stream never ends. Each call is forgotten once it is told.
        """
        for call_id in sorted(call_id for call_id, _ in self._calls.items()):
            state = self._calls.get(call_id)
            self._effects = []
            if state is not None and state.events:
                self._tell(call_id, state, self._teller.judge(state))
            self._calls.delete(call_id)
            yield from self._effects

    def fit_traffic_clocks(self, reference: str) -> list[Effect]:
        """Measures the servers' clocks by all calls that are held, before `finish`.

        Returns what is to be said of the clocks: which are off, which were set, when and by how
        much.
        """
        found: list[Exchange] = []
        for _, state in self._calls.items():
            found.extend(exchanges(state.events.values()))
        return self._clocks.fit_all(found, reference, self._rows_of)

    def _rows_of(self, server: str) -> Iterator[Position]:
        for _, state in self._all_calls():
            for event in state.events.values():
                if event.server == server:
                    yield Position(event.id or 0, event.time_us)

    def snapshot(self) -> dict[str, Any]:
        """The partition's own state, JSON-able; the calls are in the store."""
        return {
            "v": SNAPSHOT_VERSION,
            "watermark": self._watermark.snapshot(),
            "gaps": self._gaps,
            "clocks": self._clocks.snapshot(),
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
            self._clocks.restore(snapshot["clocks"])
            self.counters = Counters.from_json(snapshot["counters"])
        now = self._watermark.time_us
        self._look_ahead(_NEVER if now is None else now + _NEAR_FOR_US)

    # -- records ---------------------------------------------------------------------------

    def _event(self, event: CallEvent) -> None:
        source = self._watermark.sources.get(event.server)
        if source is None or source.set_aside:
            back = self._watermark.heard_from(event.server)
            if back is not None:
                self._effects.append(back)
        state = self._touched.get(event.call_id)
        if state is None:
            state = self._call(event.call_id)
        applied, other = state.apply(event, self._events_max)
        counters = self.counters
        counters.events += 1
        if applied is _DUPLICATE:
            counters.duplicates += 1
            return
        if applied is _NEW:
            counters.applied += 1
            if len(state.events) == 1:
                counters.opened += 1
            if event.reference or state.askers:
                self._effects += references.noted(event, state)
            if self._live and event.type in _ANSWERS and len(state.events) <= _FEW_EVENTS:
                self._effects += self._clocks.note(event, state.events.values())
        elif applied is Applied.TIGHTER_CLOCK:
            self.counters.duplicates += 1
        elif applied is Applied.DROPPED:
            self.counters.dropped += 1
        else:
            self.counters.dead_letters += 1
            assert other is not None
            reason = "two rows with one identity"
            self._effects.append(
                DeadLetter(reason, other.server, row_of(other), call_id=other.call_id)
            )
            self._effects += references.noted(state.events[identity(event)], state)
        if self._live:
            self._schedule(event, state)

    def _schedule(self, event: CallEvent, state: CallState) -> None:
        """Looks at the call as soon as this event could close it, or change what was told."""
        now = self._watermark.time_us
        soonest = None if now is None else now + self._grace_us
        if state.closed:
            state.dirty = True
            late_us = 0 if now is None else max(0, now - event.time_us)
            self._effects.append(RecordLate(event.call_id, event.server, late_us))
            self._set_timer(event.call_id, state, soonest if soonest is not None else event.time_us)
            return
        wait_us = self._waits_us[event.type]
        if wait_us is None:
            return
        if event.type == kinds.SETUP and self._answered_us and _is_first_answer(event, state):
            self._wait_for_end(event.call_id, state)
        clock = event.clock
        due = event.time_us - (clock.offset_us if clock else 0) + wait_us + 1
        if soonest is not None and due < soonest:
            due = soonest
        if state.deadline_us is None or due < state.deadline_us:
            self._set_timer(event.call_id, state, due)

    def _wait_for_end(self, call_id: str, state: CallState) -> None:
        """It rings no longer: what the requests set a timer for cannot happen any more."""
        if state.deadline_us is not None:
            self._set_timer(call_id, state, state.deadline_us + self._answered_us)

    def _heartbeat(self, beat: Heartbeat) -> None:
        self.counters.heartbeats += 1
        server, progress_us, clock = beat
        before = self._watermark.time_us
        if clock is not None:
            self._effects.extend(self._clocks.probed(server, progress_us, clock))
        frontier_us, measured = self._clocks.frontier(server, progress_us, clock)
        self._effects.extend(self._watermark.heartbeat(server, frontier_us, measured=measured))
        now = self._watermark.time_us
        if now is not None and now != before:
            self._effects += self._clocks.advance(now, self._rows_of)
            if self._clocks.reshaped:
                self._judge_again(now)
            self._fire_timers(now)

    def _other(self, record: Record) -> None:
        if isinstance(record, Malformed):
            self.counters.events += 1
            self.counters.dead_letters += 1
            self._effects.append(DeadLetter(record.reason, record.server, record.raw))
        elif isinstance(record, ReferenceAsked):
            state = self._call(record.call_id)
            self._effects += references.asked(record, state)
            self._wait_for_events(record.call_id, state)
        elif isinstance(record, ReferenceKnown):
            self._answered(record)
        elif isinstance(record, Gap):
            self._gap(record)
        elif isinstance(record, Exchange):
            self._clocks.heard(record)

    def _judge_again(self, now: int) -> None:
        """A step was found only now: calls told meanwhile took a clock for what it was before."""
        told_otherwise = self._calls_where(
            lambda state: state.closed and self._clocks.contradict(state.events.values())
        )
        for call_id, state in told_otherwise:
            state.unfix_clocks()
            state.reclocked += 1
            state.dirty = True
            self._touched[call_id] = state
            self._set_timer(call_id, state, now + self._grace_us)

    def _wait_for_events(self, call_id: str, state: CallState) -> None:
        """A call of which nothing but its name is known is kept for long, but not for ever."""
        now = self._watermark.time_us
        if not state.events and state.deadline_us is None and now is not None:
            self._set_timer(call_id, state, now + to_us(self.config.reference_horizon_seconds))

    def _answered(self, answer: ReferenceKnown) -> None:
        state = self._call(answer.call_id)
        self._wait_for_events(answer.call_id, state)
        if references.answered(answer, state) and state.closed:
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
        maybe_torn = self._calls_where(
            lambda state: state.closed and self._gaps_of(state) != state.gaps
        )
        for call_id, state in maybe_torn:
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

    def _all_calls(self) -> Iterator[tuple[str, CallState]]:
        """Every call as it stands now, one at a time: a store may hold millions, encoded."""
        touched = self._touched
        for call_id, state in self._calls.items():
            if call_id not in touched:
                yield call_id, state
        yield from touched.items()

    def _calls_where(self, chosen: Callable[[CallState], bool]) -> list[tuple[str, CallState]]:
        """The calls of which that is so, in the order of Call-IDs."""
        found = [(call_id, state) for call_id, state in self._all_calls() if chosen(state)]
        return sorted(found, key=itemgetter(0))

    def _set_timer(self, call_id: str, state: CallState, due_us: int) -> None:
        if due_us < self._near_us and due_us != state.deadline_us:
            heapq.heappush(self._timers, (due_us, call_id))
        state.deadline_us = due_us

    def _look_ahead(self, near_us: int) -> None:
        """The timers up to a time, from the calls: those far ahead are only in the calls' states.

        A told call is forgotten in hours, and one that is answered closed in hours: most of these
        end long before. A heap of all would be most of the memory that a million calls take.
        """
        touched = self._touched
        timers = [
            (due_us, call_id)
            for call_id, due_us in self._calls.deadlines(near_us)
            if call_id not in touched
        ]
        timers += [(due_us, call_id) for call_id, due_us in deadlines_of(touched.items(), near_us)]
        heapq.heapify(timers)
        self._timers = timers
        self._near_us = near_us

    def _deadline(self, call_id: str) -> int | None:
        state = self._touched.get(call_id)
        return self._calls.deadline(call_id) if state is None else state.deadline_us

    def _fire_timers(self, now: int) -> None:
        if now >= self._near_us:
            self._look_ahead(now + _NEAR_FOR_US)
        while self._timers and self._timers[0][0] <= now:
            due_us, call_id = heapq.heappop(self._timers)
            if self._deadline(call_id) != due_us:
                continue  # another look was set meanwhile, or the call is forgotten
            state = self._call(call_id)
            state.deadline_us = None
            self._look_at(call_id, state, now)

    def _look_at(self, call_id: str, state: CallState, now: int) -> None:
        if not state.events or (state.closed and not state.dirty):
            self._touched.pop(call_id, None)
            self._calls.delete(call_id)
            self.counters.forgotten += 1
            return
        judgement = self._teller.judge(state)
        final_us = judgement.final_us
        # Of a Call-ID that was used again the first call is told for long: the newest one decides.
        if (not state.closed or len(judgement.uses) > 1) and (final_us is None or final_us >= now):
            if final_us is not None:
                self._set_timer(call_id, state, final_us + 1)
            return
        self._tell(call_id, state, judgement)
        self._set_timer(call_id, state, now + to_us(self.config.late_horizon_seconds))

    def _tell(self, call_id: str, state: CallState, judgement: Judgement) -> None:
        if self._gaps:
            state.gaps = self._gaps_of(state)
        now = self._watermark.time_us
        self._effects += self._teller.tell(call_id, state, judgement, now, self.counters)


# A call of more events is a flood: looking at all of them for each would be quadratic.
_FEW_EVENTS = 200
_NEVER = -(2**63)  # before all times
# How far timers are looked up ahead. Looking costs a microsecond a call: at 1,000 events/s, with
# the told calls of two hours, 1.4 s in a quarter of an hour.
_NEAR_FOR_US = 900 * 1_000_000
_ANSWERS = frozenset((kinds.SETUP, kinds.FAILURE))
_NEW, _DUPLICATE = Applied.NEW, Applied.DUPLICATE


def _is_first_answer(setup: CallEvent, state: CallState) -> bool:
    """Whether nothing but requests came before it."""
    if len(state.events) > _FEW_EVENTS:
        return False
    return all(event.type == kinds.REQUEST or event is setup for event in state.events.values())


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
