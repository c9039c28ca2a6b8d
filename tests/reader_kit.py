"""A bed for the reader's integration tests: a database, topics and readers of a test's own.

Owns rows in, records out, and waiting on conditions. Refuses to expect anything: tests do.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from cdc.provision import provision
from cdc.reader import ServerReader
from cdc.settings import ReaderSettings, TopicNames
from cdc.status import State
from ops.offsets import ends_of
from ops.stack.stack import Stack

ROOT = Path(__file__).resolve().parent.parent
TABLES = """
create table call_state_events (id bigserial primary key, observer text not null,
 event_seq int8 not null, event_time timestamp not null, event_type char(1) not null,
 cseq int4 not null, call_id text not null, from_tag text, to_tag text, from_url text not null,
 to_url text not null, contact text, refer_to text, referred_by text, failure_status int2,
 failure_reason text, request_uri text, reference text, caller_internal bool, callee_route text,
 branch_id text, via_count int2);
create index on call_state_events (event_time);
create table observer_state_events (id bigserial primary key, observer text not null,
 event_seq int8 not null, event_time timestamp not null, status int2 not null, msg text);
"""
INSERT = """insert into call_state_events (observer, event_seq, event_time, event_type, cseq,
 call_id, from_tag, to_tag, from_url, to_url, contact, failure_status, caller_internal,
 branch_id, via_count)
 select 'proxy:5060', i, clock_timestamp() at time zone 'utc', 'R', 1, 'call-' || (i / 4), 'from',
 '', '"Bob" <sip:bob@example.com>;tag=from', '<sip:301@example.com>', '<sip:bob@10.0.0.1>', 0, true,
 'z9hG4bK' || i, 1 from generate_series(1::bigint, %s) as i"""

_numbers = itertools.count(1)


@dataclass(slots=True)
class Record:
    """One record of a topic, its value parsed."""

    kind: str | None
    partition: int
    offset: int
    key: str
    value: dict[str, Any]
    headers: dict[str, bytes]
    raw: bytes

    @property
    def row(self) -> dict[str, Any]:
        """The row of an event."""
        row: dict[str, Any] = self.value["row"]
        return row


@dataclass(slots=True)
class Bed:
    """One test's database and topics on a shared stack."""

    stack: Stack
    server_name: str = "a"
    encoding: str = "UTF8"
    name: str = field(default_factory=lambda: f"bed{next(_numbers)}")
    _read: dict[str, list[Record]] = field(default_factory=dict)
    _tails: dict[str, Tail] = field(default_factory=dict)
    _reading: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.stack[self.server_name].create_database(self.name, self.encoding)
        with self.connect() as conn:
            conn.execute(TABLES)

    @property
    def dsn(self) -> str:
        """The superuser's DSN of the test's database."""
        return self.stack[self.server_name].dsn_for(self.name)

    def close(self) -> None:
        """Drops the database and its slot: a server has only so many."""
        for tail in self._tails.values():
            tail.close()
        self.stack[self.server_name].drop_database(self.name)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection in autocommit."""
        return psycopg.connect(self.dsn, autocommit=True)

    def settings(self, **more: Any) -> ReaderSettings:
        """A reader's settings; quick rhythms, so that tests wait less."""
        values: dict[str, Any] = {
            "server": self.name,
            "dsn": self.dsn,
            "kafka": {"bootstrap.servers": self.stack.broker.bootstrap_servers},
            "topics": TopicNames(
                f"{self.name}.events",
                f"{self.name}.observers",
                f"{self.name}.positions",
                f"{self.name}.status",
            ),
            "partitions": 3,
            "replication_factor": 1,
            "heartbeat_seconds": 0.2,
            "position_seconds": 0.1,
            "idle_position_seconds": 0.2,
            "confirm_seconds": 0.1,
            "status_seconds": 0.3,
            "standby_seconds": 0.2,
            "retry_seconds_max": 0.5,
            "connect_seconds": 5.0,
            "reference": True,
        }
        return ReaderSettings(**{**values, **more})

    def provision(self, settings: ReaderSettings | None = None) -> list[str]:
        """The publication, as an administrator."""
        return provision(self.dsn, settings or self.settings())

    def insert(self, rows: int) -> None:
        """Rows in one transaction."""
        with self.connect() as conn:
            conn.execute(INSERT, (rows,))

    def ids(self) -> set[int]:
        """What the table holds."""
        with self.connect() as conn:
            return {row[0] for row in conn.execute("select id from call_state_events")}

    def confirmed(self) -> int:
        """The slot's confirmed position."""
        with self.connect() as conn:
            row = conn.execute(
                "select (confirmed_flush_lsn - '0/0')::int8 from pg_replication_slots"
                " where slot_name = %s",
                (self.settings().slot_name,),
            ).fetchone()
        return int(row[0]) if row and row[0] is not None else 0  # none while it is made

    def records(self, topic: str | None = None) -> list[Record]:
        """Everything in a topic now (the event topic by default); each partition in its order.

        What was read before is not read again.
        """
        name = topic or self.settings().topics.events
        with self._reading:
            if name not in self._tails:
                self._tails[name] = Tail(self.stack.broker.bootstrap_servers, name)
            read = self._read.setdefault(name, [])
            read.extend(self._tails[name].read())
            return list(read)

    def end_offset(self) -> int:
        """How many records the event topic has had."""
        consumer = Consumer(
            {"bootstrap.servers": self.stack.broker.bootstrap_servers, "group.id": "reader-tests"}
        )
        try:
            name = self.settings().topics.events
            parts = consumer.list_topics(name, timeout=60).topics[name].partitions
            return sum(ends_of(consumer, TopicPartition(name, part), 60)[1] for part in parts)
        finally:
            consumer.close()

    def events(self) -> list[Record]:
        """The rows in the event topic."""
        return [record for record in self.records() if record.kind == "event"]

    def event_ids(self) -> Counter[int]:
        """How often each row is in the event topic."""
        return Counter(record.row["id"] for record in self.events())

    @asynccontextmanager
    async def reading(self, settings: ReaderSettings | None = None) -> AsyncIterator[ServerReader]:
        """A reader in this process, stopped in order at the end."""
        reader, stop = ServerReader(settings or self.settings()), asyncio.Event()
        task = asyncio.ensure_future(reader.run(stop))
        try:
            yield reader
        finally:
            stop.set()
            await asyncio.wait_for(task, 60)

    @contextmanager
    def process(self, **more: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A reader in a process of its own, for those who want to kill it."""
        values = {"bed": self.name, "dsn": self.dsn, **more}
        environment = {
            **os.environ,
            "READER": json.dumps(values),
            "BOOTSTRAP": self.stack.broker.bootstrap_servers,
        }
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "reader_process.py")], env=environment, cwd=ROOT
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(60)

    @contextmanager
    def load(self, writers: int = 2, rows_max: int = 5) -> Iterator[Load]:
        """Writers of small transactions, some rolled back, until the block ends."""
        load = Load(self.dsn, rows_max)
        threads = [threading.Thread(target=load.write, args=(n,)) for n in range(writers)]
        for thread in threads:
            thread.start()
        try:
            yield load
        finally:
            load.stop()
            for thread in threads:
                thread.join()
            if load.errors:
                raise load.errors[0]


class Load:
    """Writes until told to stop; a server that goes away is tried again."""

    def __init__(self, dsn: str, rows_max: int) -> None:
        self._dsn = dsn
        self._rows_max = rows_max
        self._stopped = threading.Event()
        self._counting = threading.Lock()
        self.committed = 0
        self.errors: list[BaseException] = []

    def stop(self) -> None:
        """Lets the writers finish their transaction."""
        self._stopped.set()

    def write(self, seed: int) -> None:
        """One writer's life."""
        turn = seed
        while not self._stopped.is_set():
            try:
                with psycopg.connect(self._dsn, autocommit=True) as conn:
                    while not self._stopped.is_set():
                        turn += 1
                        rows = turn % self._rows_max + 1
                        with conn.transaction(force_rollback=turn % 7 == 0):
                            conn.execute(INSERT, (rows,))
                        with self._counting:
                            self.committed += rows if turn % 7 else 0
                        self._stopped.wait(0.001)
            except psycopg.OperationalError:
                self._stopped.wait(0.1)  # the server is away: that is the test's doing
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)
                return


class Tail:
    """A topic that is looked at again and again: one consumer, which has fetched meanwhile.

    One that gets no answer is made anew: it may have forgotten all brokers (`monitor.statuses`).
    """

    def __init__(self, bootstrap_servers: str, topic: str) -> None:
        self._servers, self._topic = bootstrap_servers, topic
        self._next: dict[int, int] = {}
        self._consumer = self._at_next()

    def _at_next(self) -> Consumer:
        consumer = Consumer(
            {
                "bootstrap.servers": self._servers,
                "group.id": "reader-tests",
                "enable.auto.commit": False,
                "reconnect.backoff.max.ms": 500,
                "log_level": 0,
            }
        )
        consumer.assign([TopicPartition(self._topic, n, at) for n, at in self._next.items()])
        return consumer

    def read(self) -> list[Record]:
        """What came since, up to the end as it is now: readers go on writing."""
        deadline = time.monotonic() + 120
        while True:
            try:
                return self._read()
            except KafkaException:
                if time.monotonic() > deadline:
                    raise
            self._consumer.close()
            self._consumer = self._at_next()

    def _read(self) -> list[Record]:
        consumer = self._consumer
        there = consumer.list_topics(self._topic, timeout=20).topics[self._topic].partitions
        if set(there) != set(self._next):
            self._next = dict.fromkeys(there, 0) | self._next
            places = [TopicPartition(self._topic, n, at) for n, at in self._next.items()]
            consumer.assign(places)
        ends = {n: ends_of(consumer, TopicPartition(self._topic, n), 20)[1] for n in there}
        found: list[Record] = []
        while any(self._next[n] < end for n, end in ends.items()):
            message = consumer.poll(60)
            assert message is not None, f"{self._topic} gives nothing"
            if message.error() is None:
                found.append(_record(message))
                self._next[found[-1].partition] = found[-1].offset + 1
        return found

    def close(self) -> None:
        """Leaves the broker."""
        self._consumer.close()


def read_topic(bootstrap_servers: str, topic: str) -> list[Record]:
    """Everything in a topic now."""
    tail = Tail(bootstrap_servers, topic)
    try:
        return tail.read()
    finally:
        tail.close()


def _record(message: Message) -> Record:
    headers = dict(message.headers() or [])
    raw = message.value() or b""
    return Record(
        (headers.get("kind") or b"").decode() or None,
        message.partition() or 0,
        message.offset() or 0,
        (message.key() or b"").decode(),
        json.loads(raw) if raw.endswith(b"}") else {},
        headers,
        raw,
    )


async def until(condition: Callable[[], object], seconds: float = 120, what: str = "") -> None:
    """Waits for a condition, looking often; the event loop goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        await asyncio.sleep(0.05)


async def streaming(reader: ServerReader, seconds: float = 120) -> None:
    """Waits until a reader streams."""
    await until(lambda: reader.state in (State.STREAMING, State.FAILED), seconds, "streaming")
    assert reader.state is State.STREAMING


async def all_arrived(bed: Bed, seconds: float = 120) -> Counter[int]:
    """Waits until every row of the table is in Kafka; gives how often each is."""
    ids = await asyncio.to_thread(bed.ids)
    await until(lambda: ids <= set(bed.event_ids()), seconds, f"{len(ids)} rows in Kafka")
    return bed.event_ids()
