"""What a reader counts and measures, each named once.

Owns the numbers of one server's reader, and the names, labels and meanings under which they are
exported. Refuses to serve them: `status` puts them on the status topic, `exposition` makes samples
of them, and who runs the reader gives these to whoever asks.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from prometheus_client import Histogram

PREFIX: Final = "cdrstream_"
SERVER: Final = ("server",)
SLOT: Final = ("server", "slot")
SLOT_STATES: Final = ("reserved", "extended", "unreserved", "lost", "missing")


class Metric(NamedTuple):
    """A name without prefix, what it is, its labels, and what it means."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str


def _gauge(name: str, meaning: str, labels: tuple[str, ...] = SERVER) -> Metric:
    return Metric(name, "gauge", labels, meaning)


def _counter(name: str, meaning: str, labels: tuple[str, ...] = SERVER) -> Metric:
    return Metric(name, "counter", labels, meaning)


STREAMING: Final = _gauge("reader_streaming", "1 while the stream is open, else 0")
STATE: Final = _gauge("reader_state", "1 for the state that the reader is in", ("server", "state"))
PROGRESS: Final = _gauge(
    "reader_progress_timestamp_seconds",
    "all that was committed before this time, by the reference's clock, is in Kafka",
)
LAST_ROW: Final = _gauge(
    "reader_last_row_timestamp_seconds", "commit time of the newest row; no lag: rows may pause"
)
ROWS: Final = _counter("reader_rows_total", "rows by what became of them", ("server", "outcome"))
BYTES: Final = _counter("reader_bytes_total", "bytes of the records made of rows")
BUFFER: Final = _gauge("reader_buffer_bytes", "read and not yet acknowledged by Kafka")
BUFFER_MAX: Final = _gauge("reader_buffer_bytes_max", "the bound on it; at the bound it waits")
UNACKED: Final = _gauge("reader_unacked_records", "records that Kafka has not acknowledged")
OPEN_ROWS: Final = _gauge(
    "reader_open_transaction_rows", "rows of the transaction that is half received; 0: none"
)
RECONNECTS: Final = _counter(
    "reader_reconnects_total", "breaks of the stream by kind of error", ("server", "reason")
)
TROUBLE: Final = _gauge(
    "reader_trouble",
    "1 for each kind of error that keeps the reader from reading now; absent while it reads",
    ("server", "reason"),
)
GAPS: Final = _counter("reader_gaps_total", "gaps that were told: log was lost")
LOST: Final = _counter("reader_rows_lost_total", "rows that are lost in gaps, at most")
BACKFILL: Final = _counter("reader_backfill_rows_total", "rows read from the table")
BACKFILL_EXPECTED: Final = _gauge(
    "reader_backfill_rows_expected", "an estimate; absent when no backfill runs"
)
UNREAD_WAL: Final = _gauge("slot_unread_wal_bytes", "log that the reader has not confirmed", SLOT)
RETAINED_WAL: Final = _gauge("slot_retained_wal_bytes", "log that the slot keeps on disk", SLOT)
SAFE_WAL: Final = _gauge(
    "slot_safe_wal_bytes", "log that may still be written before the slot is lost", SLOT
)
KEEP_LIMIT: Final = _gauge(
    "slot_keep_limit_bytes", "retained and safe together; absent where nothing limits it", SLOT
)
ROOM: Final = _gauge(
    "slot_room_seconds", "until the slot is lost at the present rate; absent: never", SLOT
)
SLOT_ACTIVE: Final = _gauge("slot_active", "1 while somebody reads the slot", SLOT)
SLOT_CHECKED: Final = _gauge("slot_checked_timestamp_seconds", "when the slot was looked at", SLOT)
SLOT_STATE: Final = _gauge("slot_state", "1 for the slot's state", ("server", "slot", "state"))
OFFSET: Final = _gauge("clock_offset_seconds", "the server's clock minus the reference's, by probe")
ERROR: Final = _gauge("clock_error_seconds", "half-width of the offset's bound")
DRIFT: Final = _gauge(
    "clock_drift_ratio",
    "seconds that the server's clock gains a second on the reference's; absent until the probes"
    " of some minutes tell",
)
PROBED: Final = _gauge("clock_probe_timestamp_seconds", "when the clock was probed last")
PROBE_STEPS: Final = _counter(
    "clock_probe_steps_total", "jumps of the clock beyond both errors, seen by probes"
)
PROBE_FAILURES: Final = _counter("clock_probe_failures_total", "the reference did not answer")
LOCAL_OFFSET: Final = _gauge(
    "clock_local_offset_seconds", "this process's clock minus the reference's", ()
)

# On the way of every batch, so they are counted as it happens; one each for the process.
_BUCKETS: Final = (
    *(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    *(10, 30, 60, 120, 300, 600),
)
ACK_SECONDS: Final = Histogram(
    PREFIX + "reader_ack_seconds",
    "from handing rows to Kafka's client to their acknowledgement",
    SERVER,
    buckets=_BUCKETS,
    registry=None,
)
COMMIT_TO_ACK_SECONDS: Final = Histogram(
    PREFIX + "reader_commit_to_ack_seconds",
    "from the commit on the server, by its clock, to Kafka's acknowledgement; of the newest"
    " transaction of what was handed over together",
    SERVER,
    buckets=_BUCKETS,
    registry=None,
)
PASSING: Final = (ACK_SECONDS, COMMIT_TO_ACK_SECONDS)

DECLARED: Final = tuple(each for each in list(globals().values()) if isinstance(each, Metric))


@dataclass(slots=True)
class ReaderMetrics:
    """One server's numbers; None is "not known", never 0. Seconds, bytes; `_total` only grows."""

    server: str = ""
    rows_read_total: int = 0
    rows_published_total: int = 0
    bytes_read_total: int = 0
    dead_letters_total: int = 0
    heartbeats_total: int = 0
    own_records_dropped_total: int = 0
    reconnects_total: int = 0
    reconnects: dict[str, int] = field(default_factory=dict)  # by kind of error
    gaps_total: int = 0
    rows_lost_total: int = 0
    column_changes_total: int = 0
    backfill_rows_total: int = 0
    backfill_rows_expected: int | None = None
    open_transaction_rows: int = 0
    buffer_bytes: int = 0
    unacked_records: int = 0
    ack_seconds: float | None = None
    progress_us: int | None = None
    last_row_us: int | None = None  # commit time by the server's clock
    process_ahead_us: int | None = None  # this process's clock minus the server's
    received_lsn: int = 0
    confirmed_lsn: int = 0
    clock_offset_us: int | None = None
    clock_error_us: int | None = None
    clock_drift: float | None = None
    clock_probed_us: int | None = None
    clock_steps_total: int = 0
    clock_probe_failures_total: int = 0
    slot_wal_status: str | None = None
    slot_active: bool | None = None
    slot_checked_us: int | None = None
    slot_safe_wal_bytes: int | None = None
    slot_seconds_left: float | None = None
    slot_retained_bytes: int | None = None
    slot_unread_bytes: int | None = None
    kafka_error: str | None = None

    def acknowledged(self, seconds: float, committed_us: int | None = None) -> None:
        """Kafka has acknowledged a batch, so long after it was handed over.

        Args:
            seconds: Since then.
            committed_us: When its newest transaction was committed, by the server's clock.
        """
        self.ack_seconds = seconds
        self.kafka_error = None
        ACK_SECONDS.labels(self.server).observe(seconds)
        if committed_us is not None and self.process_ahead_us is not None:
            age_us = time.time_ns() // 1_000 - self.process_ahead_us - committed_us
            COMMIT_TO_ACK_SECONDS.labels(self.server).observe(max(0, age_us) / 1_000_000)

    def reconnected(self, reason: str) -> None:
        """The stream broke, by this kind of error."""
        self.reconnects_total += 1
        self.reconnects[reason] = self.reconnects.get(reason, 0) + 1

    @property
    def local_offset_us(self) -> int | None:
        """This process's clock minus the reference's; None where the server's is not measured."""
        if self.process_ahead_us is None or self.clock_offset_us is None:
            return None
        return self.process_ahead_us + self.clock_offset_us
