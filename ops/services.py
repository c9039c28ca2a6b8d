"""The two services: which settings they are started with, and how signals end them.

Owns the process around `cdc` and `stream_app`: configuration checked before anything starts, logs,
SIGTERM, what the service manager is told. Refuses to know what they do.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from ops.config import reader_settings, worker_settings
from ops.errors import EXIT_FAILED, EXIT_USAGE, ConfigError
from ops.invocation import Invocation
from ops.notify import Vitals, supervised
from ops.pulse import ALIVE_SECONDS, Pulse

if TYPE_CHECKING:
    from cdc.settings import ReaderSettings
    from stream_app.worker import Worker

EXIT_INTERRUPTED = 128 + signal.SIGINT

logger = logging.getLogger(__name__)


def run_reader(
    invocation: Invocation, names: Sequence[str] | None, *, from_now: bool = False
) -> None:
    """Reads the named servers, all by default, until SIGTERM.

    Args:
        invocation: The command line's.
        names: Of servers.
        from_now: A server that was never read is read from now on, without what it holds.

    Raises:
        ConfigError: A server is not configured, or none is.
        CdcError: The only reader, or all of them, need an operator.
    """
    config = invocation.config
    chosen = tuple(dict.fromkeys(names or config.servers))
    if not chosen:
        raise ConfigError(
            "servers: no server is configured", "add a [[servers]] table with name and dsn"
        )
    settings = [reader_settings(config, name) for name in chosen]
    if from_now:
        from cdc.settings import StartMode  # noqa: PLC0415  on demand

        settings = [replace(each, start_mode=StartMode.NOW) for each in settings]
    invocation.start_logs()
    logger.info("reader_starts", extra={"servers": ", ".join(chosen)})
    interrupted = asyncio.run(_read(settings, config.reader.metrics_listen))
    if interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)


async def _read(settings: Sequence[ReaderSettings], metrics_listen: str) -> bool:
    from cdc.exposition import ReaderCollector  # noqa: PLC0415
    from cdc.reader import run_readers  # noqa: PLC0415  a worker's machine needs no reader
    from ops.metrics_http import served  # noqa: PLC0415

    collector, pulse = ReaderCollector(), Pulse()
    stop, interrupted = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(number: signal.Signals) -> None:
        logger.info("stopping", extra={"signal": number.name})
        if number is signal.SIGINT:
            interrupted.set()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    beating = asyncio.ensure_future(pulse.beat_for_ever())
    try:
        with (
            supervised(Vitals(pulse.alive, lambda: collector.ready, stop.is_set)),
            served(
                metrics_listen,
                collector,
                pulse.alive,
                lambda: collector.ready,
                lambda: collector.why,
            ),
        ):
            await run_readers(settings, stop, collector.add)
    finally:
        beating.cancel()
    return interrupted.is_set()


def run_worker(invocation: Invocation) -> None:
    """Runs one worker until SIGTERM.

    Raises:
        ConfigError: The sink is not configured.
        StreamAppError: It cannot go on; the supervisor starts it again.
    """
    config = invocation.config
    settings = worker_settings(config)
    invocation.start_logs()
    logger.info("worker_starts", extra={"worker": settings.worker_id})
    from stream_app.worker import run_worker as run  # noqa: PLC0415  Faust takes a second to load

    running: list[Worker] = []  # none while the broker is waited for

    def alive() -> bool:
        return all(worker.looked_seconds_ago < ALIVE_SECONDS for worker in running)

    def ready() -> bool:
        return any(worker.ready for worker in running)

    def stopping() -> bool:
        return any(worker.stopping for worker in running)

    with ExitStack() as stack:
        stack.enter_context(supervised(Vitals(alive, ready, stopping)))

        def measure(worker: Worker) -> None:
            running.append(worker)
            from ops.metrics_http import served  # noqa: PLC0415
            from stream_app.metrics import WorkerCollector  # noqa: PLC0415

            floor = config.resolution.allowed_lateness_seconds + config.reader.heartbeat_seconds
            collector = WorkerCollector(lambda: worker.told, config.server_names, floor)
            stack.enter_context(served(config.worker.metrics_listen, collector, alive, ready))

        code = run(settings, measure)
    if code:  # it has said why in its log; of its own codes only "settings" is one of ours
        raise typer.Exit(EXIT_USAGE if code == EXIT_USAGE else EXIT_FAILED)
