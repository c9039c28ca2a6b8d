"""Acknowledgements in any order -> the position that may be confirmed.

Owns the order of what was handed to Kafka. Refuses to know Kafka and PostgreSQL: a batch is a
number of records and the position that is safe once they, and all before them, are acknowledged.
Sans-IO.
"""

from __future__ import annotations

from collections import deque


class Batch:
    """Records handed over together; `safe` counts once all of them are acknowledged.

    `unacked` is decremented by whoever hears the acknowledgements (a bare attribute because that
    happens once a record); at 0 it calls `Positions.settle`. `dead` of them became dead letters.
    """

    __slots__ = ("dead", "records", "safe", "size_bytes", "unacked")

    def __init__(self, records: int, size_bytes: int, safe: int) -> None:
        self.records = records
        self.unacked = records
        self.dead = 0
        self.size_bytes = size_bytes
        self.safe = safe


class Positions:
    """A queue of batches in log order.

    Guarantees: `confirmable` never retreats, and never passes a batch of which a record is not
    acknowledged.
    """

    __slots__ = ("_batches", "confirmable", "handed", "unacked_bytes", "unacked_records")

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self.confirmable = 0
        self.handed = 0
        self.unacked_bytes = 0
        self.unacked_records = 0

    def add(self, records: int, size_bytes: int, safe: int) -> Batch:
        """Puts a batch at the end of the queue.

        Args:
            records: How many acknowledgements will come.
            size_bytes: What the batch holds of memory until then.
            safe: The position that is reached with it: every row up to it is in this batch or an
                earlier one. 0 where the batch ends inside its only transaction.
        """
        batch = Batch(records, size_bytes, safe)
        self.handed = max(self.handed, safe)
        self.unacked_bytes += size_bytes
        self.unacked_records += records
        self._batches.append(batch)
        if not records:
            self.settle()
        return batch

    def settle(self) -> None:
        """Takes the acknowledged batches off the front."""
        batches = self._batches
        while batches and not batches[0].unacked:
            batch = batches.popleft()
            self.confirmable = max(self.confirmable, batch.safe)
            self.unacked_bytes -= batch.size_bytes
            self.unacked_records -= batch.records

    @property
    def idle(self) -> bool:
        """True where nothing waits for an acknowledgement."""
        return not self._batches
