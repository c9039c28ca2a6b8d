"""The worker's figures: `python -m ops.bench.stream`, or `make bench-stream`.

Owns the measuring: a backlog in a real broker, worker processes that empty it into a real
PostgreSQL, their wall time and CPU from the moment that their partitions are ready. Refuses to know
what a worker is made of. In the same run an ordinary Faust agent counts the same events into a
table.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

from callstate.config import ResolutionConfig
from callstate.envelope import HEARTBEAT
from ops.bench.stream_log import SERVERS, LogRecord, backlog
from ops.stack import Stack
from stream_app.migrations import migrate
from stream_app.settings import WorkerSettings
from stream_app.topics import ensure_topics

_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 900.0


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One run: what was read, in which time, at which cost."""

    name: str
    events: int
    seconds: float
    cpu_seconds: float
    rss_mb: float
    others_cpu_seconds: float = 0.0

    def line(self) -> str:
        """For a person."""
        each = 1e6 * self.cpu_seconds / self.events
        return (
            f"{self.name:34} {self.events / self.seconds:9,.0f} events/s {each:7.1f} us CPU/event"
            f" {self.rss_mb:7,.0f} MB   broker and database {self.others_cpu_seconds:5.1f} s CPU"
            f" of {self.seconds:.1f} s"
        )


class Bench:
    """Topics and a database on a stack of its own."""

    def __init__(self, stack: Stack, folder: Path, **settings: Any) -> None:
        self.stack, self.folder = stack, folder
        name = f"b{uuid.uuid4().hex[:10]}"
        stack.sink.create_database(name)
        dsn = stack.sink.dsn_for(name)
        migrate(dsn)
        self.settings = WorkerSettings(
            bootstrap_servers=stack.broker.bootstrap_servers,
            sink_dsn=dsn,
            events_topic=f"{name}.call-state-events",
            references_topic=f"{name}.call-references",
            status_topic=f"{name}.status",
            cdrs_topic=f"{name}.cdrs",
            group_id=name,
            session_timeout_seconds=6.0,
            resolution=ResolutionConfig(servers=SERVERS),
            **settings,
        )
        ensure_topics(self.settings)
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings.bootstrap_servers,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 200_000,
            }
        )

    def put(self, record: LogRecord) -> int:
        """Produces a record, a heartbeat to every partition; 1 for an event."""
        settings, beat = self.settings, record.kind == HEARTBEAT
        for partition in range(settings.partitions) if beat else (-1,):
            while True:
                try:
                    self.producer.produce(
                        settings.events_topic,
                        record.value,
                        record.key,
                        partition=partition,
                        headers=record.headers,
                    )
                    break
                except BufferError:
                    self.producer.poll(0.05)
        return 0 if beat else 1

    def fill(self, calls: int, **more: Any) -> int:
        """A whole backlog; the number of events in it."""
        events = sum(self.put(record) for record in backlog(calls, **more))
        assert self.producer.flush(120) == 0
        return events

    def ends(self) -> int:
        """Sum of the end offsets of the event topic."""
        consumer = Consumer(
            {"bootstrap.servers": self.settings.bootstrap_servers, "group.id": "bench"}
        )
        try:
            topic, total = self.settings.events_topic, 0
            for number in range(self.settings.partitions):
                ends = consumer.get_watermark_offsets(TopicPartition(topic, number), 10)
                total += ends[1] if ends else 0
            return total
        finally:
            consumer.close()

    def written(self) -> int:
        """Sum of the offsets up to which everything is in the database."""
        return int(
            self.query(
                "SELECT coalesce(sum(next_offset), 0) FROM sink_progress WHERE topic = %s",
                self.settings.events_topic,
            )
        )

    def query(self, statement: str, *values: Any) -> Any:
        """The only value of a statement's only row."""
        with psycopg.connect(self.settings.sink_dsn) as connection:
            row = connection.execute(statement, values).fetchone()
            return None if row is None else row[0]

    @contextlib.contextmanager
    def worker(self, name: str, profile: Path | None = None) -> Iterator[Process]:
        """A worker process; ended by SIGTERM."""
        told = json.dumps(dataclasses.asdict(dataclasses.replace(self.settings, worker_id=name)))
        more = [] if profile is None else [str(profile)]
        process = Process("ops.bench.stream_worker", [told, *more], self.folder / f"{name}.log")
        try:
            yield process
        finally:
            process.end()


class Process:
    """A process to be measured."""

    def __init__(self, module: str, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait_logged(self, text: str) -> None:
        """Until the process has said so."""
        wait_until(lambda: text in self.log.read_text("utf-8", "replace"), text, self)

    def kill(self) -> None:
        """At once."""
        self._process.kill()

    def end(self, seconds: float = 20.0) -> None:
        """By SIGTERM."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(seconds)

    def check(self) -> None:
        """Raises where the process has ended by itself."""
        code = self._process.poll()
        if code is not None:
            raise RuntimeError(f"ended with {code}: {self.log.read_text()[-2_000:]}")


def wait_until(condition: Callable[[], bool], what: str, *processes: Process) -> None:
    """Looks every 50 ms, for a quarter of an hour."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not condition():
        for process in processes:
            process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"not in time: {what}")
        time.sleep(_LOOK_SECONDS)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS


def tree_cpu_seconds(root: int) -> float:
    """The same of a process, its children and those of them that have ended."""
    total = 0.0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(entry.name) == root or int(fields[1]) == root:
                    ticks = fields[11:15] if int(entry.name) == root else fields[11:13]
                    total += sum(int(field) for field in ticks) * _TICK_SECONDS
    return total


def rss_mb(pid: int) -> float:
    """Resident memory now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def empty_backlog(
    bench: Bench, events: int, workers: int = 1, profile: Path | None = None
) -> Figure:
    """From ready partitions to the last record's transaction."""
    ends = bench.ends()
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(bench.worker(f"w{n}", profile if n == 0 else None))
            for n in range(workers)
        ]
        for process in running:
            process.wait_logged("partitions_assigned")
        others = [bench.stack.broker.pid, bench.stack.sink.pid]
        began, read = time.monotonic(), bench.written()
        before = sum(cpu_seconds(process.pid) for process in running)
        others_before = sum(tree_cpu_seconds(pid) for pid in others)
        wait_until(lambda: bench.written() >= ends, "the backlog is written", *running)
        seconds = time.monotonic() - began
        used = sum(cpu_seconds(process.pid) for process in running) - before
        others_used = sum(tree_cpu_seconds(pid) for pid in others) - others_before
        memory = sum(rss_mb(process.pid) for process in running)
    share = (ends - read) / ends
    name = f"{workers} worker{'s' * (workers > 1)}"
    return Figure(name, round(events * share), seconds, used, memory, others_used)


def count_by_faust(bench: Bench, events: int) -> Figure:
    """An ordinary Faust agent on the same kind of backlog, one table write an event."""
    ends = bench.ends() // 500 * 500  # it says every 500 how far it is
    settings = bench.settings
    arguments = [settings.bootstrap_servers, settings.events_topic, str(settings.partitions)]
    process = Process("ops.bench.faust_agent", arguments, bench.folder / "faust.log")
    try:
        process.wait_logged("counted 500\n")

        def counted() -> int:
            told = process.log.read_text().rpartition("\n")[0]
            return int(told.rpartition("counted ")[2].split()[0])

        began, read = time.monotonic(), counted()
        before = cpu_seconds(process.pid)
        wait_until(lambda: counted() >= ends, "Faust has counted all", process)
        seconds = time.monotonic() - began
        used, memory = cpu_seconds(process.pid) - before, rss_mb(process.pid)
    finally:
        process.kill()
        process.end()
    return Figure(
        "ordinary Faust agent", round(events * (ends - read) / ends), seconds, used, memory
    )


def _medians(figures: list[Figure]) -> Figure:
    middle = median(figure.events / figure.seconds for figure in figures)
    return min(figures, key=lambda figure: abs(figure.events / figure.seconds - middle))


def main() -> int:
    """Runs what is asked for and prints a line each."""
    asked = argparse.ArgumentParser(description="Figures of the stream app's worker.")
    asked.add_argument("--calls", type=int, default=40_000, help="calls of the backlog")
    asked.add_argument("--faust-calls", type=int, default=8_000, help="calls of Faust's backlog")
    asked.add_argument("--runs", type=int, default=3)
    asked.add_argument("--workers", type=int, default=1)
    asked.add_argument("--no-faust", action="store_true")
    asked.add_argument("--profile", type=Path, help="write cProfile's figures of the last run here")
    given = asked.parse_args()
    with Stack(1) as stack, tempfile.TemporaryDirectory(prefix="cdrstream-bench-") as folder:
        figures = []
        for _ in range(given.runs):
            bench = Bench(stack, Path(folder))
            events = bench.fill(given.calls)
            figures.append(empty_backlog(bench, events, given.workers, given.profile))
            print(figures[-1].line(), flush=True)
            rows = bench.query("SELECT count(*) FROM cdrs")
            assert rows == given.calls, f"{rows} CDRs of {given.calls} calls"
        ours = _medians(figures)
        print("median:", ours.line(), flush=True)
        if not given.no_faust:
            bench = Bench(stack, Path(folder))
            theirs = count_by_faust(bench, bench.fill(given.faust_calls))
            print(theirs.line())
            times = (ours.events / ours.seconds) / (theirs.events / theirs.seconds)
            print(f"{times:.1f} times an ordinary Faust agent")
    return 0


if __name__ == "__main__":
    sys.exit(main())
