"""One worker process: `run_worker` from start to exit code.

Owns the order of starting and stopping, and signals. Refuses to know what happens in between.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from stream_app.active_telling import ActiveTelling
from stream_app.app import CdrApp, make_app
from stream_app.assignment import Assignment
from stream_app.background import BackgroundThread
from stream_app.batches import Room
from stream_app.changelog import Outbox
from stream_app.commits import Commits
from stream_app.errors import (
    BrokerUnavailable,
    LogShortened,
    Retry,
    SettingsError,
    Stalled,
    StreamAppError,
)
from stream_app.partition import PartitionWorker
from stream_app.process import (
    EXIT_BAD_CONFIGURATION,
    EXIT_DONE,
    EXIT_FAILED,
    close,
    exit_code,
    hush_leavers,
    prepare,
)
from stream_app.retention import purge
from stream_app.settings import WorkerSettings
from stream_app.sink import Sink
from stream_app.status import StatusProducer, worker_status
from stream_app.topics import ensure_topics
from stream_app.watchdog import LoopWatch, Movement, Shortening

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
BROKER_PATIENCE_SECONDS = 2.0  # then it is said that we wait
COLLECT_SECONDS = 300.0
CLOSING_SECONDS = 3.5  # of an orderly end: for letting go of clients, and of the loop
REBALANCE = -1  # stands for the partitions that a rebalance without end keeps away


def run_worker(settings: WorkerSettings, on_worker: Callable[[Worker], None] | None = None) -> int:
    """Runs one worker until SIGTERM or SIGINT, then finishes what it holds.

    `on_worker` is given the worker before it starts, for those who measure it.

    Returns:
        0 after a signal; 1 when it failed; 2 for settings that cannot work; 70 when its partitions
        stood still. After any but 2 a new worker takes up from what is committed.
    """
    prepare()
    runner = asyncio.Runner()
    code = EXIT_FAILED
    try:
        code = runner.run(_run(settings, on_worker, handle_signals=True))
    except SettingsError as error:
        log.error(  # noqa: TRY400  one line says it all
            "bad_settings", extra={"error": str(error), "advice": error.advice}
        )
        code = EXIT_BAD_CONFIGURATION
    finally:
        close(runner, code)
    return code


async def _run(
    settings: WorkerSettings,
    on_worker: Callable[[Worker], None] | None = None,
    *,
    handle_signals: bool,
) -> int:
    stop = asyncio.Event()
    if handle_signals and threading.current_thread() is threading.main_thread():
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
    await _topics_ready(settings, stop)
    if stop.is_set():
        return EXIT_DONE
    worker = Worker(settings)
    if on_worker is not None:
        on_worker(worker)
    return await worker.run(stop)


async def _topics_ready(settings: WorkerSettings, stop: asyncio.Event) -> None:
    """Waits for a broker that is not there yet; says so once, soon, and then why, if known."""
    pause = 0.2
    told: set[str] = set()
    while not stop.is_set():
        asked = asyncio.create_task(asyncio.to_thread(ensure_topics, settings))
        answered, _ = await asyncio.wait({asked}, timeout=BROKER_PATIENCE_SECONDS)
        if not answered and not told:
            told.add(BrokerUnavailable.advice)
            _waiting_for_broker(
                BrokerUnavailable(f"the broker at {settings.bootstrap_servers} does not answer")
            )
        try:
            created = await asked
        except StreamAppError as error:
            if error.retry is not Retry.TIMED:
                raise SettingsError(str(error), error.advice) from error
            if error.advice not in told:
                told.add(error.advice)
                _waiting_for_broker(error)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)
            pause = min(pause * 2, settings.retry_seconds_max)
        else:
            if created:
                log.info("topics_created", extra={"topics": created})
            return


def _waiting_for_broker(error: StreamAppError) -> None:
    log.error("waiting_for_broker", extra={"error": str(error), "advice": error.advice})


class Worker:
    """The parts of a worker, put together. One use, on a running event loop."""

    def __init__(self, settings: WorkerSettings) -> None:
        self.settings = settings
        self.started_at = time.time()
        self.app: CdrApp = make_app(settings)
        self.room = Room(settings.in_flight_records_max)
        self.outbox = Outbox(settings)
        self.sink = Sink(
            settings.sink_dsn, schema=settings.sink_schema, name=f"cdrstream {settings.worker_id}"
        )
        workers: dict[int, PartitionWorker] = {}
        self.commits = Commits(
            settings=settings,
            sink=self.sink,
            outbox=self.outbox,
            workers=workers,
            acknowledge=_acknowledge,
            on_fenced=self._on_fenced,
            let_go=self.room.let_go,
        )
        self.assignment = Assignment(
            settings,
            lambda: self.app.store,
            workers,
            self.commits,
            self.room,
            self.app.read_from,
            crash=self._crash,
        )
        self._crashed: list[asyncio.Task[None]] = []
        self.app.assignment = self.assignment
        self._telling = ActiveTelling(settings, workers, self.room, self.commits.figures)
        self._purger = BackgroundThread("retention")
        self._stopped = threading.Event()
        self._status = StatusProducer(settings)
        self._watch = LoopWatch(settings.stall_seconds)
        self._movement = Movement(settings.stall_seconds)
        self._shortening = Shortening()
        self.told: dict[str, Any] = self.status()  # the newest, for other threads
        self.stopping = False

    def _on_fenced(self, number: int, epoch: int) -> None:
        self.assignment.on_fenced(number, epoch)  # made after `commits`, which calls it

    def _crash(self, error: BaseException) -> None:
        self._crashed.append(asyncio.create_task(self.app.crash(error)))

    async def run(self, stop: asyncio.Event) -> int:
        """Until `stop` is set or something breaks."""
        settings = self.settings
        log.info(
            "worker_starting",
            extra={"worker": settings.worker_id, "group": settings.group_id},
        )
        self._watch.start()
        tasks = {
            asyncio.create_task(stop.wait(), name="stop"): "stop",
            asyncio.create_task(self.commits.run(), name="commits"): "commits",
            asyncio.create_task(self._look_after(), name="look"): "look",
            asyncio.create_task(self._purge(), name="retention"): "retention",
            asyncio.create_task(self._telling.run(), name="active"): "active",
            asyncio.create_task(self._run_app(), name="faust"): "faust",
        }
        code = EXIT_FAILED
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            code = exit_code(done)
        finally:
            await self._stop(list(tasks), orderly=code == EXIT_DONE)
        log.info("worker_stopped", extra={"worker": settings.worker_id, "code": code})
        return code

    async def _run_app(self) -> None:
        await self.app.start()
        crashed = asyncio.create_task(self.app._crashed.wait())
        try:
            await crashed
        finally:
            crashed.cancel()
        raise self.app.crash_reason or StreamAppError("Faust stopped by itself")

    async def _look_after(self) -> None:
        """Ticks the watchdog, writes the status, and judges whether partitions move."""
        next_status = 0.0
        next_collection = time.monotonic() + COLLECT_SECONDS
        while True:
            self._watch.tick()
            now = time.monotonic()
            if now >= next_collection:
                gc.collect()
                next_collection = now + COLLECT_SECONDS
            if now >= next_status:
                self.told = self.status()
                self._status.send(self.told)
                next_status = now + self.settings.status_interval_seconds
            await self._judge(now)
            await asyncio.sleep(min(LOOK_SECONDS, self.settings.status_interval_seconds))

    async def _purge(self) -> None:
        """Purges now and then; the first worker that looks does it for all."""
        settings = self.settings
        while True:
            await asyncio.sleep(settings.retention_interval_seconds)
            if not settings.retention_days or not self.assignment.ready:
                continue
            job = partial(
                purge,
                settings.sink_dsn,
                settings.retention_days,
                schema=settings.sink_schema,
                is_stopped=self._stopped.is_set,
            )
            try:
                done = await self._purger.run(job)
            except StreamAppError as error:
                log.warning("purge_failed", extra={"error": str(error), "advice": error.advice})
                continue
            if done.calls or done.hidden or done.gaps:
                extra = {"calls": done.calls, "hidden": done.hidden, "gaps": done.gaps}
                log.info("purged", extra=extra)

    def status(self) -> dict[str, Any]:
        """See `status.worker_status`."""
        figures = self.commits.figures
        state = "waiting_for_sink" if figures.failing_since else "running"
        if not self.assignment.ready:
            state = "recovering"
        return worker_status(
            self.settings,
            self.assignment.workers,
            figures,
            self.app.end_offset,
            state=state,
            held_records=self.room.records,
            rebalances=self.assignment.rebalances,
            rebalanced_lately=self.assignment.rebalanced_lately,
            recovery_seconds=self.assignment.recovery_seconds,
            recovery_records=self.assignment.recovery_records,
            started_at=self.started_at,
        )

    @property
    def looked_seconds_ago(self) -> float:
        """How long ago the event loop last showed that it lives; from any thread."""
        return self._watch.seconds_ago

    @property
    def ready(self) -> bool:
        """Whether it has its partitions and can write what they give."""
        return self.assignment.ready and self.commits.figures.failing_since is None

    async def _judge(self, now: float) -> None:
        """Raises Stalled where partitions, or a rebalance, stand still and nobody is away.

        And LogShortened where a log is not the one any more that is read.
        """
        topic = self.settings.events_topic
        assignment = self.assignment
        lags = {
            number: (worker.positions[topic], self.app.end_offset(topic, number))
            for number, worker in assignment.workers.items()
        }
        shorter = self._shortening.shortened(now, lags)
        if shorter:
            names = ", ".join(map(str, shorter))
            raise LogShortened(f"{topic} ends before what was read of it (partitions {names})")
        lags |= dict.fromkeys(assignment.fenced, (-1, 0))
        if not assignment.ready:
            lags[REBALANCE] = (-1, 0)
        if self.commits.under_way_seconds > self.settings.stall_seconds:
            raise Stalled("a commit does not come back: the database, or the way to it, hangs")
        excused = self.commits.figures.failing_since is not None
        stalled = self._movement.stalled(now, lags, excused=excused)
        if not stalled:
            return
        if not await asyncio.to_thread(self.outbox.broker_answers, topic):
            self._movement.excuse()
            return
        names = ", ".join(map(str, stalled)).replace(str(REBALANCE), "none assigned")
        raise Stalled(f"partitions ({names}) have lag and do not move")

    async def _stop(self, tasks: list[asyncio.Task[Any]], *, orderly: bool) -> None:
        """Finishes what is held if that can be done in time, and leaves the group."""
        self.stopping = True
        hush_leavers()
        finishing = asyncio.create_task(self._finish(tasks, orderly=orderly), name="finish")
        # Trap: Faust swallows a cancelling and waits a minute for a client whose broker is away.
        seconds = max(0.5, self.settings.shutdown_seconds - CLOSING_SECONDS)
        finished, _ = await asyncio.wait({finishing}, timeout=seconds)
        if not finished:
            log.warning("stop_incomplete", extra={"advice": "nothing to do: work is done again"})
        elif (error := finishing.exception()) is not None:
            log.warning("stop_incomplete", extra={"error": str(error)})
        self.commits.close()
        self.assignment.close()
        self.app.call_tables.close()
        self._stopped.set()
        self._purger.stop()
        self._telling.close()
        self._watch.stop()
        self._status.send(None)
        self._status.close()
        self.outbox.close()

    async def _finish(self, tasks: list[asyncio.Task[Any]], *, orderly: bool) -> None:
        if orderly:
            self.assignment.ready = False
            await self.commits.drain(self.settings.shutdown_seconds / 2)
            with contextlib.suppress(Exception):
                await self.app.consumer.commit()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.app.stop()


def _acknowledge(tokens: Sequence[Any]) -> None:
    for event in tokens:
        event.ack()
