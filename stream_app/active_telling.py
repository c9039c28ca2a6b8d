"""Telling who is talking now: the sink's table every few seconds, and whoever asks by HTTP.

Owns the rhythm, and what is left out while a backlog is emptied. Refuses to know what an active
call is (`active_calls`) and how it is said over HTTP (`active_http`). A table that cannot be told
of keeps no call from becoming a CDR.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from functools import partial

from stream_app.active_http import serve
from stream_app.background import BackgroundThread
from stream_app.batches import Room
from stream_app.commits import CommitFigures
from stream_app.errors import StreamAppError
from stream_app.partition import PartitionWorker
from stream_app.settings import WorkerSettings
from stream_app.sink import ActiveRow, Sink

log = logging.getLogger(__name__)

LEFT_OUT_MAX = 9  # of ten times


class ActiveTelling:
    """Tells of the calls of all our partitions, over a connection of its own."""

    def __init__(
        self,
        settings: WorkerSettings,
        workers: Mapping[int, PartitionWorker],
        room: Room,
        figures: CommitFigures,
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._room = room
        self._figures = figures
        self._sink = Sink(
            settings.sink_dsn,
            schema=settings.sink_schema,
            name=f"cdrstream {settings.worker_id} report",
        )
        self._thread = BackgroundThread("report")
        self._said = ""  # what kept us from telling, last

    async def run(self) -> None:
        """Tells for ever.

        Seldom while a backlog is emptied: it is not now then, and telling it is a twentieth of the
        work.
        """
        settings = self._settings
        runner, left_out = None, 0
        if settings.active_listen:
            runner = await serve(settings.active_listen, self.calls)
        try:
            while True:
                await asyncio.sleep(settings.active_interval_seconds)
                is_behind = self._room.records * 2 > settings.in_flight_records_max
                left_out = left_out + 1 if is_behind and left_out < LEFT_OUT_MAX else 0
                if not left_out:
                    await self._tell()
        finally:
            if runner is not None:
                await runner.cleanup()

    async def _tell(self) -> None:
        workers = list(self._workers.values())
        changes = {
            (worker.partition, worker.epoch): change
            for worker in workers
            if (change := worker.calls.take_active_change())
        }
        if not changes:
            return
        job = partial(self._sink.write_active, self._settings.events_topic, changes)
        try:
            await self._thread.run(job)
        except StreamAppError as error:
            self._could_not(error)
            for worker in workers:
                worker.calls.active.tell_all_again()

    def _could_not(self, error: StreamAppError) -> None:
        """The sink being away is told by who commits; what is wrong here alone is not."""
        is_news = str(error) != self._said and not self._figures.failing_since
        log.log(
            logging.WARNING if is_news else logging.DEBUG,
            "active_calls_not_told",
            extra={"error": str(error), "advice": error.advice},
        )
        self._said = str(error)

    async def calls(self) -> list[ActiveRow]:
        """Who is talking now, in all partitions of all workers."""
        return await self._thread.run(self._sink.active_calls)

    def close(self) -> None:
        """Ends the thread."""
        self._thread.stop()
