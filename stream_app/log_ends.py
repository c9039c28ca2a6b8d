"""Which log a partition's positions speak of, and where it ends: what is asked before they count.

Owns asking the broker for a topic's identity and a partition's ends, and the judgement whether a
remembered position is one of this log. A topic that was deleted and made again has offsets that
look like the old ones, and whoever skips up to where he was loses what is there. Refuses to know
what follows: `partition` begins anew.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient

from stream_app.changelog import client_log, ends_of
from stream_app.errors import BrokerUnavailable
from stream_app.settings import WorkerSettings

log = logging.getLogger(__name__)

_NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"  # Kafka's zero, from brokers that give topics none
# From these the identity cannot be had, now or later: lengths alone are compared then.
_UNTOLD: Final = frozenset(
    (
        KafkaError.UNSUPPORTED_VERSION,
        KafkaError._UNSUPPORTED_FEATURE,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
    )
)


class Log(NamedTuple):
    """One partition's log as the broker has it now; `topic_id` is empty where it tells none."""

    topic_id: str
    end: int

    def holds(self, topic_id: str, position: int) -> bool:
        """Whether a position, remembered with its topic's identity, is one of this log."""
        is_another = topic_id and self.topic_id and topic_id != self.topic_id
        return not is_another and position <= self.end


class FirstRecord(NamedTuple):
    """The first record at a position or behind it, and whether some before it were deleted."""

    offset: int
    deleted: bool


def first_record(
    settings: WorkerSettings, topic: str, partition: int, position: int
) -> FirstRecord:
    """What a log has at a position where a record was expected. Blocks.

    Between the position and the first record lies nothing, or what retention has deleted, or what
    a client never gets to see: markers of transactions.

    Raises:
        BrokerUnavailable: The broker does not tell it now.
    """
    seconds = settings.kafka_timeout_seconds
    consumer = Consumer(
        settings.librdkafka(
            client_id=f"{settings.worker_id}-first",
            group_id=f"{settings.group_id}-restore",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_uncommitted",
            fetch_wait_max_ms=50,
        ),
        logger=client_log,
    )
    place = TopicPartition(topic, partition, position)
    deadline = time.monotonic() + seconds
    try:
        consumer.assign([place])
        while time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None:
                continue
            error, offset = message.error(), message.offset()
            if error is None and offset is not None:
                # Asked afterwards: whatever is missing before the record is missing by then.
                begin, _ = ends_of(consumer, place, seconds)
                return FirstRecord(offset, deleted=begin > position)
            if error is not None and not error.retriable():
                raise BrokerUnavailable(f"{topic} cannot be read at {position}: {error.str()}")
    finally:
        consumer.close()
    raise BrokerUnavailable(f"{topic} cannot be read at {position}: no answer")


def look(
    settings: WorkerSettings, topics: Sequence[str], partitions: Sequence[int]
) -> dict[int, dict[str, Log]]:
    """Partition to topic to its log. Blocks.

    Raises:
        BrokerUnavailable: The broker does not tell it now.
    """
    ids = _identities(settings, topics)
    consumer = Consumer(
        settings.librdkafka(
            client_id=f"{settings.worker_id}-ends", group_id=f"{settings.group_id}-restore"
        ),
        logger=client_log,
    )
    found: dict[int, dict[str, Log]] = {number: {} for number in partitions}
    try:
        for topic in topics:
            for number in partitions:
                place = TopicPartition(topic, number)
                _, end = ends_of(consumer, place, settings.kafka_timeout_seconds)
                found[number][topic] = Log(ids[topic], end)
    finally:
        consumer.close()
    return found


def _identities(settings: WorkerSettings, topics: Sequence[str]) -> dict[str, str]:
    seconds = settings.kafka_timeout_seconds
    options = settings.librdkafka(client_id=f"{settings.worker_id}-ends")
    admin = AdminClient(options, logger=client_log)
    asked = admin.describe_topics(TopicCollection(list(topics)), request_timeout=seconds)
    ids = {}
    for topic, future in asked.items():
        try:
            told = str(future.result(seconds + 5.0).topic_id)
        except KafkaException as error:
            if error.args[0].code() not in _UNTOLD:
                raise BrokerUnavailable(f"topic {topic} cannot be looked at: {error}") from error
            told = _NO_ID
        except TimeoutError as error:
            raise BrokerUnavailable(f"topic {topic} cannot be looked at: no answer") from error
        ids[topic] = "" if told == _NO_ID else told
    return ids
