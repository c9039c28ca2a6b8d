"""A seeded minute of deaths, freezes, joins and outages under traffic; then every call is right.

`CHAOS_SEED` and `CHAOS_FAULTS` choose another run; a failure prints both.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.stack import Stack
from tests.streaming import Bed, WorkerProcess, call_rows, database, stream_stack, until

__all__ = ["stream_stack"]

SEED = int(os.environ.get("CHAOS_SEED", "1"))
FAULTS = int(os.environ.get("CHAOS_FAULTS", "12"))
CALLS_A_STEP = 5
STEP_SECONDS = 0.05


@pytest.fixture
def bed(tmp_path: Path, stream_stack: Stack) -> Iterator[Bed]:
    with database(stream_stack.sink) as dsn:
        bed = Bed(dsn, tmp_path, session_timeout_seconds=6.0)
        try:
            yield bed
        finally:
            bed.end()


class Traffic(threading.Thread):
    """Calls of 20 s in a time that runs twenty times as fast as the wall's, until told to stop."""

    def __init__(self, bed: Bed) -> None:
        super().__init__(daemon=True)
        self.bed = bed
        self.names: list[str] = []
        self.at = 0.0
        self.stopped = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        pending: list[tuple[float, dict[str, object]]] = []
        try:
            while not self.stopped.is_set():
                for n in range(CALLS_A_STEP):
                    name = f"c{len(self.names):05}@host"
                    self.names.append(name)
                    times = (0.0, 2.0, 22.0)
                    rows = call_rows(name, self.at + n / 10, seconds=20)
                    pending += [(self.at + t, row) for t, row in zip(times, rows, strict=True)]
                due = [row for at, row in pending if at <= self.at]
                pending = [(at, row) for at, row in pending if at > self.at]
                self.bed.put_rows(due)
                self.bed.beat(self.at)
                self.at += STEP_SECONDS * 20
                self.stopped.wait(STEP_SECONDS)
            self.bed.put_rows([row for _, row in pending])
            self.bed.beat(self.at + 100)
            self.bed.flush()
        except BaseException as error:
            self.failure = error
            raise


class Chaos:
    """One fault after another, by the seed."""

    def __init__(self, bed: Bed, stack: Stack) -> None:
        self.bed, self.stack = bed, stack
        self.choice = random.Random(SEED)
        self.running: list[WorkerProcess] = []
        self.frozen: list[WorkerProcess] = []
        self.done: list[str] = []

    def join(self) -> None:
        self.running.append(self.bed.worker(f"w{len(self.bed.workers)}"))

    def kill(self) -> None:
        self.running.pop(self.choice.randrange(len(self.running))).kill()

    def leave(self) -> None:
        worker = self.running.pop(self.choice.randrange(len(self.running)))
        # Before that a signal ends it at once: it is still loading its modules and holds nothing.
        until(lambda: worker.logged("worker_starting") or not worker.alive, "it has begun")
        assert worker.stop(30) == 0

    def freeze(self) -> None:
        worker = self.running.pop(self.choice.randrange(len(self.running)))
        worker.signal(signal.SIGSTOP)
        self.frozen.append(worker)

    def thaw(self) -> None:
        if self.frozen:
            worker = self.frozen.pop(0)
            worker.signal(signal.SIGCONT)
            self.running.append(worker)

    def sink_down_and_up(self) -> None:
        self.stack.sink.kill()
        self.stack.sink.start()

    def broker_down_and_up(self) -> None:
        self.stack.broker.kill()
        self.stack.broker.start()

    def fault(self) -> None:
        faults = [self.kill, self.kill, self.freeze, self.leave, self.thaw, self.sink_down_and_up]
        faults += [self.broker_down_and_up, self.join]
        fault = self.choice.choice(faults)
        fault()
        self.done.append(fault.__name__)
        for worker in [worker for worker in self.running if not worker.alive]:
            # What a supervisor does; only Kafka's or Faust's own giving up may ask for it.
            assert "check the broker" in worker.log(), worker.log()[-2_000:]
            self.running.remove(worker)
            self.done.append("restarted")
        while len(self.running) < 2:
            self.join()


@pytest.mark.timeout(600)
def test_chaos_loses_and_doubles_nothing(bed: Bed, stream_stack: Stack) -> None:
    chaos = Chaos(bed, stream_stack)
    chaos.join()
    chaos.join()
    chaos.running[0].wait_assigned()
    traffic = Traffic(bed)
    traffic.start()
    try:
        for _ in range(FAULTS):
            time.sleep(chaos.choice.uniform(0.5, 5.0))  # the schedule, not a wait for anything
            chaos.fault()
    finally:
        print(f"seed {SEED}: {', '.join(chaos.done)}")
        traffic.stopped.set()
        traffic.join(60)
    while chaos.frozen:
        chaos.thaw()
    assert traffic.failure is None
    expected = sorted(traffic.names)
    ended = time.monotonic()

    def complete() -> bool:
        return len(bed.cdr_ids()) >= len(expected)

    until(complete, f"all {len(expected)} CDRs", 120)
    print(f"{len(expected)} calls, all there {time.monotonic() - ended:.1f} s after the end")
    assert bed.cdr_ids() == expected
    wrong = bed.query(
        "SELECT call_id, termination, end_time - connect_time FROM cdrs"
        " WHERE termination <> 'C' OR end_time - connect_time <> interval '20 s'"
    )
    assert wrong == []
    assert bed.query(
        "SELECT count(*) FROM cdr_provenance WHERE revision <> 3 OR jsonb_array_length(events) <> 3"
    ) == [(0,)]
