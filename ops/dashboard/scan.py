"""Looking for one key among the newest records of its partition, and around moments.

Owns the bounds: so many records, so many seconds, and it is said how far was looked and what time
did not allow. Every client of these topics partitions by murmur2, so one partition is enough. A
call that began hours ago lies far behind the newest records; who knows when it began names the
moment. The newest are read first, from their end backwards; no stretch takes another one's time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, TopicPartition

from ops.librdkafka import silent_log
from ops.monitor.watched import Broker
from ops.offsets import ends_of, offsets_at

RECORDS_MAX: Final = 100_000
AROUND_RECORDS: Final = 50_000
AROUND_SECONDS: Final = 10.0  # before a moment: clocks, and rows that were on their way
SLICE_RECORDS: Final = 25_000  # of the newest, read at a time
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
    """What was found, oldest first, and how far was looked.

    Attributes:
        partition: Where all records of the key are.
        found: The key's.
        looked: How many records were looked at.
        around: Whether some of them were from the moments named.
        newest_unread: How many of the newest were not, for want of time.
        around_unread: How many of those from the moments named.
        whole: All that Kafka keeps was looked at.
    """

    partition: int
    found: list[Found]
    looked: int
    around: bool
    newest_unread: int
    around_unread: int
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
    place, wanted = TopicPartition(topic, partition_of(key, broker.partitions)), key.encode()
    consumer = Consumer(
        {
            **broker.client_properties(),
            "group.id": "cdrstream-dashboard",  # asked for, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 20,  # at the topic's end it keeps the next stretch waiting
            "queued.max.messages.kbytes": 8_192,
        },
        logger=silent_log(),
    )
    deadline = time.monotonic() + LOOK_SECONDS
    try:
        low, high = ends_of(consumer, place, LOOK_SECONDS)
        begins = _begins(consumer, place, moments)
        stretches = _stretches(low, high, begins)
        found: list[Found] = []
        unread = [0 for _ in stretches]
        looked = 0
        for number, (begin, end) in reversed(list(enumerate(stretches))):
            now = time.monotonic()
            until = now + (deadline - now) / (number + 1)
            for part in _parts(begin, end, newest=end == high):
                read = _look_through(consumer, place, part, wanted, until)
                found += read.found
                looked += read.looked
                unread[number] += part[1] - read.stopped_at
        found.sort(key=lambda record: record.offset)
        return Scanned(
            place.partition,
            found,
            looked,
            around=bool(begins),
            newest_unread=unread[-1],
            around_unread=sum(unread[:-1]),
            whole=stretches == [(low, high)] and not any(unread),
        )
    finally:
        consumer.close()


def _begins(consumer: Consumer, place: TopicPartition, moments: Sequence[float]) -> list[int]:
    """The offsets at which records of these moments begin."""
    begins = []
    for moment in moments:
        since_ms = int((moment - AROUND_SECONDS) * 1_000)
        asked = {place.partition: since_ms}
        begin = offsets_at(consumer, place.topic, asked, LOOK_SECONDS)[place.partition]
        if begin is not None:
            begins.append(begin)
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


def _parts(begin: int, end: int, *, newest: bool) -> Iterator[tuple[int, int]]:
    """A stretch in the order of reading: its end matters most where it is that of the topic."""
    if not newest:
        yield begin, end
        return
    for stop in range(end, begin, -SLICE_RECORDS):
        yield max(begin, stop - SLICE_RECORDS), stop


class _Read(NamedTuple):
    found: list[Found]
    looked: int
    stopped_at: int


def _look_through(
    consumer: Consumer, place: TopicPartition, part: tuple[int, int], wanted: bytes, until: float
) -> _Read:
    """Records of that key between two offsets, as far as one gets in time."""
    at, end = part
    found: list[Found] = []
    looked = 0
    if time.monotonic() < until:
        consumer.assign([TopicPartition(place.topic, place.partition, at)])
    while at < end and (left := until - time.monotonic()) > 0:
        for message in consumer.consume(min(_BATCH, end - at), timeout=min(0.5, left)):
            error, offset = message.error(), message.offset() or 0
            if error is not None:
                at = end if error.code() == KafkaError._PARTITION_EOF else at
            elif offset < end:
                looked, at = looked + 1, offset + 1
                if message.key() == wanted:
                    found.append(_found(message))
            else:
                at = end
    return _Read(found, looked, at)


def _found(message: Any) -> Found:
    return Found(
        message.offset(),
        message.key(),
        message.value(),
        message.headers() or (),
        message.timestamp()[1] / 1_000,
    )
