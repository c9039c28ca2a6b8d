"""Nothing between two batches of a partition is passed over unread.

Owns the judgement whether a batch follows on what was taken in, and going back where it does not.
While partitions move, batches are fetched and left, here and inside Faust; one that comes out of a
queue a moment later, when the partition is ours, begins behind them. Taking it would lose what was
left for ever, and nobody would notice. Only what the log itself does not hold is passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from stream_app.background import BackgroundThread
from stream_app.errors import Retry, StreamAppError
from stream_app.log_ends import FirstRecord, first_record
from stream_app.partition import PartitionWorker
from stream_app.settings import WorkerSettings

log = logging.getLogger(__name__)

Seek = Callable[[str, int, int], Awaitable[None]]  # topic, partition, offset
Look = Callable[[WorkerSettings, str, int, int], FirstRecord]


class Continuity:
    """Judges batches of all our partitions. Everything runs on one event loop."""

    def __init__(
        self,
        settings: WorkerSettings,
        workers: Mapping[int, PartitionWorker],
        seek: Seek,
        note_failure: Callable[[StreamAppError], None],
        crash: Callable[[BaseException], None],
        look: Look = first_record,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._seek = seek
        self._note_failure = note_failure
        self._crash = crash
        self._look = look
        self._thread = BackgroundThread("continuity")
        self._going_back: dict[tuple[str, int], asyncio.Task[None]] = {}

    def follows(self, worker: PartitionWorker, topic: str, first: int) -> bool:
        """Whether a batch that begins at `first` may be taken; else reading goes back for it."""
        position = worker.next_offset(topic)
        if first <= position:
            return True
        place = (topic, worker.partition)
        if place not in self._going_back:
            task = asyncio.create_task(
                self._go_back(worker, topic, position), name=f"go back {place}"
            )
            self._going_back[place] = task
            task.add_done_callback(partial(self._on_back, place))
        return False

    async def _go_back(self, worker: PartitionWorker, topic: str, position: int) -> None:
        """To where the partition is. The next batch asks again where this does not succeed."""
        number = worker.partition
        look = partial(self._look, self._settings, topic, number, position)
        try:
            first = await self._thread.run(look)
        except StreamAppError as error:
            if error.retry is Retry.NEVER:
                raise
            self._note_failure(error)
            return
        if self._workers.get(number) is not worker or worker.next_offset(topic) != position:
            return  # somebody else's, or it goes on already
        if first.offset > position:
            worker.pass_over(topic, position, first)
        log.info("goes_back", extra={"topic": topic, "partition": number, "offset": first.offset})
        await self._seek(topic, number, first.offset)

    def _on_back(self, place: tuple[str, int], done: asyncio.Task[None]) -> None:
        self._going_back.pop(place, None)
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._crash(error)

    def close(self) -> None:
        """Ends the thread."""
        for task in list(self._going_back.values()):
            task.cancel()
        self._thread.stop()
