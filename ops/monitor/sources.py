"""The questions to the broker, the sink and the servers' slots, one function each.

Owns the SQL and the time limits: a question that takes longer than 3 s is no answer. Refuses to
judge, and to write: every session is read-only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import psycopg
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._listoffsets import OffsetSpec  # what `admin` re-exports, typed
from psycopg import sql

from callstate.broker_words import Heard
from cdc.slot_room import SlotRoom
from ops.dsn import with_options
from ops.errors import OpsError
from ops.monitor.facts import Ends, Gap, Progress, SinkFacts, Slot
from ops.monitor.watched import Watched
from ops.topics import admin_client

LIMIT_SECONDS: Final = 3
READ_ONLY: Final = (
    f"-c statement_timeout={LIMIT_SECONDS}s -c default_transaction_read_only=on"
    " -c timezone=UTC -c datestyle=ISO,YMD -c client_min_messages=warning"
)
_GAPS_MAX: Final = 50

_PROGRESS: Final = """
SELECT partition, next_offset, (extract(epoch FROM watermark) * 1000000)::int8, holder,
    extract(epoch FROM clock_timestamp() - updated_at)::float8, counters
FROM sink_progress WHERE topic = %s ORDER BY partition
"""
_GAPS: Final = """
SELECT server, extract(epoch FROM from_time)::float8, extract(epoch FROM to_time)::float8, reason,
    extract(epoch FROM noticed_at)::float8
FROM cdr_gaps ORDER BY noticed_at DESC LIMIT %s
"""
_ACTIVE: Final = """
SELECT count(*), extract(epoch FROM min(start_time))::float8 FROM active_calls
"""
_CLOCK: Final = "SELECT extract(epoch FROM clock_timestamp())::float8"
_SLOT: Final = """
SELECT coalesce(wal_status, 'unknown'), active, (l - confirmed_flush_lsn)::int8,
    (l - restart_lsn)::int8, safe_wal_size,
    (SELECT extract(epoch FROM clock_timestamp() - min(xact_start))::float8
     FROM pg_stat_activity WHERE backend_xid IS NOT NULL)
FROM pg_replication_slots, (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
    ELSE pg_current_wal_lsn() END AS l) AS now
WHERE slot_name = %s
"""


def sink_dsn(watched: Watched) -> str:
    """The sink's connection string for readers of CDRs, read-only and with time limits."""
    return with_options(watched.sink_dsn, f"{READ_ONLY} -c search_path={watched.sink_schema}")


class Reconnecting:
    """A connection that is made when needed, and again when it broke. One thread only."""

    def __init__(self, dsn: str, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._connection: psycopg.Connection[Any] | None = None

    def __call__(self, read: Callable[[psycopg.Connection[Any]], Any]) -> Any:
        """What `read` makes of the connection.

        Raises:
            psycopg.Error: The database does not answer, or refuses.
        """
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn,
                autocommit=True,
                connect_timeout=LIMIT_SECONDS,
                application_name=self._name,
                tcp_user_timeout=LIMIT_SECONDS * 1_000,
            )
        try:
            return read(self._connection)
        except psycopg.Error:
            self._connection.close()
            raise


def ask_sink(watched: Watched) -> Callable[[], SinkFacts]:
    """Progress, gaps, and how many are talking."""
    connected = Reconnecting(sink_dsn(watched), "cdrstream status")
    topic = watched.broker.events_topic

    def read(connection: psycopg.Connection[Any]) -> SinkFacts:
        progress = tuple(Progress(*row) for row in connection.execute(_PROGRESS, (topic,)))
        gaps = tuple(Gap(*row) for row in connection.execute(_GAPS, (_GAPS_MAX,)))
        active = connection.execute(_ACTIVE).fetchone()
        clock = connection.execute(_CLOCK).fetchone()
        assert active is not None
        assert clock is not None
        return SinkFacts(clock[0], progress, gaps, *active)

    return lambda: connected(read)


def ask_broker(watched: Watched) -> Callable[[], Ends]:
    """Where the partitions begin and end, in one pass, and how many dead letters there are."""
    heard = Heard()
    admin: AdminClient | None = admin_client(watched.broker, LIMIT_SECONDS, heard)
    events = watched.broker.events_topic
    partitions = [TopicPartition(events, number) for number in range(watched.broker.partitions)]
    dead = TopicPartition(f"{events}.dead-letter", 0)

    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]

    def offsets(admin: AdminClient, spec: OffsetSpec) -> dict[TopicPartition, int]:
        asked = dict.fromkeys((*partitions, dead), spec)
        found = admin.list_offsets(asked, request_timeout=LIMIT_SECONDS)
        return {each: future.result(LIMIT_SECONDS).offset for each, future in found.items()}

    def read() -> Ends:
        nonlocal admin
        client = admin or admin_client(watched.broker, LIMIT_SECONDS, heard)
        admin = None  # who gets no answer may have lost all brokers for good: see `statuses`
        try:
            begins, ends = offsets(client, earliest), offsets(client, latest)
        except (KafkaException, TimeoutError) as error:
            client.poll(0)  # only here the client says why it did not get through
            words = error.args[0].str() if error.args else "no answer in time"
            raise OpsError(heard.reason or words, heard.advice) from error
        heard.forget()
        admin = client
        return Ends(
            {each.partition: (begins[each], ends[each]) for each in partitions},
            ends[dead] - begins[dead],
            ends[dead],
        )

    return read


def ask_slot(watched: Watched, server: str) -> Callable[[], Slot]:
    """A server's slot, asked of the server: its reader may be away."""
    dsn = with_options(watched.server_dsns[server], READ_ONLY)
    name = watched.rules.slots[server]
    connected = Reconnecting(dsn, "cdrstream status")

    room = SlotRoom(0.0)

    def read(connection: psycopg.Connection[Any]) -> Slot:
        row = connection.execute(sql.SQL(_SLOT), (name,)).fetchone()
        if row is None:
            return Slot("missing")
        seen = Slot(*row)
        room.add(time.monotonic(), seen.safe_bytes)
        return replace(seen, seconds_left=room.seconds_left)

    return lambda: connected(read)
