"""`cdrstream dashboard`: the process around the pages.

Owns the address, TLS, signals and metrics of that process. Nothing is served before what is
configured has been found safe.
"""

from __future__ import annotations

import asyncio
import ctypes
import getpass
import logging
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Final

import typer
import uvicorn

from ops.dashboard.address import check_address, hash_password
from ops.dashboard.app import Site
from ops.dashboard.boards import Boards
from ops.dashboard.metrics import DashboardCollector
from ops.errors import ConfigError
from ops.invocation import Invocation
from ops.metrics_http import served
from ops.monitor import Sampler
from ops.notify import Vitals, supervised
from ops.services import Pulse

log = logging.getLogger(__name__)

PASSWORD_LEAST: Final = 8
_BACKLOG: Final = 256
_ENDING_SECONDS: Final = 2
_M_ARENA_MAX: Final = -8


def print_hash() -> None:
    """Asks for a password and prints its hash.

    Raises:
        ConfigError: It is too short.
    """
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < PASSWORD_LEAST:
        raise ConfigError("the password is too short", f"{PASSWORD_LEAST} characters at least")
    typer.echo(hash_password(password))


def run(invocation: Invocation, listen: str | None) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ConfigError: The address is taken, or not safe with what is configured.
    """
    config = invocation.config
    section = config.dashboard
    host, port = check_address(section, listen or section.listen)
    config.sink_dsn()
    invocation.start_logs()
    _share_one_heap()
    with ExitStack() as stack:
        sock = stack.enter_context(_bound(host, port))
        sampler = stack.enter_context(Sampler(config))
        boards = Boards(config)
        boards.start()
        stack.callback(boards.stop)
        site, pulse = Site(config, host, sampler, boards), Pulse()
        collector = DashboardCollector(sampler, boards, lambda: site.live.clients)
        stack.enter_context(
            served(section.metrics_listen, collector, pulse.alive, lambda: sampler.has_looked)
        )
        scheme = "https" if section.tls_certificate else "http"
        shown = f"[{host}]" if ":" in host else host
        url = f"{scheme}://{shown}:{sock.getsockname()[1]}/"
        log.info("dashboard_served", extra={"url": url})
        typer.echo(f"dashboard: {url}", err=True)
        server = uvicorn.Server(
            uvicorn.Config(
                site.app(),
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=True,
                proxy_headers=False,
                ssl_certfile=section.tls_certificate,
                ssl_keyfile=section.tls_key,
                timeout_graceful_shutdown=_ENDING_SECONDS,
                h11_max_incomplete_event_size=32 * 1024,
                limit_concurrency=section.clients_max * 2 + 64,
                http="h11",
                ws="none",
            )
        )
        vitals = Vitals(pulse.alive, lambda: server.started, lambda: server.should_exit)
        stack.enter_context(supervised(vitals))
        interrupted = asyncio.run(_serve(server, site, sock, pulse))
    if interrupted:
        raise typer.Exit(128 + signal.SIGINT)


def _share_one_heap() -> None:
    """One arena for all threads, where the C library has several: that is 5 MB of two dozen.

    No effect where it is not glibc.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


async def _serve(server: uvicorn.Server, site: Site, sock: socket.socket, pulse: Pulse) -> bool:
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


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"dashboard.listen: {host}:{port}: {error.strerror}",
                "is another one running? --listen 127.0.0.1:0 takes a free port",
            ) from error
        sock.listen(_BACKLOG)
        yield sock
    finally:
        sock.close()
