"""The process that serves the pages; `cdrstream dashboard` turns into it: see `command`.

Owns its life: signals, metrics, memory. Imports what serving needs and nothing else, for it stays
small: no configuration models, no command line.

    python -m ops.dashboard.process SETTINGS_FD SOCKET_FD ...
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

if __name__ == "__main__":
    # Before anything that brings structlog along: it paints traces for developers with rich and
    # pygments wherever they are installed, 5 MB that a server has no use for.
    sys.modules["rich"] = None  # type: ignore[assignment]

import uvicorn

from ops import logs
from ops.dashboard.app import Site
from ops.dashboard.boards import Boards
from ops.dashboard.metrics import DashboardCollector
from ops.dashboard.serving import Serving
from ops.errors import EXIT_FAILED
from ops.metrics_http import served
from ops.monitor import Sampler
from ops.notify import Vitals, supervised
from ops.pulse import Pulse

log = logging.getLogger("ops.dashboard.process")  # this is __main__

EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
_ENDING_SECONDS: Final = 2
_M_ARENA_MAX: Final = -8
_M_TRIM_THRESHOLD: Final = -1
_TRIM_BYTES: Final = 256 * 1024


def main(arguments: list[str]) -> int:
    """Serves until SIGTERM or SIGINT; the exit code."""
    settings_fd, socket_fd = int(arguments[0]), int(arguments[1])
    with os.fdopen(settings_fd, "rb") as handed:
        serving = Serving.from_bytes(handed.read())
    logs.configure("debug" if serving.debug else serving.log_level, serving.log_format)
    _stay_small()
    try:
        with socket.socket(fileno=socket_fd) as sock:
            interrupted = _serve(serving, sock)
    except Exception as error:  # noqa: BLE001  the edge of the program
        return _failed(error, debug=serving.debug)
    return EXIT_INTERRUPTED if interrupted else 0


def _serve(serving: Serving, sock: socket.socket) -> bool:
    """Whether it was ended by SIGINT."""
    door = serving.door
    with ExitStack() as stack:
        sampler = stack.enter_context(Sampler(serving.watched))
        boards = Boards(serving.watched, lambda: sampler.dead_letters_end)
        boards.start()
        stack.callback(boards.stop)
        site, pulse = Site(serving, sampler, boards), Pulse()
        collector = DashboardCollector(sampler, boards, lambda: site.live.clients)
        stack.enter_context(
            served(serving.metrics_listen, collector, pulse.alive, lambda: sampler.has_looked)
        )
        scheme = "https" if door.tls_certificate else "http"
        shown = f"[{serving.host}]" if ":" in serving.host else serving.host
        url = f"{scheme}://{shown}:{sock.getsockname()[1]}/"
        log.info("dashboard_served", extra={"url": url})
        print(f"dashboard: {url}", file=sys.stderr, flush=True)
        server = uvicorn.Server(
            uvicorn.Config(
                site.app(),
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                ssl_certfile=door.tls_certificate,
                ssl_keyfile=door.tls_key,
                timeout_graceful_shutdown=_ENDING_SECONDS,
                h11_max_incomplete_event_size=32 * 1024,
                limit_concurrency=serving.clients_max * 2 + 64,
                http="h11",
                ws="none",
            )
        )
        vitals = Vitals(pulse.alive, lambda: server.started, lambda: server.should_exit)
        stack.enter_context(supervised(vitals))
        return asyncio.run(_until_told(server, site, sock, pulse))


def _stay_small() -> None:
    """One heap for all threads, given back when it shrinks; no effect where it is not glibc.

    What was imported stays for good: the collector need not look at it again.
    """
    with suppress(AttributeError, OSError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        gc.collect()
        library.malloc_trim(0)
    gc.freeze()


async def _until_told(
    server: uvicorn.Server, site: Site, sock: socket.socket, pulse: Pulse
) -> bool:
    interrupted = False

    def end(number: signal.Signals) -> None:
        nonlocal interrupted
        interrupted |= number is signal.SIGINT
        log.info("stopping", extra={"signal": number.name})
        site.live.stop()
        server.should_exit = True

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, number)
    server.capture_signals = _no_signals  # type: ignore[method-assign]  # ours end in order
    beating = asyncio.ensure_future(pulse.beat_for_ever())
    try:
        await server.serve(sockets=[sock])
    finally:
        beating.cancel()
    return interrupted


@contextmanager
def _no_signals(*_: Any) -> Iterator[None]:
    yield


def _failed(error: Exception, *, debug: bool) -> int:
    """One line for what went wrong, one for what to do, as every command does."""
    from ops.failures import describe  # noqa: PLC0415  only a failure needs it

    if debug:
        log.error("failed", exc_info=error)
    failure = describe(error)
    print(f"error: {failure.message}", file=sys.stderr)
    if failure.advice:
        print(f"  {failure.advice}", file=sys.stderr)
    return failure.exit_code or EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
