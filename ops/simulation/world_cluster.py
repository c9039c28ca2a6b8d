"""Workers, their changelog and their sink in memory: plays a history through the production code.

Owns the order of commit as `docs/architecture.md` has it (database, records to other partitions,
changelog with the partition's own state last, acknowledgement) and what a crash between any two of
them leaves behind. Refuses to judge what comes out: `world_check` does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import orjson

from callstate.call import CallState
from callstate.cdr import Cdr, Provenance
from callstate.config import ResolutionConfig
from callstate.effects import (
    AnswerReference,
    AskReference,
    ClockStepped,
    DeadLetter,
    Effect,
    EmitCdr,
    HideCall,
    RecordLate,
    ShareExchange,
)
from callstate.envelope import Record, ReferenceAsked, ReferenceKnown, read_message
from callstate.held_calls import deadlines_of
from callstate.processor import PartitionProcessor
from ops.simulation.world_history import Append, Fate, History, Work

_DRAIN_ROUNDS_MAX = 20


def partition_of(call_id: str, partitions: int) -> int:
    """Where a call's records go; which function it is does not matter here."""
    return crc32(call_id.encode("utf-8", "replace")) % partitions


@dataclass(frozen=True, slots=True)
class Written:
    """What the database holds of one call; `cdr` is None where it is hidden."""

    cdr: Cdr | None
    provenance: Provenance


@dataclass(slots=True)
class Sink:
    """The database: a lower revision never overwrites a higher one."""

    calls: dict[str, Written] = field(default_factory=dict)
    watermarks: dict[int, int] = field(default_factory=dict)
    revised: int = 0
    refused: int = 0

    def write(self, effects: Iterable[Effect]) -> None:
        """One transaction."""
        for effect in effects:
            if isinstance(effect, EmitCdr):
                self._take(effect.cdr.call_id, Written(effect.cdr, effect.provenance))
            elif isinstance(effect, HideCall):
                self._take(effect.call_id, Written(None, effect.provenance))

    def _take(self, call_id: str, written: Written) -> None:
        held = self.calls.get(call_id)
        if held is not None and held.provenance.revision > written.provenance.revision:
            self.refused += 1
            return
        self.revised += held is not None
        self.calls[call_id] = written


class _Store:
    """Calls as the stream app's table keeps them: encoded, and changed only by `put`."""

    def __init__(self, held: dict[str, bytes]) -> None:
        self._held = held
        self._changes: dict[str, bytes | None] = {}

    def get(self, call_id: str) -> CallState | None:
        encoded = self._changes.get(call_id, self._held.get(call_id))
        if encoded is None or (call_id in self._changes and self._changes[call_id] is None):
            return None
        return CallState.from_wire(orjson.loads(encoded))

    def put(self, call_id: str, state: CallState) -> None:
        self._changes[call_id] = orjson.dumps(state.to_wire())

    def delete(self, call_id: str) -> None:
        self._changes[call_id] = None

    def items(self) -> Iterable[tuple[str, CallState]]:
        for call_id in [*self._held, *(c for c in self._changes if c not in self._held)]:
            state = self.get(call_id)
            if state is not None:
                yield call_id, state

    def deadline(self, call_id: str) -> int | None:
        state = self.get(call_id)
        return None if state is None else state.deadline_us

    def deadlines(self, before_us: int) -> Iterable[tuple[str, int]]:
        return deadlines_of(self.items(), before_us)

    def take_changes(self) -> dict[str, bytes | None]:
        changes, self._changes = self._changes, {}
        for call_id, encoded in changes.items():
            if encoded is None:
                self._held.pop(call_id, None)
            else:
                self._held[call_id] = encoded
        return changes


@dataclass(slots=True)
class _Partition:
    """One partition: its log, its changelog and the worker that has it now."""

    log: list[Record] = field(default_factory=list)
    changelog: dict[str, bytes] = field(default_factory=dict)
    state: bytes | None = None  # the worker's own record in the changelog
    acknowledged: int = 0
    position: int = 0
    store: _Store = field(default_factory=lambda: _Store({}))
    processor: PartitionProcessor | None = None
    zombie: list[Effect] = field(default_factory=list)


class Cluster:
    """The stream app's workers over a history's partitions."""

    def __init__(self, config: ResolutionConfig, partitions: int) -> None:
        self.config = config
        self.sink = Sink()
        self.dead_letters: list[DeadLetter] = []
        self.late = 0
        self.crashes = 0
        self.clock_steps: list[ClockStepped] = []
        self._partitions = [_Partition() for _ in range(partitions)]
        for one in self._partitions:
            self._take_up(one)

    def play(self, history: History) -> None:
        """Plays all steps, then works until nothing is left to do."""
        for step in history.steps:
            if isinstance(step, Append):
                self.append(step)
            else:
                self.work(step)
        self.drain()

    def append(self, step: Append) -> None:
        """Records arrive at the end of a log."""
        log = self._partitions[step.partition].log
        log.extend(read_message(kind, message) for kind, message in step.records)

    def work(self, step: Work) -> None:
        """One batch, as far as its fate lets it get."""
        one = self._partitions[step.partition]
        assert one.processor is not None
        batch = one.log[one.position : one.position + step.records_max]
        if not batch and step.fate is Fate.DONE:
            return
        effects = one.processor.feed(batch)
        one.position += len(batch)
        self._commit(step.partition, one, effects, step.fate)
        if step.fate is not Fate.DONE:
            self.crashes += step.fate is not Fate.MOVED
            self._take_up(one)

    def drain(self) -> None:
        """Works without faults until every log is read, references between partitions included."""
        for _ in range(_DRAIN_ROUNDS_MAX):
            pending = [n for n, one in enumerate(self._partitions) if one.position < len(one.log)]
            if not pending:
                break
            for number in pending:
                self.work(Work(number, 1_000_000))
        for one in self._partitions:
            self.sink.write(one.zombie)
            one.zombie = []

    def read(self, number: int, log: Sequence[Record]) -> None:
        """Reads a whole log anew, as a replay does: what it asks of others is in the logs."""
        one = self._partitions[number]
        assert one.processor is not None
        self.sink.write(one.processor.feed(log))

    def logs(self) -> list[Sequence[Record]]:
        """All records of all partitions, as a replay reads them."""
        return [one.log for one in self._partitions]

    # -- one batch ---------------------------------------------------------------------------

    def _commit(self, number: int, one: _Partition, effects: list[Effect], fate: Fate) -> None:
        """Database, other partitions, changelog, acknowledgement: in this order."""
        if fate is Fate.FED:
            return
        if fate is Fate.ZOMBIE:
            one.zombie = effects
            return
        self._write(number, one, effects)
        if fate is Fate.WRITTEN:
            return
        self._produce(number, effects)
        if fate is Fate.ASKED:
            return
        self._log(one, half=fate is Fate.HALF_LOGGED)
        if fate in (Fate.HALF_LOGGED, Fate.LOGGED):
            return
        one.acknowledged = one.position

    def _write(self, number: int, one: _Partition, effects: list[Effect]) -> None:
        self.sink.write(effects)
        self.sink.write(one.zombie)
        one.zombie = []
        assert one.processor is not None
        reached = one.processor.watermark_us
        if reached is not None:
            # A worker that reads records again reaches lower ones again: the database keeps the
            # highest, as `sink_progress` does.
            self.sink.watermarks[number] = max(reached, self.sink.watermarks.get(number, reached))

    def _produce(self, number: int, effects: Iterable[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, AskReference):
                asked = ReferenceAsked(effect.referenced, effect.asker)
                self._partition_of(effect.referenced).log.append(asked)
            elif isinstance(effect, AnswerReference):
                known = ReferenceKnown(effect.asker, effect.referenced)
                self._partition_of(effect.asker).log.append(known)
            elif isinstance(effect, ShareExchange):
                for other, one in enumerate(self._partitions):
                    if other != number:
                        one.log.append(effect.exchange)
            elif isinstance(effect, DeadLetter):
                self.dead_letters.append(effect)
            elif isinstance(effect, RecordLate):
                self.late += 1
            elif isinstance(effect, ClockStepped):
                self.clock_steps.append(effect)

    def _partition_of(self, call_id: str) -> _Partition:
        return self._partitions[partition_of(call_id, len(self._partitions))]

    def _log(self, one: _Partition, *, half: bool) -> None:
        changes = list(one.store.take_changes().items())
        for call_id, encoded in changes[: len(changes) // 2] if half else changes:
            if encoded is None:
                one.changelog.pop(call_id, None)
            else:
                one.changelog[call_id] = encoded
        if not half:
            assert one.processor is not None
            state: dict[str, Any] = {
                "position": one.position,
                "processor": one.processor.snapshot(),
            }
            one.state = orjson.dumps(state)

    def _take_up(self, one: _Partition) -> None:
        """A worker reads the partition's changelog and goes on from the last acknowledged record.

        Records that the changelog already covers are skipped, as `stream_app.partition` does.
        """
        told = None if one.state is None else orjson.loads(one.state)
        one.store = _Store(dict(one.changelog))
        one.processor = PartitionProcessor(self.config, one.store)
        one.processor.restore(None if told is None else told["processor"])
        one.position = max(one.acknowledged, 0 if told is None else told["position"])
