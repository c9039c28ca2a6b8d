"""What the running demo can be asked: status records, slots, progress of the sink.

Owns the asking, bounded in time, and one snapshot of the answers. Refuses to judge or to print
them. Whatever does not answer is None, and never an old value told as new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
import psycopg
from confluent_kafka import Consumer, Message, TopicPartition

from callstate.envelope import EVENT, KIND_HEADER
from ops.simulation.script import US

STALE_SECONDS: Final = 6.0  # three statuses missed
_OFFSET_BEGINNING: Final = -2


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """One server as its reader and its slot tell it; times in seconds, offsets in milliseconds."""

    name: str
    written: int
    planned: int
    state: str = "no reader"
    arrived: int = 0
    again: int = 0
    capture_lag_seconds: float | None = None
    offset_ms: float | None = None
    error_ms: float | None = None
    real_offset_ms: float = 0.0
    unread_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """What the database of the CDRs says; the watermark is that of the slowest partition."""

    cdrs: int = 0
    hidden: int = 0
    revised: int = 0
    watermark_us: int | None = None
    behind: tuple[int, ...] = ()  # partitions without a watermark yet
    holders: tuple[str, ...] = ()


@dataclass(slots=True)
class Arrived:
    """Rows of one server that Kafka holds: different ones, and those that came once more."""

    rows: int = 0
    again: int = 0


class Tail:
    """Follows the status topic and the event topic in a thread of its own.

    Of statuses the newest of each key is kept. Of events only the row's identity, to count what
    has arrived whoever says so, and what a killed reader's heir sent once more.
    """

    def __init__(
        self,
        bootstrap: str,
        status: str,
        events: str,
        partitions: int,
        kafka: Mapping[str, str] | None = None,
    ) -> None:
        self._records: dict[str, tuple[float, dict[str, Any]]] = {}
        self._seen: dict[str, set[int]] = {}
        self.arrived: dict[str, Arrived] = {}
        self._status = status
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                **(kafka or {}),
                "bootstrap.servers": bootstrap,
                "group.id": "cdrstream-demo-screen",  # asked for, and never joined
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 200,
                "queued.max.messages.kbytes": 4_096,
                "log_level": 0,
            }
        )
        self._consumer.assign(
            [
                TopicPartition(status, 0, _OFFSET_BEGINNING),
                *(TopicPartition(events, part, _OFFSET_BEGINNING) for part in range(partitions)),
            ]
        )
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)
        self._thread.start()

    def fresh(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Status records whose key begins so, and that are not older than three intervals."""
        oldest = time.time() - STALE_SECONDS
        records = dict(self._records)
        return {
            key.removeprefix(prefix): record
            for key, (at, record) in records.items()
            if key.startswith(prefix) and at >= oldest
        }

    def stop(self) -> None:
        """Ends the thread and the connection."""
        self._stop.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, timeout=0.5):
                if message.error():
                    continue
                if message.topic() == self._status:
                    self._take_status(message)
                elif (KIND_HEADER, EVENT.encode()) in (message.headers() or ()):
                    self._take_event(message)
        self._consumer.close()

    def _take_status(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if not isinstance(key, bytes):
            return
        name = key.decode(errors="replace")
        if value is None:
            self._records.pop(name, None)
            return
        _, written_ms = message.timestamp()
        self._records[name] = (written_ms / 1_000, orjson.loads(value))

    def _take_event(self, message: Message) -> None:
        told = orjson.loads(message.value() or b"{}")
        server, row_id = str(told.get("server")), int((told.get("row") or {}).get("id") or 0)
        arrived = self.arrived.setdefault(server, Arrived())
        seen = self._seen.setdefault(server, set())
        if row_id in seen:
            arrived.again += 1
        else:
            arrived.rows += 1
            seen.add(row_id)


class SinkWatch:
    """A connection to the sink's database that is made again when it broke."""

    def __init__(self, dsn: str, events_topic: str, partitions: int) -> None:
        self._dsn = dsn
        self._topic = events_topic
        self._partitions = partitions
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None

    def look(self) -> SinkFacts | None:
        """One snapshot; None while the database does not answer."""
        try:
            if self._connection is None or self._connection.closed:
                self._connection = psycopg.connect(
                    self._dsn,
                    autocommit=True,
                    connect_timeout=3,
                    options="-c statement_timeout=3s",
                )
            return self._read(self._connection)
        except psycopg.Error:
            self.close()
            return None

    def close(self) -> None:
        """Closes the connection; the next look makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _read(self, connection: psycopg.Connection[tuple[Any, ...]]) -> SinkFacts:
        counted = connection.execute(
            "SELECT (SELECT count(*) FROM cdrs),"
            " count(*) FILTER (WHERE hidden_reason IS NOT NULL),"
            " count(*) FILTER (WHERE late_events > 0) FROM cdr_provenance"
        ).fetchone()
        assert counted is not None
        rows = connection.execute(
            "SELECT partition, (extract(epoch FROM watermark) * 1000000)::int8, holder"
            " FROM sink_progress WHERE topic = %s",
            (self._topic,),
        ).fetchall()
        marks = {row[0]: row[1] for row in rows}
        behind = tuple(p for p in range(self._partitions) if marks.get(p) is None)
        return SinkFacts(
            cdrs=counted[0],
            hidden=counted[1],
            revised=counted[2],
            watermark_us=None if behind else min(marks.values()),
            behind=behind,
            holders=tuple(sorted({row[2] for row in rows if row[2]})),
        )


def unread_bytes(dsns: Mapping[str, str]) -> dict[str, tuple[bool, int]]:
    """Per server: whether its slot is being read, and the WAL that was not confirmed yet."""
    found = {}
    for name, dsn in dsns.items():
        try:
            with psycopg.connect(dsn, autocommit=True, connect_timeout=3) as connection:
                row = connection.execute(
                    "SELECT active, (pg_current_wal_lsn() - confirmed_flush_lsn)::int8"
                    " FROM pg_replication_slots WHERE database = current_database()"
                ).fetchone()
        except psycopg.Error:
            continue
        if row is not None:
            found[name] = (bool(row[0]), int(row[1] or 0))
    return found


def lag_seconds(told_us: int, progress_us: int, offset_us: int) -> float:
    """How far behind a server's progress was when the reader told it, by the true clock."""
    return (told_us - (progress_us - offset_us)) / US
