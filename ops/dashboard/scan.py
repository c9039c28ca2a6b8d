"""Looking for one key among the newest records of its partition.

Owns the bounds: so many records, so many seconds, and it is said how far was looked. Every client
of these topics partitions by murmur2, so one partition is enough.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, TopicPartition

from ops.config_sections import Kafka
from ops.librdkafka import silent_log

RECORDS_MAX: Final = 100_000
LOOK_SECONDS: Final = 3.0
_BATCH: Final = 2_000


@dataclass(slots=True)
class Found:
    """A record, in the form that the stream app reads too; `at` is when it was written."""

    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    at: float


class Scanned(NamedTuple):
    """What was found, in which partition, and how far was looked; `whole`: all that is kept."""

    partition: int
    found: list[Found]
    looked: int
    whole: bool


def partition_of(key: str, partitions: int) -> int:
    """Where every client of the topic puts that key."""
    from aiokafka.partitioner import murmur2  # noqa: PLC0415  4 MB that few page views need

    return int((murmur2(key.encode()) & 0x7FFFFFFF) % partitions)  # type: ignore[no-untyped-call]


def scan(kafka: Kafka, topic: str, key: str) -> Scanned:
    """Records of that key, oldest first. Blocks for a few seconds at most.

    Raises:
        KafkaException: The broker does not answer.
    """
    number, wanted = partition_of(key, kafka.partitions), key.encode()
    consumer = Consumer(
        {
            **kafka.client_properties(),
            "group.id": "cdrstream-dashboard",  # asked for, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
        },
        logger=silent_log(),
    )
    deadline = time.monotonic() + LOOK_SECONDS
    try:
        place = TopicPartition(topic, number)
        low, high = consumer.get_watermark_offsets(place, timeout=LOOK_SECONDS)
        at = begin = max(low, high - RECORDS_MAX)
        consumer.assign([TopicPartition(topic, number, begin)])
        found: list[Found] = []
        looked = 0
        while at < high and time.monotonic() < deadline:
            for message in consumer.consume(_BATCH, timeout=0.5):
                if message.error() is not None:
                    continue
                looked, at = looked + 1, (message.offset() or 0) + 1
                if message.key() == wanted:
                    found.append(_found(message))
        return Scanned(number, found, looked, begin == low and at >= high)
    finally:
        consumer.close()


def _found(message: Any) -> Found:
    return Found(
        message.offset(),
        message.key(),
        message.value(),
        message.headers() or (),
        message.timestamp()[1] / 1_000,
    )
