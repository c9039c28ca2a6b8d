"""Where a reader has got to, kept in Kafka beside the data that it speaks of.

Owns the record of the compacted topic: key = server, value = JSON. It is written behind the
acknowledgement of everything that it covers, and PostgreSQL is told only what is stored here. So a
reader can be started on another machine with an empty disk, and a slot whose confirmed position is
ahead of this record was made or moved by somebody else.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition

from callstate.broker_codes import PASSES
from callstate.broker_words import Heard
from callstate.events import Clock
from cdc.errors import KafkaRefused, KafkaShut, KafkaUnreachable
from cdc.lsn import lsn_text, parse_lsn

_VERSION = 1


@dataclass(frozen=True, slots=True)
class StoredPosition:
    """One server's progress.

    Attributes:
        lsn: Every row up to it is in Kafka (while `backfilling`: every row after it streams).
        epoch: Grows each time that reading begins anew (slot lost, server changed): within one
            epoch positions only grow, so a late record of a dying reader is told by its lower LSN.
        progress_us: The server's clock up to which Kafka holds everything; None: not known yet.
        backfill_table: Table that the backfill was reading; None once it is complete.
        backfill_after: Its last id that is in Kafka.
        coverage: Which publication, and which tables of it, were read (`slot.Published`); another
            one at the next start means that rows may have been left out in between.
        held_id: Every row of call_state_events that was visible when this was the highest id is in
            Kafka; None: not known.
        held_mark: Tells the row with that id from another one in its place.
        clock: What was known of the server's clock, for a start at which the reference cannot be
            asked; None: not known.
        clock_at_us: What the server's clock showed then, or earlier.
    """

    lsn: int
    system_id: str
    timeline: int
    slot: str
    epoch: int = 0
    progress_us: int | None = None
    backfill_table: str | None = None
    backfill_after: int | None = None
    coverage: str | None = None
    held_id: int | None = None
    held_mark: str | None = None
    clock: Clock | None = None
    clock_at_us: int | None = None

    @property
    def backfilling(self) -> bool:
        """The rows from before the slot are not all in Kafka yet."""
        return self.backfill_table is not None

    def encode(self, server: str) -> bytes:
        """The record's value."""
        return orjson.dumps(
            {
                "v": _VERSION,
                "server": server,
                "lsn": lsn_text(self.lsn),
                "system_id": self.system_id,
                "timeline": self.timeline,
                "slot": self.slot,
                "epoch": self.epoch,
                "progress_us": self.progress_us,
                "backfill_table": self.backfill_table,
                "backfill_after": self.backfill_after,
                "coverage": self.coverage,
                "held_id": self.held_id,
                "held_mark": self.held_mark,
                "clock": None if self.clock is None else [*self.clock[1:3], self.clock_at_us],
            }
        )


def decode(value: bytes) -> StoredPosition:
    """Reads a record's value.

    Raises:
        KafkaRefused: It is not one of ours.
    """
    try:
        record: dict[str, Any] = orjson.loads(value)
        if record["v"] != _VERSION:
            raise ValueError(f"version {record['v']}")  # noqa: TRY301
        return StoredPosition(
            parse_lsn(record["lsn"]),
            record["system_id"],
            record["timeline"],
            record["slot"],
            record["epoch"],
            record["progress_us"],
            record["backfill_table"],
            record["backfill_after"],
            record.get("coverage"),  # records of older versions have none of these
            record.get("held_id"),
            record.get("held_mark"),
            *_clock(record.get("clock")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise KafkaRefused(f"the stored position cannot be read: {error}") from error


def _clock(told: list[int | None] | None) -> tuple[Clock | None, int | None]:
    if told is None:
        return None, None
    error_us, offset_us, at_us = told
    assert error_us is not None
    assert offset_us is not None
    return Clock(False, error_us, offset_us), at_us


def newer(held: StoredPosition | None, read: StoredPosition) -> StoredPosition:
    """Which of two records of one server counts; `read` stands behind `held` in the topic."""
    if held is None:
        return read
    order = (read.epoch, not read.backfilling, read.lsn)
    return held if order < (held.epoch, not held.backfilling, held.lsn) else read


def load(
    kafka: Mapping[str, object],
    topic: str,
    server: str,
    timeout_seconds: float,
    *,
    is_there: bool = False,
) -> StoredPosition | None:
    """The newest position of `server`; None where none was ever stored. Blocks: run it in a thread.

    With `is_there` the topic is known to exist: a broker that does not know it just started, and
    its word must not be taken for "nothing was ever read".

    Raises:
        KafkaUnreachable: The topic could not be read to its end in time.
        KafkaRefused: The broker does not let us read it, or the record is not ours.
    """
    own: dict[str, Any] = {
        "group.id": f"cdrstream-positions-{uuid.uuid4()}",
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "allow.auto.create.topics": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "log_level": 0,
    }
    consumer = Consumer({**kafka, **own})
    try:
        found = _newest_of(consumer, topic, server.encode(), timeout_seconds, is_there)
    except KafkaException as error:
        if error.args[0].code() in _NOT_KNOWN_NOW:
            raise KafkaUnreachable(f"the broker does not know {topic} now") from error
        raise kafka_error(error.args[0], f"reading {topic}") from error
    finally:
        consumer.close()
    return found


def _partitions_of(consumer: Consumer, topic: str, seconds: float, is_there: bool) -> list[int]:
    metadata = consumer.list_topics(topic, timeout=seconds).topics[topic]
    if metadata.error is None:
        return list(metadata.partitions)
    if metadata.error.code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise KafkaException(metadata.error)
    if is_there:
        raise KafkaUnreachable(f"the broker does not know {topic} yet")
    return []


def _newest_of(
    consumer: Consumer, topic: str, key: bytes, timeout_seconds: float, is_there: bool
) -> StoredPosition | None:
    # The end is what it is now: while another reader writes, "end of partition" may never come.
    ends = {
        number: consumer.get_watermark_offsets(TopicPartition(topic, number), timeout_seconds)[1]
        for number in _partitions_of(consumer, topic, timeout_seconds, is_there)
    }
    waiting = {number for number, end in ends.items() if end}
    if waiting:
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in waiting])
    found: StoredPosition | None = None
    heard = time.monotonic()
    while waiting:
        messages = consumer.consume(1_000, timeout=0.1)
        if messages:
            heard = time.monotonic()
        elif time.monotonic() - heard > timeout_seconds:
            raise KafkaUnreachable(f"{topic} gave nothing for {timeout_seconds:g} s")
        for message in messages:
            error = message.error()
            if error is None:
                if message.key() == key:
                    found = newer(found, decode(message.value() or b""))
                if (message.offset() or 0) + 1 >= ends[message.partition() or 0]:
                    waiting.discard(message.partition() or 0)
            elif error.code() == KafkaError._PARTITION_EOF:
                waiting.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
    return found


# Said of partitions that were there a moment ago: a broker that wakes or starts has to learn of
# them, and a client has to ask again.
_NOT_KNOWN_NOW = frozenset(
    (
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    )
)


def kafka_error(
    error: KafkaError, doing: str, heard: Heard | None = None
) -> KafkaUnreachable | KafkaRefused:
    """Our error for one of librdkafka's, and what the client told beside it."""
    if heard is not None and heard.advice:
        return KafkaShut(f"{doing}: {heard.reason}", heard.advice)
    text = f"{doing}: {error.str()}"
    return KafkaUnreachable(text) if error.code() in PASSES else KafkaRefused(text)
