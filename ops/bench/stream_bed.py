"""What the stream app's benchmarks lie on: topics, a database, processes, and what these use.

Owns filling a topic, running a program under a keeper (it ends with the benchmark, however that
ends) with a scratch folder to write into, and its CPU and memory. Refuses to judge figures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, Producer, TopicPartition

import ops
from callstate.config import ResolutionConfig
from callstate.envelope import HEARTBEAT
from ops.bench.stream_log import SERVERS, LogRecord, backlog
from ops.offsets import ends_of
from ops.stack import Stack
from ops.stack.processes import KeptProcess, Program
from stream_app.migrations import migrate
from stream_app.settings import WorkerSettings
from stream_app.topics import ensure_topics

_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")
_LOOK_SECONDS: Final = 0.05
_PATIENCE_SECONDS: Final = 900.0
_SOURCE: Final = Path(ops.__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A figure beside its target, for the table; `target` is empty where there is none."""

    name: str
    figure: str
    target: str = ""
    met: bool | None = None


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(text + "\n")


class Bench:
    """Topics and a database on a stack of its own."""

    def __init__(self, stack: Stack, folder: Path, **settings: Any) -> None:
        self.stack, self.folder = stack, folder
        self._connection: psycopg.Connection[Any] | None = None
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
            **{
                "session_timeout_seconds": 6.0,
                "resolution": ResolutionConfig(servers=SERVERS),
                **settings,
            },
        )
        ensure_topics(self.settings)
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings.bootstrap_servers,
                "partitioner": "murmur2_random",
                "compression.type": "lz4",
                "linger.ms": 20,
                "queue.buffering.max.messages": 200_000,
                "enable.idempotence": True,  # a retry must not turn the order round
            }
        )
        # Until the client knows the topic, records with a key wait apart from those for a given
        # partition: heartbeats would overtake events, some of which would stand behind the last.
        wait_until(self._topic_is_known, "the topic is known")

    def _topic_is_known(self) -> bool:
        topic = self.settings.events_topic
        found = self.producer.list_topics(topic, timeout=10).topics[topic]
        return len(found.partitions) == self.settings.partitions

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
                total += ends_of(consumer, TopicPartition(topic, number), 10)[1]
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
        # One connection: a new one at each look would take a tenth of a core from what is measured.
        if self._connection is None:
            self._connection = psycopg.connect(self.settings.sink_dsn, autocommit=True)
        row = self._connection.execute(statement, values).fetchone()
        return None if row is None else row[0]

    def process(self, module: str, arguments: list[str], name: str) -> Process:
        """A program of ours in the scratch folder."""
        return Process(module, arguments, self.folder, f"{self.settings.group_id}-{name}")

    @contextlib.contextmanager
    def worker(self, name: str, profile: Path | None = None) -> Iterator[Process]:
        """A worker process; ended by SIGTERM."""
        told = json.dumps(dataclasses.asdict(dataclasses.replace(self.settings, worker_id=name)))
        more = [] if profile is None else [str(profile)]
        process = self.process("ops.bench.stream_worker", [told, *more], name)
        try:
            yield process
        finally:
            process.end()


class Process:
    """A program to be measured, in a folder of its own; it ends when the benchmark does."""

    def __init__(self, module: str, arguments: list[str], folder: Path, name: str) -> None:
        scratch = folder / name
        scratch.mkdir(exist_ok=True)
        self.log = folder / f"{name}.log"
        self.log.touch()
        self._process = KeptProcess(
            Program(
                argv=[sys.executable, "-m", module, *arguments],
                env={**os.environ, "PYTHONPATH": _python_path(), "PYTHONUNBUFFERED": "1"},
                cwd=scratch,
                log=self.log,
            )
        )
        self.pid = self._process.pid

    def said(self, event: str) -> list[dict[str, Any]]:
        """The log records of that event, as their JSON."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return [json.loads(line) for line in lines if event in line and line.startswith("{")]

    def wait_logged(self, text: str) -> None:
        """Until the process has said so."""
        wait_until(lambda: text in self.log.read_text("utf-8", "replace"), text, self)

    def kill(self) -> None:
        """At once."""
        self._process.kill()

    def end(self, seconds: float = 20.0) -> None:
        """By SIGTERM, by SIGKILL if that does not do."""
        self._process.stop(signal.SIGTERM, seconds)

    def check(self) -> None:
        """Raises where the process has ended by itself."""
        if not self._process.alive:
            raise RuntimeError(f"ended by itself: {self.log.read_text()[-2_000:]}")


def _python_path() -> str:
    """These sources, behind what the benchmark itself was told to take first."""
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(_SOURCE))))


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
