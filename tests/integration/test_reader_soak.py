"""Writers, faults by a seed, and at the end every row accounted for by (server, id).

`make soak SECONDS=600 SEED=7` runs it for longer. A failure prints its seed and what was done.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress

import psycopg
import pytest

from ops.stack.stack import Stack
from tests.reader_kit import INSERT, Bed, streaming, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "20"))
SEED = int(os.environ.get("SOAK_SEED", "1"))

pytestmark = pytest.mark.timeout(SECONDS * 3 + 900)


@pytest.fixture(scope="module")
def stack(rough_stack: Stack) -> Stack:
    return rough_stack


class Ledger:
    """What writers know: ids that were committed, and ids whose commit nobody answered."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self.stopped = threading.Event()
        self.committed: set[int] = set()
        self.in_doubt: set[int] = set()
        self.rolled_back = 0

    def write(self, seed: int) -> None:
        """One writer: transactions of 1 to 200 rows, with savepoints, some rolled back."""
        rng = random.Random(seed)
        while not self.stopped.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True) as conn:
                    while not self.stopped.is_set():
                        self._transact(conn, rng)
                        self.stopped.wait(rng.uniform(0, 0.01))
            except psycopg.Error:
                self.stopped.wait(0.1)

    def _transact(self, conn: psycopg.Connection[tuple[int]], rng: random.Random) -> None:
        kept: set[int] = set()
        asked_to_commit = False
        try:
            conn.execute("begin")
            for _ in range(rng.randint(1, 3)):
                rows = 200 if rng.random() < 0.02 else rng.randint(1, 5)
                conn.execute("savepoint s")
                ids = {row[0] for row in conn.execute(f"{INSERT} returning id", (rows,))}
                if rng.random() < 0.2:
                    conn.execute("rollback to savepoint s")
                else:
                    kept |= ids
            if rng.random() < 0.1:
                conn.execute("rollback")
                self.rolled_back += len(kept)
                return
            asked_to_commit = True
            conn.execute("commit")
        except psycopg.Error:
            if asked_to_commit:
                with self._lock:
                    self.in_doubt |= kept
            raise
        with self._lock:
            self.committed |= kept


class Chaos:
    """A reader process that is never left alone for long."""

    def __init__(self, bed: Bed, rng: random.Random, parts: ExitStack) -> None:
        self._bed = bed
        self._rng = rng
        self._parts = parts
        self._reader: subprocess.Popen[bytes] | None = None
        self.done: list[str] = []

    @property
    def _faults(self) -> list[Callable[[], Awaitable[None]]]:
        return [
            self._kill_reader,
            self._end_reader,
            self._freeze_reader,
            self._drop_connections,
            self._crash_server,
            self._stop_server,
            self._kill_broker,
            self._freeze_broker,
            self._change_columns,
            self._purge,
        ]

    async def go_on(self) -> None:
        """One fault, and a while in peace."""
        if self._reader is None or self._reader.poll() is not None:
            self._reader = self._parts.enter_context(self._bed.process(silence_seconds=2))
        fault = self._rng.choice(self._faults)
        self.done.append(fault.__name__.lstrip("_"))
        await fault()
        await asyncio.sleep(self._rng.uniform(0.2, 1.5))  # peace is part of the plan

    async def _kill_reader(self) -> None:
        assert self._reader is not None
        self._reader.kill()
        await asyncio.to_thread(self._reader.wait)

    async def _end_reader(self) -> None:
        assert self._reader is not None
        self._reader.terminate()
        # by the signal itself where it was still starting
        assert await asyncio.to_thread(self._reader.wait, 60) in (0, -signal.SIGTERM)

    async def _freeze_reader(self) -> None:
        assert self._reader is not None
        self._reader.send_signal(signal.SIGSTOP)
        await asyncio.sleep(self._rng.uniform(0.5, 4))
        self._reader.send_signal(signal.SIGCONT)

    async def _drop_connections(self) -> None:
        with suppress(psycopg.Error), self._bed.connect() as conn:
            conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'cdrstream'"
            )

    async def _crash_server(self) -> None:
        server = self._bed.stack["a"]
        await asyncio.to_thread(server.kill)
        await asyncio.to_thread(server.start)

    async def _stop_server(self) -> None:
        await asyncio.to_thread(self._bed.stack["a"].restart)

    async def _kill_broker(self) -> None:
        await asyncio.to_thread(self._bed.stack.broker.kill)
        await asyncio.to_thread(self._bed.stack.broker.start)

    async def _freeze_broker(self) -> None:
        self._bed.stack.broker.pause()
        await asyncio.sleep(self._rng.uniform(0.5, 3))
        self._bed.stack.broker.resume()

    async def _change_columns(self) -> None:
        with suppress(psycopg.Error), self._bed.connect() as conn:
            column = f"extra{len(self.done)}"
            conn.execute(f"alter table call_state_events add column {column} text".encode())

    async def _purge(self) -> None:
        """What the stream has passed, as a purge of old rows does."""
        with suppress(psycopg.Error), self._bed.connect() as conn:
            conn.execute(
                "delete from call_state_events"
                " where event_time < clock_timestamp() at time zone 'utc' - interval '3 s'"
                " and exists (select from pg_replication_slots)"
            )


async def test_every_row_is_accounted_for(bed: Bed) -> None:
    rng = random.Random(SEED)
    async with bed.reading() as reader:  # the slot is there before the first row
        await streaming(reader)
    ledger = Ledger(bed.dsn)
    writers = [threading.Thread(target=ledger.write, args=(SEED * 100 + n,)) for n in range(3)]
    with ExitStack() as parts:
        chaos = Chaos(bed, rng, parts)
        for writer in writers:
            writer.start()
        try:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                await chaos.go_on()
        finally:
            ledger.stopped.set()
            for writer in writers:
                writer.join()
    what = f"seed {SEED}: {', '.join(chaos.done)}"
    async with bed.reading() as reader:
        await streaming(reader)
        await until(lambda: ledger.committed <= set(bed.event_ids()), 300, what)
        await until(lambda: reader.metrics.unacked_records == 0)
    arrived = bed.event_ids()
    assert ledger.committed <= set(arrived), what
    assert set(arrived) <= ledger.committed | ledger.in_doubt, f"invented; {what}"
    assert ledger.rolled_back, "some were rolled back"
    rows: dict[int, object] = {}
    for event in bed.events():
        assert rows.setdefault(event.row["id"], event.row) == event.row, f"repeats differ; {what}"
    bed.close()
