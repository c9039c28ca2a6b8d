"""The proxies: rows go into each server's table at the moment that their message passes.

Owns when and over which connection a row is written. `event_time` is the moment's true time by the
wrong clock that the server was given, computed from what was set and never measured, so that the
truth is exact; `clock_errors_ms` shows beforehand that the servers really read so.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import psycopg

from ops.errors import OpsError
from ops.simulation.script import US
from ops.simulation.servers import ClockSpec, RowWrite

CONNECTIONS: Final = 3  # a proxy's transactions overlap, so that rows commit out of id order
_PROBES: Final = 15
_COLUMNS: Final = (
    "observer",
    "event_seq",
    "event_time",
    "event_type",
    "cseq",
    "call_id",
    "from_tag",
    "to_tag",
    "from_url",
    "to_url",
    "contact",
    "refer_to",
    "referred_by",
    "failure_status",
    "failure_reason",
    "request_uri",
    "reference",
    "caller_internal",
    "callee_route",
    "branch_id",
    "via_count",
)
INSERT_ROW: Final = (
    f"INSERT INTO call_state_events ({', '.join(_COLUMNS)}) "  # noqa: S608  names of our own
    f"VALUES ({', '.join(f'%({name})s' for name in _COLUMNS)})"
)


@dataclass(slots=True)
class Progress:
    """What one server's proxies have done; read by the screen while threads write it."""

    planned: int
    written: int = 0
    late_us_max: int = 0
    failure: BaseException | None = field(default=None, repr=False)


class TrafficSource:
    """Writes rows into several servers, each at its time; `start` returns at once."""

    def __init__(self, dsns: Mapping[str, str], writes: Sequence[RowWrite]) -> None:
        names = list(dsns)
        self.progress = {name: Progress(0) for name in names}
        self._queues: dict[str, deque[RowWrite]] = {name: deque() for name in names}
        for write in sorted(writes, key=lambda write: write.message_us):
            name = names[write.server]
            self._queues[name].append(write)
            self.progress[name].planned += 1
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(name, dsn), name=f"proxy-{name}", daemon=True)
            for name, dsn in dsns.items()
            for _ in range(CONNECTIONS)
        ]

    def start(self) -> None:
        """Begins writing."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends early, within a row."""
        self._stop.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout=5)

    @property
    def running(self) -> bool:
        """Whether rows are still to be written.

        Raises:
            OpsError: A server did not take its rows.
        """
        for name, progress in self.progress.items():
            if progress.failure is not None:
                raise OpsError(
                    f"server {name} did not take a row: {progress.failure}",
                    f"look into the PostgreSQL log of server {name}",
                ) from progress.failure
        return any(thread.is_alive() for thread in self._threads)

    def _run(self, name: str, dsn: str) -> None:
        progress, queue = self.progress[name], self._queues[name]
        try:
            with psycopg.connect(dsn, connect_timeout=10) as connection:
                while not self._stop.is_set():
                    with self._lock:
                        if not queue:
                            return
                        write = queue.popleft()
                    self._write(connection, write, progress)
        except Exception as error:  # noqa: BLE001  told by `running`, in the main thread
            progress.failure = error
            self._stop.set()

    def _write(
        self,
        connection: psycopg.Connection[tuple[object, ...]],
        write: RowWrite,
        progress: Progress,
    ) -> None:
        if not self._sleep_until(write.message_us):
            return
        connection.execute(INSERT_ROW, write.row)
        if not self._sleep_until(write.commit_us):
            return
        connection.commit()
        late_us = time.time_ns() // 1_000 - write.commit_us
        with self._lock:
            progress.written += 1
            progress.late_us_max = max(progress.late_us_max, late_us)

    def _sleep_until(self, at_us: int) -> bool:
        left = at_us / US - time.time()
        return not (self._stop.wait(left) if left > 0 else self._stop.is_set())


def clock_errors_ms(
    dsns: Mapping[str, str], clocks: Mapping[str, ClockSpec], epoch_us: int
) -> dict[str, tuple[float, float, float]]:
    """Per server: offset as set, offset as it reads, half a round trip; milliseconds.

    A check of the demo itself: the readers know nothing of it and measure for themselves.
    """
    found = {}
    for name, dsn in dsns.items():
        with psycopg.connect(dsn, autocommit=True, connect_timeout=10) as connection:
            found[name] = _reading_ms(connection, clocks[name], epoch_us)
    return found


def _reading_ms(
    connection: psycopg.Connection[tuple[object, ...]], clock: ClockSpec, epoch_us: int
) -> tuple[float, float, float]:
    best: tuple[float, float, float] | None = None
    for _ in range(_PROBES):
        before = time.time_ns() // 1_000
        row = connection.execute(
            "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
        ).fetchone()
        after = time.time_ns() // 1_000
        assert row is not None
        reading = row[0]
        assert isinstance(reading, int)
        middle = (before + after) // 2
        half_ms = (after - before) / 2_000
        if best is None or half_ms < best[2]:
            meant = clock.offset_us(middle - epoch_us) / 1_000
            best = (meant, (reading - middle) / 1_000, half_ms)
    assert best is not None
    return best
