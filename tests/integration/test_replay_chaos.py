"""A live run under faults, and then its replay: one digest, by any number of processes.

`CHAOS_SEED` chooses another run; a failure prints it.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from callstate.config import ResolutionConfig
from callstate.envelope import Gap, event_message, gap_message, heartbeat_message
from callstate.events import Clock, parse_time_us
from ops.replay import comparing
from ops.stack import Stack
from tests.calls import iso, us
from tests.replay_kit import connect, replayed, verified
from tests.streaming import Bed, WorkerProcess, call_rows, database, stream_stack, until

__all__ = ["stream_stack"]

pytestmark = pytest.mark.timeout(900)

SEED = int(os.environ.get("CHAOS_SEED", "1"))
STEPS = 60
CALLS_A_STEP = 12
OFFSETS_US = {"a": 0, "b": 740_000, "c": -1_310_000}


@pytest.fixture
def bed(tmp_path: Path, stream_stack: Stack) -> Iterator[Bed]:
    rules = ResolutionConfig(servers=tuple(OFFSETS_US), late_horizon_seconds=900.0)
    # Small batches: time within one must not leap further than calls are held.
    settings = {"resolution": rules, "batch_records_max": 40}
    with database(stream_stack.sink) as dsn, Bed(dsn, tmp_path, **settings) as bed:
        yield bed


class Traffic:
    """Calls over three servers with wrong clocks that probes know, some events late, some twice."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.choice = random.Random(SEED)
        self.names: list[str] = []
        self.waiting: list[tuple[float, str, dict[str, Any]]] = []
        self.at = 0.0

    def step(self) -> None:
        """Half a minute of calls, and whatever of earlier ones is due."""
        for _ in range(CALLS_A_STEP):
            self._call(f"c{len(self.names):05}@h", self.at + self.choice.uniform(0, 30))
        self.at += 30
        due = [item for item in self.waiting if item[0] <= self.at]
        self.waiting = [item for item in self.waiting if item[0] > self.at]
        for _, server, row in sorted(due, key=lambda item: item[0]):
            self._put(server, row)
            if self.choice.random() < 0.05:
                self._put(server, row)
        self.beat()

    def _call(self, name: str, at: float) -> None:
        choice = self.choice
        rows = call_rows(name, at, seconds=choice.choice((3, 40, 200, 400)))
        request, setup, _ = rows
        if self.names and choice.random() < 0.2:
            request["reference"] = f"{choice.choice(self.names)};rel=chain"
        if choice.random() < 0.1:
            setup |= {"event_type": "F", "failure_status": 486, "failure_reason": "Busy Here"}
            setup["contact"] = ""
            rows = [request, setup]
        self.names.append(name)
        for row in rows:
            server = choice.choice(tuple(OFFSETS_US))
            # Most are read at once, some after a minute, some when the call is long forgotten;
            # but a call of which only the end was known is a dead letter then, and stays one.
            late = choice.choices((0.0, 45.0, 1_500.0), (90, 7, 3 * (row is not request)))[0]
            shown = iso(_seconds(row) + OFFSETS_US[server] / 1e6)
            self.waiting.append((_seconds(row) + late, server, row | {"event_time": shown}))

    def _put(self, server: str, row: dict[str, Any]) -> None:
        error_us = self.choice.choice((900, 1_500, 3_000))
        clock = Clock(False, error_us, OFFSETS_US[server])
        message = event_message(server, "0/1", None, clock, row)
        self.bed.put("event", row["call_id"], message)

    def beat(self) -> None:
        for server, offset_us in OFFSETS_US.items():
            clock = Clock(False, 1_000, offset_us)
            message = heartbeat_message(server, us(self.at) + offset_us, "0/1", clock)
            for partition in range(self.bed.settings.partitions):
                self.bed.put("heartbeat", server, message, partition=partition)
        self.bed.flush()

    def gap(self) -> None:
        message = gap_message(Gap("b", "0/1", "0/2", us(self.at - 40), us(self.at - 20), "lost"))
        for partition in range(self.bed.settings.partitions):
            self.bed.put("gap", "b", message, partition=partition)

    def end(self) -> None:
        """What is due comes, and time goes on until nobody waits for anything."""
        while self.waiting:
            self.at += 30
            due = [item for item in self.waiting if item[0] <= self.at]
            self.waiting = [item for item in self.waiting if item[0] > self.at]
            for _, server, row in due:
                self._put(server, row)
            self.beat()


def _seconds(row: dict[str, Any]) -> float:
    return (parse_time_us(row["event_time"]) - us(0)) / 1e6


class Faults:
    """What befalls the service, by the seed."""

    def __init__(self, bed: Bed, stack: Stack) -> None:
        self.bed, self.stack = bed, stack
        self.choice = random.Random(SEED + 1)
        self.running: list[WorkerProcess] = []
        self.frozen: list[WorkerProcess] = []
        self.done: list[str] = []

    def join(self) -> None:
        self.running.append(self.bed.worker(f"w{len(self.bed.workers)}"))

    def fault(self) -> None:
        kind = self.choice.choice(("kill", "kill", "freeze", "thaw", "sink", "join"))
        self.done.append(kind)
        if kind == "kill":
            self.running.pop(0).kill()
        elif kind == "freeze":
            worker = self.running.pop(0)
            worker.signal(signal.SIGSTOP)
            self.frozen.append(worker)
        elif kind == "thaw":
            self.thaw()
        elif kind == "sink":
            self.stack.sink.kill()
            self.stack.sink.start()
        while len(self.running) < 2:
            self.join()

    def thaw(self) -> None:
        while self.frozen:
            worker = self.frozen.pop()
            worker.signal(signal.SIGCONT)
            self.running.append(worker)


def test_a_run_under_faults_and_its_replay_have_one_digest(bed: Bed, stream_stack: Stack) -> None:
    print(f"seed {SEED}")
    traffic, faults = Traffic(bed), Faults(bed, stream_stack)
    faults.join()
    faults.running[0].wait_assigned()
    for step in range(STEPS):
        traffic.step()
        if step % 8 == 7:
            faults.fault()
        if step == 20:
            traffic.gap()
    traffic.end()
    faults.thaw()
    print(f"seed {SEED}: {', '.join(faults.done)}")

    def all_told() -> bool:
        # Answers between calls come behind the calls: time must go on.
        traffic.at += 30
        traffic.beat()
        told = {row[0] for row in bed.query("SELECT call_id FROM cdr_provenance")}
        return told.issuperset(traffic.names) and verified(bed, 0, 40 * STEPS).compared.equal

    try:
        until(all_told, "the service has told what its replay tells", 300)
    finally:
        done = replayed(bed, 0, 40 * STEPS)
        print(done.result["summary"])
        with connect(bed) as connection:
            for change in comparing.changes(connection, done.id, limit=5):
                print(change)
    result = done.result
    assert result["summary"]["changed"] == 0
    assert result["digests"]["service"] == result["digests"]["replay"]
    assert result["returning"] > 5, "calls came back after they were forgotten"
    two = replayed(bed, 0, 40 * STEPS, workers=2).result
    assert two["digests"]["replay"] == result["digests"]["replay"]
    hidden = bed.query("SELECT count(*) FROM cdr_provenance WHERE hidden_reason IS NOT NULL")
    assert hidden[0][0] > 50
