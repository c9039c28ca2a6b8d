"""Calls of three servers in real time, written by proxies that do not give up.

Owns the writers. A row whose commit nobody answered is written again under the same id, so that it
is there once. Event times are the true time by the clock that the server was given; the truth is in
true time, which is the sink's.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from ops.demo.plan import MIX, TIMING
from ops.demo.source import CONNECTIONS
from ops.simulation.script import US
from ops.simulation.servers import ClockSpec, RowWrite, ServerSpec
from ops.simulation.traffic import Traffic, TrafficSpec, generate
from tests.chaos.place import CLOCKS_SECONDS

CALLS_A_SECOND = 8.0
LEAD_SECONDS = 1.0


def make_traffic(seed: int, seconds: float) -> Traffic:
    """Calls that begin within `seconds` from now."""
    servers = tuple(
        ServerSpec(name, f"proxy-{name}.example.com:5060", ClockSpec(offset * 1_000))
        for name, offset in CLOCKS_SECONDS.items()
    )
    return generate(
        TrafficSpec(
            seed=seed,
            calls=round(seconds * CALLS_A_SECOND),
            within_seconds=seconds,
            start_us=round((time.time() + LEAD_SECONDS) * US),
            servers=servers,
            mix=",".join(f"{name}={share}" for name, share in MIX.items()),
            timing=TIMING,
            jitter_ms=0.0,  # the truth is exact: event_time is when the message passes
            redeliver=0.0,  # killed readers see to that
            retransmit=0.05,
            every_scenario=True,
        )
    )


def truth_lines(traffic: Traffic) -> Iterator[dict[str, Any]]:
    """The truth by a clock that is right."""
    for truth in traffic.truths:
        yield truth.line(lambda true_us: true_us)


class Writers:
    """Each row at its time, as soon as its server takes it."""

    def __init__(self, dsns: Mapping[str, str], traffic: Traffic) -> None:
        names = list(dsns)
        self._queues: dict[str, deque[RowWrite]] = {name: deque() for name in names}
        for write in sorted(traffic.writes, key=lambda write: write.message_us):
            self._queues[names[write.server]].append(write)
        self._stop = threading.Event()
        self.failure: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(name, dsn), name=f"proxy-{name}")
            for name, dsn in dsns.items()
            for _ in range(CONNECTIONS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> bool:
        """Whether rows are still to be written."""
        return any(thread.is_alive() for thread in self._threads)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, name: str, dsn: str) -> None:
        queue = self._queues[name]
        write: RowWrite | None = None
        while not self._stop.is_set():
            try:
                with psycopg.connect(dsn, connect_timeout=5) as connection:
                    while not self._stop.is_set():
                        if write is None:
                            try:
                                write = queue.popleft()
                            except IndexError:
                                return
                        self._write(connection, write)
                        write = None
            except psycopg.OperationalError:
                self._stop.wait(0.1)
            except BaseException as error:
                self.failure = error
                raise

    def _write(self, connection: psycopg.Connection[Any], write: RowWrite) -> None:
        self._wait_until(write.message_us)
        names = ", ".join(write.row)
        values = ", ".join(f"%({name})s" for name in write.row)
        connection.execute(
            f"INSERT INTO call_state_events ({names}) VALUES ({values})"
            " ON CONFLICT (id) DO NOTHING".encode(),
            write.row,
        )
        self._wait_until(write.commit_us)
        connection.commit()

    def _wait_until(self, at_us: int) -> None:
        left = at_us / US - time.time()
        if left > 0:
            self._stop.wait(left)
