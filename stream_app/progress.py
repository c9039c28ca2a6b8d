"""How far each partition is in the sink, and whose it is: the table `sink_progress`.

Owns its statements, the fence by epochs, and noticing that the database has forgotten what it had
confirmed. Refuses to know CDRs: whoever writes them does so in the same transaction.

The row of a partition is locked from `advance` to the commit: a worker that takes the partition
meanwhile waits, and one that took it before has raised the epoch, so that no row is found.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import orjson
import psycopg

from callstate.events import format_time

log = logging.getLogger(__name__)

_ADVANCE: Final = """
UPDATE sink_progress AS held
SET next_offset = new.next_offset,
    watermark = greatest(held.watermark, new.watermark),
    counters = coalesce(new.counters, held.counters),
    updated_at = now()
FROM unnest(%s::text[], %s::int4[], %s::int8[], %s::int8[], %s::timestamptz[], %s::jsonb[])
    AS new (topic, partition, epoch, next_offset, watermark, counters)
    JOIN sink_progress AS before USING (topic, partition)
WHERE held.topic = new.topic AND held.partition = new.partition AND held.epoch = new.epoch
RETURNING held.topic, held.partition, held.epoch, before.next_offset, before.watermark,
    held.next_offset
"""

_TAKE: Final = """
INSERT INTO sink_progress AS held (topic, partition, epoch, holder)
SELECT topic, partition, 1, %s FROM unnest(%s::text[], %s::int4[]) AS new (topic, partition)
ORDER BY topic, partition
ON CONFLICT (topic, partition) DO UPDATE
SET epoch = held.epoch + 1, holder = excluded.holder, updated_at = now()
RETURNING topic, partition, epoch
"""

Connection = psycopg.Connection[Any]
Offsets = Mapping[tuple[str, int, int], int]  # topic, partition and epoch to next offset


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one partition is with this transaction, and the epoch that its holder has.

    `positions` maps topic to next offset; watermark and counters go to the first topic's row.
    """

    partition: int
    epoch: int
    positions: Mapping[str, int]
    watermark_us: int | None
    counters: Mapping[str, int] = field(default_factory=dict)


class Fenced(Exception):
    """Others have taken these partitions: nothing may be written for them."""

    def __init__(self, partitions: frozenset[int]) -> None:
        super().__init__(partitions)
        self.partitions = partitions


def take(
    connection: Connection, topics: Sequence[str], partitions: Iterable[int], holder: str
) -> dict[int, int]:
    """Raises the epochs of partitions; gives the new ones."""
    pairs = sorted((topic, partition) for partition in partitions for topic in topics)
    if not pairs:
        return {}
    asked = (holder, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
    rows = connection.execute(_TAKE, asked)
    return {partition: epoch for topic, partition, epoch in rows if topic == topics[0]}


def epochs(connection: Connection, topic: str) -> dict[int, int]:
    """Partition to its present epoch."""
    asked = "SELECT partition, epoch FROM sink_progress WHERE topic = %s"
    return {row[0]: row[1] for row in connection.execute(asked, (topic,))}


def positions(connection: Connection, topic: str) -> dict[int, tuple[int, datetime | None]]:
    """Partition to the next offset and the watermark as of its last commit."""
    asked = "SELECT partition, next_offset, watermark FROM sink_progress WHERE topic = %s"
    return {row[0]: (row[1], row[2]) for row in connection.execute(asked, (topic,))}


def advance(connection: Connection, progress: Sequence[Progress], advanced: Offsets) -> Offsets:
    """Writes how far partitions are; `advanced` is what the newest commits gave, by this.

    Raises:
        Fenced: Others have taken some of them: roll back.
    """
    rows = [
        (
            topic,
            part.partition,
            part.epoch,
            position,
            _moment(part.watermark_us) if first else None,
            orjson.dumps(part.counters).decode() if first else None,
        )
        for part in progress
        for first, (topic, position) in zip(
            (True, *[False] * len(part.positions)), part.positions.items(), strict=False
        )
    ]
    if not rows:
        return {}
    columns = [list(column) for column in zip(*rows, strict=True)]
    found = connection.execute(_ADVANCE, columns).fetchall()
    held = {(row[0], row[1]) for row in found}
    lost = frozenset(row[1] for row in rows if (row[0], row[1]) not in held)
    if lost:
        raise Fenced(lost)
    leading = {next(iter(part.positions)) for part in progress}  # whose rows have watermarks
    for topic, partition, epoch, before, watermark, _ in found:
        was = advanced.get((topic, partition, epoch), 0)
        if before < was and topic in leading:
            tell_went_back(topic, partition, was, before, watermark)
    return {(row[0], row[1], row[2]): row[5] for row in found}


def tell_went_back(
    topic: str, partition: int, was: int, found: int, watermark: datetime | None
) -> None:
    """The database has forgotten commits that it had confirmed; Kafka does not tell them again."""
    log.error(
        "sink_went_back",
        extra={
            "topic": topic,
            "partition": partition,
            "position": was,
            "found": found,
            "advice": "a standby that was behind was promoted, or a backup restored: `cdrstream"
            f" replay --from {_told(watermark)} --to {_told(datetime.now(UTC))}` finds the CDRs"
            " that are missing",
        },
    )


def _told(moment: datetime | None) -> str:
    return "TIME" if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _moment(time_us: int | None) -> str | None:
    return None if time_us is None else format_time(time_us)
