"""Everything that one server's reader can be told.

Owns names, defaults and bounds. Refuses to know where values come from (file, environment, flags):
`ops.config` builds this object. DSNs and Kafka options may hold passwords and are never in its
`repr`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from callstate.topics import RETENTION_DAYS

CALL_TABLE = "call_state_events"
OBSERVER_TABLE = "observer_state_events"


class StartMode(StrEnum):
    """What a reader does about rows that were written before its slot existed."""

    BACKFILL = "backfill"
    NOW = "now"


@dataclass(frozen=True, slots=True)
class TopicNames:
    """Topics that readers write; `positions` is the only one that they read."""

    events: str = "sipx.call-state-events"
    observers: str = "sipx.observer-state-events"
    positions: str = "sipx.reader-positions"
    status: str = "sipx.status"


@dataclass(frozen=True, slots=True)
class ReaderSettings:
    """One server and how it is read.

    Attributes:
        server: Name of the server in every record; part of each row's identity.
        dsn: libpq connection string of its database.
        kafka: librdkafka's options (`bootstrap.servers`, security); ours go before them where a
            guarantee hangs on them.
        reference_dsn: The server whose clock is the timescale; None means offsets are unknown.
        reference: This server is the reference: its offset is 0 by definition.
        partitions: Of the event topic, used when the reader has to create it.
        replication_factor: Of topics that the reader creates; -1 is the broker's default.
        topic_retention_days: How long such a topic of events keeps them.
        slot: Replication slot; empty means `cdrstream_<server>`.
        accept_server_change: Go on, by a new backfill, where the stored position belongs to
            another system, timeline or future.
        confirm_seconds: At least this often the server hears from us, stalled or not.
        position_seconds: How often a moved position is stored, and so confirmed.
        idle_position_seconds: How often the time and the ids that are held are stored where the
            position does not move.
        buffer_bytes_max: Bound on what is read and not yet acknowledged by Kafka, overhead
            included; at the bound the socket is left alone.
        drain_messages_max: Bound on the messages handled before other tasks get their turn.
        drain_pause_seconds: Rest after the socket ran dry: fewer, larger wake-ups.
        backfill_rows: Rows of a FETCH.
        slot_wait_seconds: How long open transactions may block the slot's creation.
        silence_seconds: After so long without a word from a reader the server gives its slot free:
            how long a standby waits where a whole machine died.
        slot_warn_seconds: A slot that will be lost sooner than that, at the rate of the last
            minutes, is warned of.
        shutdown_seconds: Bound on waiting for acknowledgements at the end.
    """

    server: str
    dsn: str = field(repr=False)
    kafka: Mapping[str, object] = field(repr=False)
    reference_dsn: str | None = field(default=None, repr=False)
    reference: bool = False
    topics: TopicNames = TopicNames()
    partitions: int = 8
    replication_factor: int = -1
    topic_retention_days: float = RETENTION_DAYS
    slot: str = ""
    publication: str = "cdrstream"
    start_mode: StartMode = StartMode.BACKFILL
    accept_server_change: bool = False
    heartbeat_seconds: float = 1.0
    probe_seconds: float = 10.0
    probe_rounds: int = 8
    status_seconds: float = 2.0
    slot_check_seconds: float = 10.0
    confirm_seconds: float = 0.5
    position_seconds: float = 0.5
    idle_position_seconds: float = 10.0
    connect_seconds: float = 10.0
    buffer_bytes_max: int = 64 * 1024 * 1024
    drain_messages_max: int = 2_000
    drain_pause_seconds: float = 0.005
    backfill_rows: int = 2_000
    slot_wait_seconds: float = 60.0
    retry_seconds_min: float = 0.2
    retry_seconds_max: float = 10.0
    standby_seconds: float = 1.0
    manual_retry_seconds: float = 30.0
    silence_seconds: float = 30.0
    slot_warn_seconds: float = 4 * 3_600.0
    shutdown_seconds: float = 8.0

    @property
    def slot_name(self) -> str:
        """The slot's name in the form that PostgreSQL takes: `[a-z0-9_]`, at most 63."""
        return self.slot or "cdrstream_" + re.sub(r"[^a-z0-9_]", "_", self.server.lower())[:53]
