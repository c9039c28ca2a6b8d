"""A stream app to test: topics and a database of its own on the shared stack, and worker processes.

Owns the bed that a test lies in. Refuses to expect anything: tests do.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import orjson
import psycopg
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from callstate.config import ResolutionConfig, TimeCorrection
from callstate.envelope import event_message, heartbeat_message
from callstate.events import Clock
from ops.offsets import ends_of
from ops.stack import PostgresServer, Stack
from stream_app.migrations import migrate
from stream_app.settings import WorkerSettings
from stream_app.topics import ensure_topics
from tests.calls import iso, us

ROOT = Path(__file__).parents[1]
CLOCK = Clock(late=False, error_us=1_000, offset_us=0)


@functools.cache
def shared_stack() -> Stack:
    """One server and one broker for all tests of a run; started when first asked for."""
    stack = Stack(1)
    stack.start()
    return stack


@pytest.fixture(scope="session")
def stream_stack() -> Iterator[Stack]:
    """The shared stack, ended with the run."""
    stack = shared_stack()
    yield stack
    stack.stop()


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """What `condition` returns as soon as it is true; fails after `seconds`.

    Long, here and everywhere: what comes costs nothing to wait for, and a busy machine is slow.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(0.05)


@contextmanager
def database(server: PostgresServer, *, migrated: bool = True) -> Iterator[str]:
    """The DSN of a new database."""
    name = f"t{uuid.uuid4().hex[:12]}"
    server.create_database(name)
    try:
        dsn = server.dsn_for(name)
        if migrated:
            migrate(dsn)
        yield dsn
    finally:
        server.drop_database(name)


def call_rows(call_id: str, at: float, seconds: float = 10.0) -> list[dict[str, Any]]:
    """A completed call: R, S after 2 s, E `seconds` later. Times in seconds after `calls.DAY`."""
    base = {
        "observer": "proxy:5060",
        "event_seq": 1,
        "call_id": call_id,
        "from_tag": "f",
        "from_url": "<sip:a@example.com>;tag=f",
        "to_url": "<sip:b@example.com>",
    }
    number = abs(hash(call_id)) % 2**40 * 4
    request = {**base, "id": number, "event_type": "R", "cseq": 1, "event_time": iso(at)}
    request |= {"branch_id": "z9hG4bK1", "via_count": 1, "contact": "<sip:a@10.0.0.1>"}
    setup = {**base, "id": number + 1, "event_type": "S", "cseq": 1, "event_time": iso(at + 2)}
    setup |= {"to_tag": "t", "contact": "<sip:b@10.0.0.2>", "branch_id": "z9hG4bK1"}
    end = {**base, "id": number + 2, "event_type": "E", "cseq": 2}
    end |= {"to_tag": "t", "event_time": iso(at + 2 + seconds)}
    return [request, setup, end]


@pytest.fixture
def empty(stream_stack: Stack) -> Iterator[psycopg.Connection[Any]]:
    """A connection to a new database, nothing in it."""
    with (
        database(stream_stack.sink, migrated=False) as dsn,
        psycopg.connect(dsn, autocommit=True) as connection,
    ):
        yield connection


@pytest.fixture
def bed(tmp_path: Path, stream_stack: Stack, request: pytest.FixtureRequest) -> Iterator[Bed]:
    """Topics and a database, and no worker yet; `indirect` parameters are settings."""
    settings = getattr(request, "param", {})
    with database(stream_stack.sink) as dsn, Bed(dsn, tmp_path, **settings) as made:
        yield made


class Bed:
    """Topics, database and settings of one test, and what it does with them; use as a context."""

    def __init__(self, dsn: str, folder: Path, **settings: Any) -> None:
        tag = f"t{uuid.uuid4().hex[:8]}"
        self.folder = folder
        self.settings = WorkerSettings(
            bootstrap_servers=shared_stack().broker.bootstrap_servers,
            sink_dsn=dsn,
            events_topic=f"{tag}.call-state-events",
            references_topic=f"{tag}.call-references",
            status_topic=f"{tag}.status",
            cdrs_topic=f"{tag}.cdrs",
            group_id=tag,
            **{
                "partitions": 4,
                "resolution": ResolutionConfig(servers=("a",)),
                "session_timeout_seconds": 6.0,
                "heartbeat_interval_seconds": 0.5,
                "commit_interval_seconds": 0.5,
                "progress_interval_seconds": 0.2,
                "status_interval_seconds": 0.2,
                **settings,
            },
        )
        self.workers: list[WorkerProcess] = []
        ensure_topics(self.settings)
        self.producer = Producer(
            {
                "bootstrap.servers": self.settings.bootstrap_servers,
                "partitioner": "murmur2_random",
                "linger.ms": 1,
                # A broker that does not lead a new partition yet refuses one batch and takes the
                # next: without this what is sent again would come behind what was sent later.
                "enable.idempotence": True,
            }
        )
        # Until the client knows the topic, records with a key wait apart from those for a given
        # partition: a heartbeat would overtake the events before it.
        topic = self.settings.events_topic
        until(
            lambda: (
                len(self.producer.list_topics(topic, timeout=60).topics[topic].partitions)
                == self.settings.partitions
            ),
            "the topic is known",
        )

    # -- in ----------------------------------------------------------------------------------

    def put(
        self,
        kind: str,
        key: str,
        message: object,
        *,
        partition: int | None = None,
        topic: str | None = None,
    ) -> None:
        """A record, raw where `message` is bytes."""
        value = message if isinstance(message, bytes) else orjson.dumps(message)
        more = {} if partition is None else {"partition": partition}
        self.producer.produce(
            topic or self.settings.events_topic,
            value,
            key.encode(),
            headers=[("kind", kind.encode()), ("server", b"a")],
            **more,
        )
        self.producer.poll(0)

    def put_rows(self, rows: Iterable[dict[str, Any]], server: str = "a") -> int:
        """Rows as events."""
        count = 0
        for count, row in enumerate(rows, 1):  # noqa: B007
            self.put("event", row["call_id"], event_message(server, "0/1", None, CLOCK, row))
        return count

    def beat(self, at: float, server: str = "a") -> None:
        """A heartbeat to every partition: nothing older than `at` is to come."""
        message = heartbeat_message(server, us(at), "0/1", CLOCK)
        for partition in range(self.settings.partitions):
            self.put("heartbeat", server, message, partition=partition)

    def flush(self) -> None:
        assert self.producer.flush(60) == 0

    # -- workers -----------------------------------------------------------------------------

    def worker(self, name: str = "w1", oddity: str = "") -> WorkerProcess:
        """A worker process, started; an oddity is one of `tests.odd_workers`."""
        settings = dataclasses.replace(self.settings, worker_id=name)
        process = WorkerProcess(settings, self.folder / f"{name}-{len(self.workers)}.log", oddity)
        self.workers.append(process)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what still runs; prints what the workers logged."""
        for worker in self.workers:
            worker.kill()
            print(f"--- {worker.log_path.name}\n{worker.log()[-6_000:]}")

    # -- out ---------------------------------------------------------------------------------

    def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.settings.sink_dsn, connect_timeout=60) as connection:
            return connection.execute(statement, values).fetchall()

    def cdr_ids(self) -> list[str]:
        """Call-IDs of all rows; one that is there twice is twice in the list."""
        return [row[0] for row in self.query("SELECT call_id FROM cdrs ORDER BY call_id")]

    def committed(self) -> dict[int, int]:
        """Partition of the event topic to the group's committed offset."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.bootstrap_servers,
                "group.id": self.settings.group_id,
            }
        )
        try:
            topic = self.settings.events_topic
            asked = [TopicPartition(topic, n) for n in range(self.settings.partitions)]
            return {tp.partition: tp.offset for tp in consumer.committed(asked, 60)}
        finally:
            consumer.close()

    def ends(self) -> dict[int, int]:
        """Partition of the event topic to its end offset."""
        consumer = Consumer(
            {"bootstrap.servers": self.settings.bootstrap_servers, "group.id": "nobody"}
        )
        try:
            topic = self.settings.events_topic
            return {
                n: ends_of(consumer, TopicPartition(topic, n), 60)[1]
                for n in range(self.settings.partitions)
            }
        finally:
            consumer.close()

    def read_topic(self, topic: str, partitions: int = 1) -> list[Any]:
        """All records of a topic, as confluent messages."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.settings.bootstrap_servers,
                "group.id": "nobody",
                "enable.partition.eof": True,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,  # the end is told by an empty answer only
            }
        )
        found: list[Any] = []
        try:
            consumer.assign([TopicPartition(topic, n, 0) for n in range(partitions)])
            waiting = set(range(partitions))
            deadline = time.monotonic() + 60
            while waiting and time.monotonic() < deadline:
                for message in consumer.consume(1_000, 0.1):
                    if message.error() is None:
                        found.append(message)
                    else:
                        waiting.discard(message.partition())
            assert not waiting
            return found
        finally:
            consumer.close()

    def statuses(self) -> dict[str, dict[str, Any]]:
        """Newest status by worker id."""
        newest: dict[str, dict[str, Any]] = {}
        for message in self.read_topic(self.settings.status_topic):
            name = message.key().decode().removeprefix("worker:")
            if message.value() is None:
                newest.pop(name, None)
            else:
                newest[name] = orjson.loads(message.value())
        return newest


class WorkerProcess:
    """`run_worker` in a process of its own."""

    def __init__(self, settings: WorkerSettings, log_path: Path, oddity: str = "") -> None:
        told = dataclasses.asdict(settings)
        module = "tests.odd_workers" if oddity else "tests.streaming"
        self.log_path = log_path
        with log_path.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", module, json.dumps(told), oddity],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self.log_path.read_text("utf-8", "replace")

    def logged(self, text: str) -> bool:
        return text in self.log()

    def partitions(self) -> list[int]:
        """Those that it said last it has."""
        said = re.findall(r"partitions_assigned partitions=\[([\d, ]*)\]", self.log())
        return [int(number) for number in said[-1].split(",") if number.strip()] if said else []

    def wait_assigned(self, partitions: Sequence[int] | None = None, seconds: float = 120) -> None:
        """Until partitions (these, or any) are taken and read back."""
        said = "partitions_assigned"
        if partitions is not None:
            said += f" partitions={list(partitions)}"
        until(lambda: self.logged(said) or not self.alive, said, seconds)
        assert self.alive

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait(seconds)

    def wait(self, seconds: float = 60) -> int:
        return self._process.wait(seconds)

    def kill(self) -> None:
        """SIGKILL, also of a frozen one."""
        if self.alive:
            self._process.kill()
        self._process.wait(60)


def main() -> int:
    """A worker by the settings in the first argument, until it is told to end."""
    import logging

    from stream_app.worker import run_worker

    class Line(logging.Formatter):
        plain = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

        def format(self, record: logging.LogRecord) -> str:
            more = {k: v for k, v in vars(record).items() if k not in self.plain}
            return super().format(record) + "".join(f" {k}={v}" for k, v in more.items())

    handler = logging.StreamHandler()
    handler.setFormatter(Line("%(asctime)s %(levelname)s %(name)s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    told = json.loads(sys.argv[1])
    told["resolution"]["servers"] = tuple(told["resolution"]["servers"])
    told["resolution"]["time_correction"] = TimeCorrection(told["resolution"]["time_correction"])
    told["resolution"] = ResolutionConfig(**told["resolution"])
    return run_worker(WorkerSettings(**told))


if __name__ == "__main__":
    sys.exit(main())
