"""What a reader counts and measures, each named once.

Owns the numbers of one server's reader. Refuses to export them: `status` puts them on the status
topic, and whoever runs the reader may read them from `ReaderMetrics`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ReaderMetrics:
    """One server's numbers; None is "not known", never 0. Seconds, bytes; `_total` only grows."""

    rows_read_total: int = 0
    rows_published_total: int = 0
    bytes_read_total: int = 0
    dead_letters_total: int = 0
    heartbeats_total: int = 0
    own_records_dropped_total: int = 0
    reconnects_total: int = 0
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
    received_lsn: int = 0
    confirmed_lsn: int = 0
    clock_offset_us: int | None = None
    clock_error_us: int | None = None
    clock_steps_total: int = 0
    clock_probe_failures_total: int = 0
    slot_wal_status: str | None = None
    slot_safe_wal_bytes: int | None = None
    slot_seconds_left: float | None = None
    slot_retained_bytes: int | None = None
    slot_unread_bytes: int | None = None
    kafka_error: str | None = None
