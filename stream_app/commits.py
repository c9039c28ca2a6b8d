"""Group commit: what all partitions want committed goes together, in one order that loses nothing.

Owns when to commit, the order (database transaction, side records, changelog, acknowledgement) and
the trying again. Refuses to know records and Faust's rebalances.

One transaction covers every partition that has something, so that ten small batches cost one
round of fsyncs; while it runs the next records are being resolved.

A crash between any two steps: before the transaction, all is read and done again. After it, the
rows are written again to no effect (revision guard). After the side records, they are sent twice,
which who reads them bears. After the changelog, records come again that the state knows.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from callstate.effects import DeadLetter
from stream_app.background import BackgroundThread
from stream_app.cdr_stream import cdr_record
from stream_app.changelog import Outbox, OutRecord
from stream_app.dead_letters import dead_letter
from stream_app.errors import Retry, StreamAppError
from stream_app.metrics import ERRORS, count_commit
from stream_app.partition import Commit, PartitionWorker
from stream_app.settings import WorkerSettings
from stream_app.sink import Poison, Sink, Written

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.1
SURELY_OURS_SECONDS = 2.0  # well below any session timeout


@dataclass(slots=True)
class CommitFigures:
    """Counted since the start; read by the status."""

    commits: int = 0
    inserted: int = 0
    revised: int = 0
    hidden: int = 0
    stale: int = 0
    poison: int = 0
    records: int = 0
    fenced: int = 0
    retries: int = 0
    last_seconds: float = 0.0
    watermarks_us: dict[int, int] = field(default_factory=dict)  # partition: as the sink has it
    failing_since: float | None = None  # wall time
    failure: str = ""
    advice: str = ""


@dataclass(slots=True)
class Commits:
    """Commits what the workers have, in the background of one event loop.

    Attributes:
        workers: Partition to its worker; owned by `Assignment`.
        acknowledge: Called with the tokens of a commit when it is durable.
        on_fenced: Called with partition and epoch where another worker has taken the partition.
        let_go: Called with the number of records that are no longer held.
    """

    settings: WorkerSettings
    sink: Sink
    outbox: Outbox
    workers: Mapping[int, PartitionWorker]
    acknowledge: Callable[[Sequence[Any]], None]
    on_fenced: Callable[[int, int], None]
    let_go: Callable[[int], None]
    figures: CommitFigures = field(default_factory=CommitFigures)
    _thread: BackgroundThread = field(default_factory=lambda: BackgroundThread("commits"))
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _idle: asyncio.Event = field(default_factory=asyncio.Event)
    _at_once: bool = False
    _waits_since: float | None = None
    _in_flight: bool = False
    _performing_since: float | None = None
    _written: Written | None = None
    _written_at: float = 0.0

    def on_fed(self) -> None:
        """A worker has been fed: there is something to commit, sooner or later."""
        if self._waits_since is None:
            self._waits_since = time.monotonic()
        self._wake.set()

    async def run(self) -> None:
        """Commits for ever; ends by cancellation or by an error that only a restart gets over."""
        while True:
            await self._until_due()
            self._waits_since = None
            self._in_flight = True
            try:
                parts = [part for w in list(self.workers.values()) if (part := w.cut())]
                if parts:
                    await self._commit(parts)
            finally:
                self._in_flight = False
                self._idle.set()

    async def drain(self, seconds: float) -> bool:
        """Commits all that is held; False if that takes too long (the sink is away)."""
        deadline = time.monotonic() + seconds
        self._at_once = True
        try:
            while self._in_flight or any(w.pending_records for w in self.workers.values()):
                self._wake.set()
                self._idle.clear()
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                try:
                    await asyncio.wait_for(self._idle.wait(), remaining)
                except TimeoutError:
                    return False
            return True
        finally:
            self._at_once = False

    def note_failure(self, error: StreamAppError) -> None:
        """The sink or the broker is away; told once, and in every status until it is back."""
        figures = self.figures
        figures.retries += 1
        figures.failure, figures.advice = str(error), error.advice
        ERRORS.labels(type(error).__name__).inc()
        if figures.failing_since is None:
            figures.failing_since = time.time()
            log.error("commit_failed", extra={"error": str(error), "advice": error.advice})

    @property
    def under_way_seconds(self) -> float:
        """How long the commit that is under way has not come back; 0.0: none is.

        Every step of it has a time limit at its other end. A database that hangs keeps none.
        """
        since = self._performing_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self) -> None:
        """Ends the thread; a commit that is under way is not waited for."""
        self._thread.stop()

    async def _until_due(self) -> None:
        """Until enough has come together: a full batch, finished calls, or time."""
        settings = self.settings
        while True:
            self._wake.clear()
            pending = sum(worker.pending_records for worker in self.workers.values())
            wait: float | None = None
            if pending and not self._at_once:
                since = self._waits_since or time.monotonic()
                urgent = any(worker.has_calls_to_write for worker in self.workers.values())
                limit = settings.linger_seconds if urgent else settings.progress_interval_seconds
                wait = since + limit - time.monotonic()
            if pending and (self._at_once or pending >= settings.batch_records_max):
                return
            if wait is not None and wait <= 0:
                return
            try:
                await asyncio.wait_for(self._wake.wait(), wait)
            except TimeoutError:
                continue

    async def _commit(self, parts: list[Commit]) -> None:
        """One commit, tried until it is done or all its partitions are gone."""
        pause = FIRST_PAUSE_SECONDS
        begun = time.monotonic()
        self._written = None
        while parts:
            parts = self._still_ours(parts)
            try:
                written = await self._performed(parts)
            except StreamAppError as error:
                if error.retry is Retry.NEVER:
                    raise
                self.note_failure(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, self.settings.retry_seconds_max)
                continue
            if written.fenced:
                parts = self._without(parts, written.fenced)
                continue
            self._note_success(parts, written, time.monotonic() - begun)
            for part in parts:
                self.acknowledge(part.tokens)
                self.let_go(part.records)
            return

    async def _performed(self, parts: Sequence[Commit]) -> Written:
        self._performing_since = time.monotonic()
        try:
            return await self._thread.run(functools.partial(self._perform, parts))
        finally:
            self._performing_since = None

    def _perform(self, parts: Sequence[Commit]) -> Written:
        """In the thread: the steps in their order. Steps that are done are not done again."""
        if self._written is None:
            calls = [call for part in parts for call in part.calls]
            gaps = list(dict.fromkeys(gap for part in parts for gap in part.gaps))
            written = self.sink.write(calls, [part.progress for part in parts], gaps)
            if written.fenced:
                return written
            self._written, self._written_at = written, time.monotonic()
        written = self._written
        if time.monotonic() - self._written_at > SURELY_OURS_SECONDS:
            # Retries, or a process that was frozen here: somebody may have taken a partition
            # meanwhile, and must not find our older state in its changelog.
            fenced = self._taken_meanwhile(parts)
            if fenced:
                return Written(fenced=fenced)
            self._written_at = time.monotonic()
        side = [record for part in parts for record in part.side_records]
        side += [self._poison_letter(poison) for poison in written.poison]
        if self.settings.cdrs_topic:
            silent = {poison.call.call_id for poison in written.poison} | written.superseded
            side += [
                cdr_record(
                    self.settings.cdrs_topic, written.apart.get(call.call_id, call), written.swap
                )
                for part in parts
                for call in part.calls
                if call.call_id not in silent
            ]
        if side:
            # Before the changelog: a state that remembers a question must not outlive it unsent.
            self.outbox.send(side)
        self.outbox.send([record for part in parts for record in part.changelog])
        return written

    def _taken_meanwhile(self, parts: Sequence[Commit]) -> frozenset[int]:
        epochs = self.sink.epochs(self.settings.events_topic)
        return frozenset(
            part.partition for part in parts if epochs.get(part.partition) != part.epoch
        )

    def _still_ours(self, parts: list[Commit]) -> list[Commit]:
        """Without partitions that were revoked while we tried."""
        gone = frozenset(
            part.partition
            for part in parts
            if (worker := self.workers.get(part.partition)) is None or worker.epoch != part.epoch
        )
        return self._without(parts, gone) if gone and self._written is None else parts

    def _without(self, parts: list[Commit], gone: frozenset[int]) -> list[Commit]:
        self.figures.fenced += len(gone)
        for part in parts:
            if part.partition in gone:
                self.let_go(part.records)
                self.on_fenced(part.partition, part.epoch)
        return [part for part in parts if part.partition not in gone]

    def _poison_letter(self, poison: Poison) -> OutRecord:
        call = poison.call
        letter = DeadLetter(
            f"the database refuses the record: {poison.reason}",
            ",".join(call.provenance.servers),
            {"cdr": call.cdr and call.cdr.columns(), "provenance": call.provenance.to_json()},
            call_id=call.call_id,
        )
        settings = self.settings
        return dead_letter(settings.dead_letter_topic, letter, key=None, source="sink")

    def _note_success(self, parts: Sequence[Commit], written: Written, seconds: float) -> None:
        figures = self.figures
        if figures.failing_since is not None:
            log.warning(
                "commit_works_again",
                extra={"after_seconds": round(time.time() - figures.failing_since, 1)},
            )
            figures.failing_since, figures.failure, figures.advice = None, "", ""
        figures.commits += 1
        figures.inserted += written.inserted
        figures.revised += written.revised
        figures.hidden += written.hidden
        figures.stale += written.stale
        figures.poison += len(written.poison)
        figures.records += sum(part.records for part in parts)
        figures.last_seconds = seconds
        for part in parts:
            if part.progress.watermark_us is not None:
                figures.watermarks_us[part.partition] = part.progress.watermark_us
        ends = (
            call.cdr.end_time_us
            for part in parts
            for call in part.calls
            if call.cdr is not None and call.cdr.end_time_us and not call.provenance.changed
        )
        count_commit(seconds, ends, time.time())
