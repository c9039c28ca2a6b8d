"""The changelog of table `open_calls`: written and read by librdkafka, not by Faust.

Owns the bytes of a changelog record, the reserved key of a partition's own state, producing with
acknowledgement, and reading a partition's changelog back. Refuses to know what a state means and
when to commit.

Why not Faust's own changelog: one Python round trip a record costs thirty times the CPU
(docs: 336 us against 10 us an event), and its recovery waits for ever for offsets that compaction
has removed. Reading stops at the log's end as the broker tells it, whatever offsets are left.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from callstate.broker_codes import ORDER_LOST
from stream_app.errors import BrokerUnavailable, ProducerEnded, StreamAppError
from stream_app.settings import WorkerSettings

PARTITION_KEY: Final = b"\x00partition"  # no call-id: NUL never gets that far

# librdkafka's own words; by default they go to standard error, past every format.
client_log = logging.getLogger("stream_app.librdkafka")
log = logging.getLogger(__name__)

_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BQ")  # format version, epoch of the writer

# The client's own limit is of what is not compressed yet; the broker judges what is. A CDR of the
# largest rows that a reader hands on must get that far.
_RECORD_BYTES_MAX: Final = 64 * 1024 * 1024

Headers = list[tuple[str, str | bytes | None]]


class OutRecord(NamedTuple):
    """A record to be produced; without a partition the key decides, as for every producer."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers | None = None


@dataclass(slots=True)
class Restored:
    """One partition as its changelog tells it."""

    calls: MutableMapping[str, bytes] = field(default_factory=dict)
    state: bytes | None = None
    records: int = 0
    zombie_records: int = 0
    epoch: int = 0


def changelog_record(
    topic: str, partition: int, epoch: int, key: bytes, payload: bytes | None
) -> OutRecord:
    """A record of the changelog; None deletes."""
    value = None if payload is None else _HEAD.pack(_VERSION, epoch) + payload
    return OutRecord(topic, key, value, partition)


class Outbox:
    """Produces and waits for the broker's acknowledgement.

    Idempotent and in order within a partition. Not for several threads at one time. A record that
    its topic does not take for its size is told and left out: it would keep all others for ever.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._timeout = settings.kafka_timeout_seconds
        self._errors: list[str] = []
        self._ended = ""
        self._producer = Producer(
            settings.librdkafka(
                client_id=f"{settings.worker_id}-out",
                enable_idempotence=True,
                acks="all",
                compression_type="lz4",
                linger_ms=2,
                partitioner="murmur2_random",
                queue_buffering_max_messages=1_000_000,
                queue_buffering_max_kbytes=262_144,
                message_max_bytes=_RECORD_BYTES_MAX,
                # Also what fences a frozen worker: what it queued before is not sent after.
                message_timeout_ms=int(self._timeout * 1_000),
                delivery_report_only_error=True,
            ),
            logger=client_log,
        )

    def send(self, records: Iterable[OutRecord]) -> int:
        """Produces records in order and returns when Kafka has acknowledged all of them.

        Raises:
            BrokerUnavailable: Some were not acknowledged in time; send all of them again.
            ProducerEnded: This producer sends nothing any more.
        """
        self._errors.clear()
        count = 0
        for count, record in enumerate(records, 1):  # noqa: B007  the count is the result
            self._produce(record)
        deadline = time.monotonic() + self._timeout + 5.0
        while self._producer.flush(0.5):
            if time.monotonic() > deadline:
                raise BrokerUnavailable("records were not acknowledged in time")
        if self._ended:
            raise ProducerEnded(f"the broker has lost the order of our records: {self._ended}")
        if self._errors:
            raise BrokerUnavailable(f"records were not acknowledged: {self._errors[0]}")
        return count

    def _produce(self, record: OutRecord) -> None:
        topic, key, value, partition, headers = record
        more: dict[str, Any] = {} if headers is None else {"headers": headers}
        if partition is not None:
            more["partition"] = partition
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=self._on_delivery, **more)
            except BufferError:  # the queue is full: wait for the broker, bounded by its timeout
                self._producer.poll(0.1)
            except KafkaException as error:
                self._refused(error.args[0], topic, key, value)
                return
            else:
                return

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._refused(error, message.topic() or "", message.key(), message.value())

    def _refused(
        self, error: KafkaError, topic: str, key: bytes | None, value: bytes | None
    ) -> None:
        if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            log.error(
                "record_too_large",
                extra={
                    "topic": topic,
                    "key": (key or b"").decode("utf-8", "replace")[:200],
                    "bytes": len(value or b""),
                    "advice": "raise max.message.bytes of that topic: what the record says is"
                    " missing there, and a call in progress would lose it with the worker",
                },
            )
        elif error.fatal() or error.code() in ORDER_LOST:
            self._ended = error.str()
        else:
            self._errors.append(f"{topic}: {error.str()}")

    def broker_answers(self, topic: str) -> bool:
        """Whether the broker answers at all, within three seconds."""
        try:
            self._producer.list_topics(topic, timeout=3.0)
        except KafkaException:
            return False
        return True

    def close(self) -> None:
        """Lets go of what is still queued."""
        self._producer.purge()
        self._producer.flush(1.0)


def restore(
    settings: WorkerSettings,
    partitions: Sequence[int],
    *,
    new_table: Callable[[int], MutableMapping[str, bytes]] = lambda _: {},
    is_cancelled: Callable[[], bool] = lambda: False,
    tell_left: Callable[[int], None] = lambda _records: None,
) -> dict[int, Restored]:
    """Reads partitions of the changelog from their beginning to their end, into new tables.

    `tell_left` hears how many offsets are still to be read; compaction may have emptied some.

    A record of a lower epoch behind one of a higher is a frozen worker's that woke too late: it is
    counted and left away.

    Raises:
        BrokerUnavailable: The broker did not answer in time.
        StreamAppError: A newer version of the program wrote the changelog.
    """
    result = {number: Restored(new_table(number)) for number in partitions}
    consumer = Consumer(
        settings.librdkafka(
            client_id=f"{settings.worker_id}-restore",
            group_id=f"{settings.group_id}-restore",
            enable_auto_commit=False,
            enable_partition_eof=True,
            auto_offset_reset="earliest",
            isolation_level="read_uncommitted",
            fetch_wait_max_ms=50,
            queued_max_messages_kbytes=65_536,
        ),
        logger=client_log,
    )
    try:
        topic = settings.changelog_topic
        ends = {
            number: ends_of(consumer, TopicPartition(topic, number), settings.kafka_timeout_seconds)
            for number in partitions
        }
        # The broker's sign for the end (PARTITION_EOF) comes with an empty answer only: while
        # somebody writes it may never come. The end offset alone would not do: compaction may have
        # removed the record before it. Whichever is first ends the reading.
        waiting = {number for number, (low, high) in ends.items() if low < high}
        left = {number: ends[number][1] - ends[number][0] for number in waiting}
        tell_left(sum(left.values()))
        consumer.assign([TopicPartition(topic, number, OFFSET_BEGINNING) for number in waiting])
        heard = time.monotonic()
        while waiting and not is_cancelled():
            messages = consumer.consume(10_000, 0.02)
            if messages:
                heard = time.monotonic()
            elif time.monotonic() - heard > settings.kafka_timeout_seconds:
                raise BrokerUnavailable(f"the changelog {topic} cannot be read: no answer")
            for message in messages:
                error = message.error()
                partition = message.partition()
                assert partition is not None
                if error is None:
                    _apply(result[partition], message)
                    left[partition] = ends[partition][1] - (message.offset() or 0) - 1
                    if left[partition] <= 0:
                        waiting.discard(partition)
                elif error.code() == KafkaError._PARTITION_EOF:
                    waiting.discard(partition)
                elif not error.retriable():
                    raise BrokerUnavailable(f"the changelog {topic} cannot be read: {error.str()}")
            tell_left(sum(left[number] for number in waiting))
    finally:
        consumer.close()
    return result


def ends_of(consumer: Consumer, place: TopicPartition, seconds: float) -> tuple[int, int]:
    """First offset and end of a partition, as of now.

    Raises:
        BrokerUnavailable: The broker does not tell it now.
    """
    try:
        ends = consumer.get_watermark_offsets(place, timeout=seconds)
    except KafkaException as error:
        raise BrokerUnavailable(f"topic {place.topic} cannot be read: {error}") from error
    if ends is None:
        raise BrokerUnavailable(f"topic {place.topic} cannot be read: no answer")
    return ends


def _apply(restored: Restored, message: Message) -> None:
    key, value = message.key(), message.value()
    restored.records += 1
    if key is None:
        return
    if value is None:
        restored.calls.pop(key.decode("utf-8", "replace"), None)
        return
    version, epoch = _HEAD.unpack_from(value)
    if version != _VERSION:
        raise StreamAppError(
            f"the changelog holds a state of format {version}, this program knows {_VERSION}",
            "a newer version has written it: use that version, or a newer one",
        )
    if epoch < restored.epoch:
        restored.zombie_records += 1
        return
    restored.epoch = epoch
    payload = value[_HEAD.size :]
    if key == PARTITION_KEY:
        restored.state = payload
    else:
        restored.calls[key.decode("utf-8", "replace")] = payload
