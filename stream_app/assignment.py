"""Which partitions are ours, each with its worker, from taking one to losing it.

Owns taking (epoch, then state) and losing of partitions, the handing of fetched batches to their
workers, and the bound on what is held. Refuses to know how batches are fetched and committed.

Taking a partition: first its epoch is raised in the sink, so that who had it can write no more;
then its changelog is read, which therefore is complete. A partition that stays with us over a
rebalance keeps its worker, unless its epoch shows that somebody else had it in between.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence, Set
from datetime import datetime
from functools import partial
from typing import Any, Protocol, TypeVar

from callstate.processor import PartitionProcessor
from stream_app.background import BackgroundThread
from stream_app.batches import Room
from stream_app.changelog import Restored, restore
from stream_app.commits import FIRST_PAUSE_SECONDS, Commits
from stream_app.continuity import Continuity, Seek
from stream_app.errors import Retry, StreamAppError, TopicUnseen
from stream_app.log_ends import Log, look
from stream_app.partition import PartitionWorker, ProcessorFactory
from stream_app.progress import tell_went_back
from stream_app.settings import WorkerSettings
from stream_app.sink import Sink

log = logging.getLogger(__name__)

T = TypeVar("T")


class Table(Protocol):
    """The store of `open_calls`, a mapping a partition."""

    def new_partition(self, number: int) -> MutableMapping[str, bytes]:
        """Room for a partition that is read back."""

    def put_partition(self, number: int, calls: MutableMapping[str, bytes]) -> None:
        """Keeps a partition as it was read back."""

    def drop_partition(self, number: int) -> None:
        """Forgets a partition."""


def _raise(error: BaseException) -> None:
    raise error


class Superseded(Exception):
    """Another rebalance began; its own taking follows."""


class Assignment:
    """The worker's partitions. Everything runs on one event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        table: Callable[[], Table],
        workers: dict[int, PartitionWorker],
        commits: Commits,
        room: Room,
        seek: Seek,
        make_processor: ProcessorFactory = PartitionProcessor,
        crash: Callable[[BaseException], None] = _raise,
    ) -> None:
        self.workers = workers
        self.rebalances = 0
        self.fenced: set[int] = set()
        self.ready = False
        self.recovery_seconds = 0.0
        self.recovery_records: int | None = None  # still to be read back; None: not known yet
        self._rebalanced: deque[float] = deque(maxlen=20)  # when; monotonic seconds
        self._settings = settings
        self._table = table
        self._commits = commits
        self._room = room
        self._make_processor = make_processor
        self._sink = Sink(
            settings.sink_dsn, schema=settings.sink_schema, name=f"cdrstream {settings.worker_id}"
        )
        self._thread = BackgroundThread("assignment")
        self._recaller = Sink(
            settings.sink_dsn,
            schema=settings.sink_schema,
            name=f"cdrstream {settings.worker_id} recall",
        )
        self._recall_thread = BackgroundThread("recall")
        self._recalls: dict[int, asyncio.Task[None]] = {}
        self._crash = crash
        self._continuity = Continuity(settings, workers, seek, commits.note_failure, crash)
        self.recalled = 0
        self._turn = 0
        self._one_at_a_time = asyncio.Lock()

    # -- what the consumer asks (`batches.Intake`) -----------------------------------------------

    async def wait_for_room(self, seconds: float) -> bool:
        """Whether more may be fetched."""
        return await self._room.wait(seconds)

    def wants(self, topic: str) -> bool:
        """Whether batches of this topic are taken."""
        return topic in (self._settings.events_topic, self._settings.references_topic)

    def on_fetched(self, generation: int, records: int) -> None:
        """Records went into Faust's queue."""
        self._room.fetched(generation, records)

    def positions(self) -> Mapping[tuple[str, int], int]:
        """Topic and partition to the next offset that its worker wants."""
        return {
            (topic, number): position
            for number, worker in self.workers.items()
            for topic, position in worker.positions.items()
        }

    async def on_revoked(self) -> None:
        """A rebalance begins: nothing more is taken in, what is held is finished if it can be."""
        self.ready = False
        self._turn += 1
        self._room.emptied()
        if not await self._commits.drain(self._settings.drain_seconds):
            log.warning("drain_incomplete", extra={"records": self._room.records})

    # -- batches ---------------------------------------------------------------------------------

    def take(
        self, generation: int, topic: str, number: int, batch: Sequence[Any], token: Any
    ) -> None:
        """A fetched batch; what comes while partitions move, or out of its turn, is left.

        It is fetched again.
        """
        worker = self.workers.get(number)
        ours = (
            self.ready
            and worker is not None
            and self._continuity.follows(worker, topic, batch[0].offset)
        )
        self._room.taken(generation, len(batch), held=ours)
        if ours:
            assert worker is not None
            worker.feed(topic, batch, token)
            self._commits.on_fed()
            if worker.wanted and number not in self._recalls:
                task = asyncio.create_task(self._recall(number, worker), name=f"recall {number}")
                self._recalls[number] = task
                task.add_done_callback(lambda done: self._on_recalled(number, done))

    async def _recall(self, number: int, worker: PartitionWorker) -> None:
        """Looks up what the partition has forgotten, until it has all that it asks for."""
        pause = FIRST_PAUSE_SECONDS
        while worker.wanted and self.workers.get(number) is worker:
            wanted = worker.wanted
            try:
                found = await self._recall_thread.run(partial(self._recaller.recall, wanted))
            except StreamAppError as error:
                if error.retry is Retry.NEVER:
                    raise
                self._commits.note_failure(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._settings.retry_seconds_max)
                continue
            if self.workers.get(number) is worker:
                self.recalled += len(found)
                worker.recall(found)
                self._commits.on_fed()

    def _on_recalled(self, number: int, done: asyncio.Task[None]) -> None:
        self._recalls.pop(number, None)
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._crash(error)

    # -- taking and losing -----------------------------------------------------------------------

    async def assigned(self, partitions: set[int], given: Set[tuple[str, int]]) -> None:
        """Makes exactly these partitions ours and ready; returns early if that is superseded.

        Args:
            partitions: Their numbers.
            given: What of which topic the group gave us.

        Raises:
            TopicUnseen: Not all topics that are read together are among them.
        """
        for topic in (self._settings.events_topic, self._settings.references_topic):
            unseen = sorted(number for number in partitions if (topic, number) not in given)
            if unseen:
                names = ", ".join(map(str, unseen))
                raise TopicUnseen(f"{topic} was not assigned with the rest (partitions {names})")
        self._turn += 1
        turn = self._turn
        async with self._one_at_a_time:
            try:
                await self._assign(partitions, turn)
            except Superseded:
                return
        self.ready = True

    async def _assign(self, partitions: set[int], turn: int) -> None:
        begun = time.monotonic()
        self.rebalances += 1
        self._rebalanced.append(begun)
        self.recovery_records = None
        self.fenced.clear()
        topic = self._settings.events_topic
        for number in set(self.workers) - partitions:
            self._drop(number)
        if self.workers:
            epochs = await self._tried(turn, lambda: self._sink.epochs(topic))
            for number, worker in list(self.workers.items()):
                if epochs.get(number) != worker.epoch:
                    self._drop(number)
        wanted = sorted(partitions - set(self.workers))
        if wanted:
            topics = (topic, self._settings.references_topic)
            holder = self._settings.worker_id
            stored = await self._tried(turn, lambda: self._sink.positions(topic))
            epochs = await self._tried(turn, lambda: self._sink.take(topics, wanted, holder))
            restored = await self._tried(
                turn,
                lambda: restore(
                    self._settings,
                    wanted,
                    new_table=self._table().new_partition,
                    is_cancelled=lambda: turn != self._turn,
                    tell_left=self._tell_left,
                ),
            )
            logs = await self._tried(turn, lambda: look(self._settings, topics, wanted))
            for number in wanted:
                await asyncio.sleep(0)
                self._check(turn)
                self._take_up(number, epochs[number], restored[number], logs[number])
                self._compare(self.workers[number], *stored.get(number, (0, None)))
        self._sink.close()
        self.recovery_seconds = time.monotonic() - begun
        self.recovery_records = 0
        log.info(
            "partitions_assigned",
            extra={
                "partitions": sorted(partitions),
                "taken": wanted,
                "calls": sum(len(worker.calls) for worker in self.workers.values()),
                "seconds": round(self.recovery_seconds, 3),
            },
        )

    def _tell_left(self, records: int) -> None:
        self.recovery_records = records

    @property
    def rebalanced_lately(self) -> int:
        """How often partitions were given anew within ten minutes, up to a score."""
        since = time.monotonic() - 600.0
        return sum(at >= since for at in self._rebalanced)

    def _take_up(
        self, number: int, epoch: int, restored: Restored, logs: Mapping[str, Log]
    ) -> None:
        if restored.zombie_records:
            log.warning(
                "zombie_records_ignored",
                extra={"partition": number, "records": restored.zombie_records},
            )
        self._table().put_partition(number, restored.calls)
        self.workers[number] = PartitionWorker(
            self._settings,
            number,
            epoch,
            restored.calls,
            restored.state,
            self._make_processor,
            recalling=True,
            logs=logs,
        )

    def _compare(self, worker: PartitionWorker, stored: int, watermark: datetime | None) -> None:
        """Says what is not as it was left; the position and watermark are the database's."""
        topic, number = self._settings.events_topic, worker.partition
        position = worker.positions[topic]
        for name, left in worker.made_anew.items():
            log.error(
                "log_made_anew",
                extra={
                    "topic": name,
                    "partition": number,
                    "position": left,
                    "advice": "the topic was deleted, or has lost its end: it is read from its"
                    " beginning; what was in it unread may be in the servers' tables:"
                    " `cdrstream replay --from-servers`",
                },
            )
        if stored < position:
            tell_went_back(topic, number, position, stored, watermark)
        if stored and not position and topic not in worker.made_anew:
            log.error(
                "state_lost",
                extra={
                    "topic": self._settings.changelog_topic,
                    "partition": number,
                    "position": stored,
                    "advice": "the changelog was deleted: calls in progress are made again from"
                    " all events that the topic still has, which takes a while",
                },
            )

    def on_fenced(self, number: int, epoch: int) -> None:
        """Another worker has taken a partition; the broker will tell us so in a moment."""
        worker = self.workers.get(number)
        if worker is not None and worker.epoch == epoch:
            log.warning("partition_fenced", extra={"partition": number, "epoch": epoch})
            self._drop(number)
            self.fenced.add(number)

    def _drop(self, number: int) -> None:
        worker = self.workers.pop(number)
        self._room.let_go(worker.held_records)
        self._table().drop_partition(number)

    def _check(self, turn: int) -> None:
        if turn != self._turn:
            raise Superseded

    async def _tried(self, turn: int, job: Callable[[], T]) -> T:
        """The job's result, tried until it works or another rebalance begins."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            self._check(turn)
            try:
                result = await self._thread.run(job)
            except StreamAppError as error:
                if error.retry is Retry.NEVER:
                    raise
                self._commits.note_failure(error)
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._settings.retry_seconds_max)
            else:
                self._check(turn)
                return result

    def close(self) -> None:
        """Ends the thread."""
        for task in list(self._recalls.values()):
            task.cancel()
        self._continuity.close()
        self._recall_thread.stop()
        self._thread.stop()
