"""Up to which id rows are in Kafka, so that a lost slot can be told in numbers.

Owns the rule: the highest id is asked for together with the log's position; once Kafka holds
everything up to the position, it holds every row that was visible then. What lies above that id
when the slot is lost is either in the table still, or was purged, or was never committed: ids tell
the most that can have been lost, and never the least. Refuses to know SQL connections and Kafka.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from cdc.settings import CALL_TABLE

HIGHEST_SQL = f"select max(id) from {CALL_TABLE}"  # noqa: S608  a name of ours
_ABOVE = f"from {CALL_TABLE} where id > %s"
ABOVE_SQL = f"select count(*), min(id), max(id) {_ABOVE}"
_SAMPLES_MAX = 512


class HeldRows:
    """The highest ids that were seen and that the stream has not passed yet.

    Bounded: when full, every second one is forgotten.
    """

    def __init__(self, held_id: int | None = None) -> None:
        self.held_id = held_id
        self._waiting: deque[tuple[int, int]] = deque()

    def add(self, lsn: int, highest_id: int | None) -> None:
        """Takes the highest id that was visible when the log stood at `lsn`."""
        if highest_id is None:
            return
        self._waiting.append((lsn, highest_id))
        if len(self._waiting) > _SAMPLES_MAX:
            self._waiting = deque(list(self._waiting)[::2])

    def passed(self, confirmable: int) -> None:
        """Notes how far Kafka holds the log."""
        while self._waiting and self._waiting[0][0] <= confirmable:
            _, highest = self._waiting.popleft()
            self.held_id = max(self.held_id or 0, highest)


class Above(NamedTuple):
    """What the table holds above the last id that is known to be in Kafka."""

    rows: int
    lowest_id: int | None
    highest_id: int | None


def lost_rows(held_id: int | None, above: Above | None) -> tuple[int | None, str]:
    """How many rows can have been lost at most, None where nobody can tell, and in words."""
    if held_id is None or above is None:
        return None, "how many rows were purged meanwhile cannot be told"
    if above.highest_id is None:
        return None, f"no row above id {held_id} is left: whether any was purged cannot be told"
    lost = above.highest_id - held_id - above.rows
    if not lost:
        return 0, "no row was purged meanwhile"
    return lost, (
        f"up to {lost} rows with ids between {held_id + 1} and {above.highest_id} are lost:"
        " purged meanwhile, or never committed"
    )
