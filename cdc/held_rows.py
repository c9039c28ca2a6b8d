"""Up to which id rows are in Kafka, so that a lost slot can be told in numbers.

Owns the rule: the highest id is asked for together with the log's position; once Kafka holds
everything up to the position, it holds every row that was visible then. What lies above that id
when the slot is lost is either in the table still, or was purged, or was never committed: ids tell
the most that can have been lost, and never the least. The row with that id is remembered by a mark:
a server that was restored to an earlier state and has written on since has another one in its
place, though system identifier, timeline and log position tell nothing. Refuses to know SQL
connections and Kafka.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from cdc.settings import CALL_TABLE

# By the Call-ID alone: other columns may be retyped, and then look different.
_MARK = "hashtextextended(call_id, 0)::text"
HIGHEST_SQL = f"select id, {_MARK} from {CALL_TABLE} order by id desc limit 1"  # noqa: S608  ours
HELD_SQL = (
    f"select (select {_MARK} from {CALL_TABLE} where id = %(id)s),"  # noqa: S608  names of ours
    f" exists(select from {CALL_TABLE} where id < %(id)s),"
    f" exists(select from {CALL_TABLE} where id > %(id)s)"
)
_ABOVE = f"from {CALL_TABLE} where id > %s"
ABOVE_SQL = f"select count(*), min(id), max(id) {_ABOVE}"
_SAMPLES_MAX = 512


class HeldRows:
    """The highest ids that were seen and that the stream has not passed yet.

    Bounded: when full, every second one is forgotten.
    """

    def __init__(self, held_id: int | None = None, mark: str | None = None) -> None:
        self.held_id = held_id
        self.mark = mark
        self._waiting: deque[tuple[int, int, str | None]] = deque()

    def add(self, lsn: int, highest_id: int, mark: str | None) -> None:
        """Takes the row with the highest id that was visible when the log stood at `lsn`."""
        self._waiting.append((lsn, highest_id, mark))
        if len(self._waiting) > _SAMPLES_MAX:
            self._waiting = deque(list(self._waiting)[::2])

    def passed(self, confirmable: int) -> None:
        """Notes how far Kafka holds the log."""
        while self._waiting and self._waiting[0][0] <= confirmable:
            _, highest, mark = self._waiting.popleft()
            if self.held_id is None or highest >= self.held_id:
                self.held_id, self.mark = highest, mark


class Above(NamedTuple):
    """What the table holds above the last id that is known to be in Kafka."""

    rows: int
    lowest_id: int | None
    highest_id: int | None


class Found(NamedTuple):
    """What the table holds now in the place of the row with the held id."""

    mark: str | None
    has_older: bool
    has_newer: bool


def other_history(held_id: int, mark: str, found: Found) -> str | None:
    """Why the table is not the one that was read; None where it may well be.

    A purge takes the oldest rows first, by and large: it does not take the newest and leave others.
    """
    if found.mark is None and found.has_older and not found.has_newer:
        return f"the row with id {held_id}, which was read, and all newer ones are gone"
    if found.mark is None:
        return None
    if found.mark != mark:
        return f"the row with id {held_id} is not the one that was read"
    return None


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
