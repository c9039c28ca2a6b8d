"""Looking for one key among the newest records of its partition, and around moments.

Owns the bounds: so many records, so many seconds, and it is said how far was looked. Every client
of these topics partitions by murmur2, so one partition is enough. A call that began hours ago lies
far behind the newest records; who knows when it began names the moment.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from confluent_kafka import OFFSET_INVALID, Consumer, TopicPartition

from ops.librdkafka import silent_log
from ops.monitor.watched import Broker

RECORDS_MAX: Final = 100_000
AROUND_RECORDS: Final = 50_000
AROUND_SECONDS: Final = 10.0  # before a moment: clocks, and rows that were on their way
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


def scan(broker: Broker, topic: str, key: str, moments: Sequence[float] = ()) -> Scanned:
    """Records of that key, oldest first. Blocks for a few seconds at most.

    Args:
        broker: Kafka.
        topic: Of as many partitions as the events'.
        key: Whose records.
        moments: When some of them were written, in seconds since 1970, as far as that is known.

    Raises:
        KafkaException: The broker does not answer.
    """
    number, wanted = partition_of(key, broker.partitions), key.encode()
    consumer = Consumer(
        {
            **broker.client_properties(),
            "group.id": "cdrstream-dashboard",  # asked for, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 8_192,
        },
        logger=silent_log(),
    )
    deadline = time.monotonic() + LOOK_SECONDS
    try:
        place = TopicPartition(topic, number)
        low, high = consumer.get_watermark_offsets(place, timeout=LOOK_SECONDS)
        begins = _begins(consumer, place, moments)
        found: list[Found] = []
        looked = 0
        stretches = _stretches(low, high, begins)
        complete = True
        for begin, end in stretches:
            at = begin
            consumer.assign([TopicPartition(topic, number, begin)])
            while at < end and time.monotonic() < deadline:
                for message in consumer.consume(_BATCH, timeout=0.5):
                    if message.error() is not None:
                        continue
                    looked, at = looked + 1, (message.offset() or 0) + 1
                    if message.key() == wanted and at <= end:
                        found.append(_found(message))
            complete = complete and at >= end
        return Scanned(number, found, looked, complete and stretches == [(low, high)])
    finally:
        consumer.close()


def _begins(consumer: Consumer, place: TopicPartition, moments: Sequence[float]) -> list[int]:
    """The offsets at which records of these moments begin."""
    begins = []
    for moment in moments:
        since_ms = int((moment - AROUND_SECONDS) * 1_000)
        asked = TopicPartition(place.topic, place.partition, since_ms)
        (told,) = consumer.offsets_for_times([asked], timeout=LOOK_SECONDS)
        if told.error is None and told.offset >= 0 and told.offset != OFFSET_INVALID:
            begins.append(told.offset)
    return begins


def _stretches(low: int, high: int, begins: Sequence[int]) -> list[tuple[int, int]]:
    """What is looked through, in order and nothing twice: around moments, and the newest."""
    newest = max(low, high - RECORDS_MAX)
    wanted = [(max(low, begin), min(begin + AROUND_RECORDS, high)) for begin in begins]
    stretches: list[tuple[int, int]] = []
    for begin, end in sorted([*wanted, (newest, high)]):
        if stretches and begin <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
        else:
            stretches.append((begin, end))
    return stretches


def _found(message: Any) -> Found:
    return Found(
        message.offset(),
        message.key(),
        message.value(),
        message.headers() or (),
        message.timestamp()[1] / 1_000,
    )
