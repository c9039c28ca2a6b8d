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
from confluent_kafka import Consumer, TopicPartition

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
    published: int | None = None
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


class StatusTail:
    """Newest record of each key of the status topic, read in a thread of its own."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._records: dict[str, tuple[float, dict[str, Any]]] = {}
        self._stop = threading.Event()
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "cdrstream-demo-screen",
                "enable.auto.commit": False,
                "session.timeout.ms": 10_000,
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, 0, _OFFSET_BEGINNING)])
        self._thread = threading.Thread(target=self._run, name="status-tail", daemon=True)
        self._thread.start()

    def fresh(self, prefix: str) -> dict[str, dict[str, Any]]:
        """Records whose key begins so, and that are not older than three intervals."""
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
            for message in self._consumer.consume(100, timeout=0.5):
                key, value = message.key(), message.value()
                if message.error() or key is None:
                    continue
                name = key.decode(errors="replace")
                if value is None:
                    self._records.pop(name, None)
                    continue
                _, written_ms = message.timestamp()
                self._records[name] = (written_ms / 1_000, orjson.loads(value))
        self._consumer.close()


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


def lag_seconds(progress_us: int, offset_ms: float, now: float | None = None) -> float:
    """How old a server's progress is, its clock's offset taken off."""
    return (now or time.time()) - (progress_us / US - offset_ms / 1_000)
