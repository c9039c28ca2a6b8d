"""Progress by markers: how far a server's clock is covered by what Kafka holds.

Owns the rule. Keepalives prove nothing (they also come while PostgreSQL decodes a huge
transaction), so a marker is sampled over SQL: the server's clock, then its log position. What was
committed before that time stands in the log before that position; once everything up to the
position is acknowledged by Kafka, the time is the progress. Refuses to know SQL and Kafka: sans-IO.

The right position is the log's *insert* position: a commit with `synchronous_commit = off` is
visible before it is flushed. But the insert position may stand where the stream does not get to for
a while: behind a page header (after a segment switch it stays 40 bytes ahead of an idle server's
stream for good), or behind an open transaction's unflushed rows (measured: 4 s; up to 15). So
each sample is two markers: the time at the insert position, and the time less the longest delay of
the log writer at the flushed position, which the stream always reaches.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

# PostgreSQL flushes an asynchronous commit within three times wal_writer_delay (200 ms).
FLUSH_DELAY_US = 600_000
PAGE_HEADER_BYTES = 24
SEGMENT_HEADER_BYTES = 40

SAMPLE_SQL = (
    "select (extract(epoch from clock_timestamp()) * 1000000)::int8,"
    " (pg_current_wal_insert_lsn() - '0/0')::int8, (pg_current_wal_flush_lsn() - '0/0')::int8,"
    " (select setting::int8 * 3000 from pg_settings where name = 'wal_writer_delay')"
)


class Sample(NamedTuple):
    """What a server said, in this order."""

    time_us: int
    inserted: int
    flushed: int
    flush_delay_us: int = FLUSH_DELAY_US


class Marker(NamedTuple):
    """Once everything up to `lsn` is acknowledged, the progress is `time_us`."""

    lsn: int
    time_us: int


def before_header(inserted: int, block_bytes: int, segment_bytes: int) -> int:
    """The insert position without the page header that it may have skipped.

    A position exactly one header into a page means that nothing stands on that page yet.
    """
    if inserted % segment_bytes == SEGMENT_HEADER_BYTES:
        return inserted - SEGMENT_HEADER_BYTES
    if inserted % block_bytes == PAGE_HEADER_BYTES and inserted % segment_bytes > block_bytes:
        return inserted - PAGE_HEADER_BYTES
    return inserted


class Markers:
    """The markers that the stream has not passed yet.

    Guarantees: progress never retreats but with the clock itself (`shift`). Bounded: when full,
    every second one is forgotten, which makes progress coarser and never wrong.
    """

    def __init__(self, block_bytes: int, segment_bytes: int, markers_max: int = 512) -> None:
        self._block_bytes = block_bytes
        self._segment_bytes = segment_bytes
        self._max = markers_max
        self._waiting: deque[Marker] = deque()
        self.progress_us: int | None = None

    @property
    def waiting(self) -> bool:
        """True where a marker is still ahead of the stream."""
        return bool(self._waiting)

    def add(self, sample: Sample) -> None:
        """Takes a sample of the server."""
        inserted = before_header(sample.inserted, self._block_bytes, self._segment_bytes)
        if inserted > sample.flushed:
            self._waiting.append(
                Marker(sample.flushed, sample.time_us - max(FLUSH_DELAY_US, sample.flush_delay_us))
            )
        self._waiting.append(Marker(inserted, sample.time_us))
        if len(self._waiting) > self._max:
            self._waiting = deque(list(self._waiting)[::2])

    def shift(self, moved_us: int) -> None:
        """The server's clock was set: what it showed before is told by what it shows now.

        Else progress by the old clock, corrected by the new offset, would run ahead of the truth by
        as much as the clock was set back. Set forward it falls behind until the next marker, which
        does no harm; and a clock that seems to be set forward may be our own stopwatch that stood
        (a machine that was frozen), when what was written meanwhile is still to come.
        """
        if moved_us >= 0:
            return
        if self.progress_us is not None:
            self.progress_us += moved_us
        self._waiting = deque(Marker(m.lsn, m.time_us + moved_us) for m in self._waiting)

    def passed(self, confirmable: int) -> bool:
        """Notes how far Kafka holds the log; True where the progress moved."""
        moved = False
        # Not in order of LSN: a flushed position may stand behind an older insert position.
        for marker in [marker for marker in self._waiting if marker.lsn <= confirmable]:
            if self.progress_us is None or marker.time_us > self.progress_us:
                self.progress_us = marker.time_us
                moved = True
        if self._waiting:
            self._waiting = deque(m for m in self._waiting if m.lsn > confirmable)
        return moved
