"""The command `traffic`: made-up calls, without end, into the servers of a configuration.

Owns when rows are written and over which connection. Refuses to judge what comes out: the demo
does, which knows its clocks. A batch of calls is made every few seconds, so that memory is bounded.
"""

from __future__ import annotations

import heapq
import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import psycopg

from ops.config import Config
from ops.demo.source import INSERT_ROW
from ops.errors import OpsError, UsageError
from ops.invocation import Invocation
from ops.redaction import why_no_dsn
from ops.simulation.scenarios import read_mix
from ops.simulation.script import US
from ops.simulation.servers import RowWrite, ServerSpec
from ops.simulation.traffic import TrafficSpec, generate

BATCH_SECONDS: Final = 10.0
_LEAD_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 2.0

logger = logging.getLogger(__name__)


def run(
    invocation: Invocation, dsns: Sequence[str], *, rate: float, mix: str, seconds: float | None
) -> None:
    """Writes until SIGTERM or SIGINT, or for some seconds.

    Raises:
        UsageError: A DSN or a mix that cannot be read, or no server.
        OpsError: A server refuses the rows.
    """
    targets = _targets(invocation.config, dsns)
    try:
        read_mix(mix)
    except ValueError as error:
        raise UsageError(f"--mix {mix}: {error}") from error
    invocation.start_logs()
    stop = threading.Event()
    with _until_signal(stop), ExitStack() as stack:
        connections = [
            stack.enter_context(_connected(name, dsn, stop)) for name, dsn in targets.items()
        ]
        if stop.is_set():
            return
        logger.info("traffic_starts", extra={"servers": ", ".join(targets), "rate": rate})
        calls = Calls(list(targets), rate, mix)
        written = calls.write(connections, stop, seconds)
        logger.info("traffic_stopped", extra={"rows": written})


def _targets(config: Config, dsns: Sequence[str]) -> dict[str, str]:
    targets = {name: server.dsn.get_secret_value() for name, server in config.servers.items()}
    if not targets:
        raise UsageError("no server is configured", "add a [[servers]] table with name and dsn")
    for argument in dsns:
        name, _, dsn = argument.partition("=")
        if name not in targets:
            raise UsageError(f"--dsn {name}: must be NAME=DSN, NAME one of {', '.join(targets)}")
        if wrong := why_no_dsn(dsn):
            raise UsageError(f"--dsn {name}: the DSN {wrong}")
        targets[name] = dsn
    return targets


class Calls:
    """Rows in the order of their messages, made a batch ahead of the clock."""

    def __init__(self, servers: Sequence[str], rate: float, mix: str) -> None:
        self._servers = tuple(
            ServerSpec(name, f"proxy-{name}.example.com:5060") for name in servers
        )
        self._rate = rate
        self._mix = mix
        self._rows: list[tuple[int, int, RowWrite]] = []
        self._made_until = 0.0
        self._number = 0

    def due(self, now: float) -> Iterator[RowWrite]:
        """Rows whose moment has come; calls of the next seconds are made where it is time to.

        Args:
            now: Seconds since 1970.
        """
        if now + _LEAD_SECONDS >= self._made_until:
            self._make(max(now + _LEAD_SECONDS, self._made_until))
        while self._rows and self._rows[0][0] <= now * US:
            yield heapq.heappop(self._rows)[2]

    def write(
        self,
        connections: Sequence[psycopg.Connection[Any]],
        stop: threading.Event,
        seconds: float | None,
    ) -> int:
        """Writes rows as they are due; how many.

        Raises:
            OpsError: A server refuses a row.
        """
        written, ends = 0, None if seconds is None else time.monotonic() + seconds
        while not stop.is_set() and (ends is None or time.monotonic() < ends):
            for row in self.due(time.time()):
                try:
                    connections[row.server].execute(INSERT_ROW, row.row)
                except psycopg.Error as error:
                    name = self._servers[row.server].name
                    raise OpsError(
                        f"server {name} does not take a row: {error}",
                        "its role needs INSERT on call_state_events; or the server went away",
                    ) from error
                written += 1
            stop.wait(0.05)
        return written

    def _make(self, start: float) -> None:
        start_us = round(start * US)
        spec = TrafficSpec(
            seed=start_us,  # so that no Call-ID comes twice, not in another run either
            calls=max(1, round(self._rate * BATCH_SECONDS)),
            within_seconds=max(BATCH_SECONDS, 1 / self._rate),
            start_us=start_us,
            servers=self._servers,
            mix=self._mix,
            redeliver=0.0,  # the same row again is the business of whoever reads
        )
        for row in generate(spec).writes:
            self._number += 1
            heapq.heappush(self._rows, (row.message_us, self._number, row))
        self._made_until = start + max(BATCH_SECONDS, 1 / self._rate)


@contextmanager
def _connected(name: str, dsn: str, stop: threading.Event) -> Iterator[psycopg.Connection[Any]]:
    """Waits for a server that is not there yet."""
    while True:
        try:
            connection = psycopg.connect(dsn, autocommit=True, connect_timeout=10)
            break
        except psycopg.OperationalError as error:
            logger.warning("server_away", extra={"server": name, "reason": str(error)})
            if stop.wait(_RETRY_SECONDS):
                raise OpsError(f"server {name} was never there: {error}") from error
    with connection:
        yield connection


@contextmanager
def _until_signal(stop: threading.Event) -> Iterator[None]:
    before: Mapping[signal.Signals, Any] = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
