"""The one door: a partition's records in, effects out.

The live stream, replay, the offline command, the simulation and the tests all drive this object and
nothing below it. Same records in the same order, same effects, byte for byte, however they are cut
into batches: timers fire at the record that moves the watermark, never at the end of a batch.

Owns what each record does to its call, and when a call is looked at. Refuses to know where calls
and timers are kept (`held_calls`), and what is told of a call (`telling`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from callstate import events as kinds
from callstate import references
from callstate.call import FEW_EVENTS, Applied, CallState, identity
from callstate.clock_steps import Position
from callstate.clocks import Offset
from callstate.config import ResolutionConfig, to_us
from callstate.counters import Counters
from callstate.effects import DeadLetter, Effect, RecordLate
from callstate.envelope import Gap, Heartbeat, Malformed, Record, ReferenceAsked, ReferenceKnown
from callstate.events import CallEvent, row_of
from callstate.exchanges import Exchange, exchanges
from callstate.held_calls import CallStore, HeldCalls
from callstate.live_clocks import LiveClocks
from callstate.telling import Judgement, Teller
from callstate.watermark import Watermark

SNAPSHOT_VERSION = 1


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
        self._calls = HeldCalls(calls)
        self._watermark = Watermark(
            config.servers,
            to_us(config.allowed_lateness_seconds),
            None if config.idle_after_seconds is None else to_us(config.idle_after_seconds),
        )
        self._events_max = config.call_events_max
        self._grace_us = to_us(config.grace_seconds)
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
        self._calls.put_back()
        return self._effects

    def recall(self, call_id: str, state: CallState) -> None:
        """Takes up a call that was forgotten, before records about it are fed: see `recall`."""
        self._calls.add(call_id, state)
        now = self._watermark.time_us or 0
        self._calls.set_timer(call_id, state, now + to_us(self.config.late_horizon_seconds))

    def finish(self) -> Iterator[Effect]:
        """End of input: every call is final, in the order of their Call-IDs.

        For files; a live stream never ends. Each call is forgotten once it is told.
        """
        for call_id in sorted(call_id for call_id, _ in self._calls.all()):
            state = self._calls.take(call_id)
            self._effects = []
            if state.events:
                self._tell(call_id, state, self._teller.judge(state))
            self._calls.forget(call_id)
            yield from self._effects

    def fit_traffic_clocks(self, reference: str) -> list[Effect]:
        """Measures the servers' clocks by all calls that are held, before `finish`.

        Returns what is to be said of the clocks: which are off, which were set, when and by how
        much.
        """
        found: list[Exchange] = []
        for _, state in self._calls.all():
            found.extend(exchanges(state.events.values()))
        return self._clocks.fit_all(found, reference, self._rows_of)

    def _rows_of(self, server: str) -> Iterator[Position]:
        for _, state in self._calls.all():
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
        self._calls.look_ahead(self._watermark.time_us)

    # -- records ---------------------------------------------------------------------------

    def _event(self, event: CallEvent) -> None:
        source = self._watermark.sources.get(event.server)
        if source is None or source.set_aside:
            back = self._watermark.heard_from(event.server)
            if back is not None:
                self._effects.append(back)
        state = self._calls.in_hand.get(event.call_id)
        if state is None:
            state = self._calls.take(event.call_id)
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
            if self._live and event.type in _ANSWERS and len(state.events) <= FEW_EVENTS:
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
            self._calls.set_timer(
                event.call_id, state, soonest if soonest is not None else event.time_us
            )
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
            self._calls.set_timer(event.call_id, state, due)

    def _wait_for_end(self, call_id: str, state: CallState) -> None:
        """It rings no longer: what the requests set a timer for cannot happen any more."""
        if state.deadline_us is not None:
            self._calls.set_timer(call_id, state, state.deadline_us + self._answered_us)

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
                self._judge_again()
            for call_id, state in self._calls.due(now):
                self._look_at(call_id, state, now)

    def _other(self, record: Record) -> None:
        if isinstance(record, Malformed):
            self.counters.events += 1
            self.counters.dead_letters += 1
            self._effects.append(DeadLetter(record.reason, record.server, record.raw))
        elif isinstance(record, ReferenceAsked):
            state = self._calls.take(record.call_id)
            self._effects += references.asked(record, state)
            self._wait_for_events(record.call_id, state)
        elif isinstance(record, ReferenceKnown):
            self._answered(record)
        elif isinstance(record, Gap):
            self._gap(record)
        elif isinstance(record, Exchange):
            self._clocks.heard(record)

    def _judge_again(self) -> None:
        """A step was found only now: calls told meanwhile took a clock for what it was before."""
        told_otherwise = self._calls.take_where(
            lambda state: state.closed and self._clocks.contradict(state.events.values())
        )
        for call_id, state in told_otherwise:
            state.unfix_clocks()
            state.reclocked += 1
            self._look_again(call_id, state)

    def _wait_for_events(self, call_id: str, state: CallState) -> None:
        """A call of which nothing but its name is known is kept for long, but not for ever."""
        now = self._watermark.time_us
        if not state.events and state.deadline_us is None and now is not None:
            self._calls.set_timer(
                call_id, state, now + to_us(self.config.reference_horizon_seconds)
            )

    def _answered(self, answer: ReferenceKnown) -> None:
        state = self._calls.take(answer.call_id)
        self._wait_for_events(answer.call_id, state)
        if references.answered(answer, state) and state.closed:
            self._look_again(answer.call_id, state)

    def _look_again(self, call_id: str, state: CallState) -> None:
        """Something came that the last telling did not know."""
        now = self._watermark.time_us
        state.dirty = True
        self._calls.set_timer(call_id, state, 0 if now is None else now + self._grace_us)

    # -- gaps --------------------------------------------------------------------------------

    def _gap(self, gap: Gap) -> None:
        span = (gap.from_us, gap.to_us)
        if span in self._gaps:
            return
        self._gaps.append(span)
        maybe_torn = self._calls.take_where(
            lambda state: state.closed and self._gaps_of(state) != state.gaps
        )
        for call_id, state in maybe_torn:
            self._look_again(call_id, state)

    def _gaps_of(self, state: CallState) -> int:
        if not self._gaps or not state.events:
            return 0
        times = [event.time_us for event in state.events.values()]
        first, last = min(times), max(times)
        return sum(start <= last and end >= first for start, end in self._gaps)

    # -- verdicts ------------------------------------------------------------------------------

    def _look_at(self, call_id: str, state: CallState, now: int) -> None:
        if not state.events or (state.closed and not state.dirty):
            self._calls.forget(call_id)
            self.counters.forgotten += 1
            return
        judgement = self._teller.judge(state)
        final_us = judgement.final_us
        # Of a Call-ID that was used again the first call is told for long: the newest one decides.
        if (not state.closed or len(judgement.uses) > 1) and (final_us is None or final_us >= now):
            if final_us is not None:
                self._calls.set_timer(call_id, state, final_us + 1)
            return
        self._tell(call_id, state, judgement)
        self._calls.set_timer(call_id, state, now + to_us(self.config.late_horizon_seconds))

    def _tell(self, call_id: str, state: CallState, judgement: Judgement) -> None:
        if self._gaps:
            state.gaps = self._gaps_of(state)
        now = self._watermark.time_us
        self._effects += self._teller.tell(call_id, state, judgement, now, self.counters)


_ANSWERS = frozenset((kinds.SETUP, kinds.FAILURE))
_NEW, _DUPLICATE = Applied.NEW, Applied.DUPLICATE


def _is_first_answer(setup: CallEvent, state: CallState) -> bool:
    """Whether nothing but requests came before it."""
    if len(state.events) > FEW_EVENTS:
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
