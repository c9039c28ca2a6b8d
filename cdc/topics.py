"""The topics that readers write, made where they are missing.

Owns which of them a reader needs; `callstate.topics` says how they must be. Refuses to change a
topic that exists: its partitions are fixed for life, and its settings are the operator's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._metadata import TopicMetadata
from confluent_kafka.cimpl import NewTopic

from callstate.broker_words import Heard
from callstate.topics import TopicKind, TopicSpec, dead_letter_topic, topic_spec
from cdc.errors import KafkaUnreachable
from cdc.position_store import kafka_error
from cdc.settings import ReaderSettings

logger = logging.getLogger(__name__)


def topic_specs(settings: ReaderSettings) -> list[TopicSpec]:
    """Every topic that a reader needs."""
    names = settings.topics
    wanted = (
        (TopicKind.EVENTS, names.events),
        (TopicKind.OBSERVERS, names.observers),
        (TopicKind.DEAD_LETTERS, dead_letter_topic(names.events)),
        (TopicKind.DEAD_LETTERS, dead_letter_topic(names.observers)),
        (TopicKind.POSITIONS, names.positions),
        (TopicKind.STATUS, names.status),
    )
    days = settings.topic_retention_days
    return [topic_spec(kind, name, settings.partitions, days) for kind, name in wanted]


def ensure_topics(settings: ReaderSettings, timeout_seconds: float) -> int:
    """Makes missing topics; gives the number of partitions of the event topic. Blocks.

    Raises:
        KafkaUnreachable: No broker answered in time.
        KafkaRefused: A topic is missing and may not be made.
    """
    heard = Heard()
    options: dict[str, Any] = {**_options(settings), "error_cb": heard}
    admin = AdminClient(options)
    specs = topic_specs(settings)
    try:
        there = admin.list_topics(timeout=timeout_seconds).topics
        missing = [
            NewTopic(
                spec.name, spec.partitions, settings.replication_factor, config=dict(spec.config)
            )
            for spec in specs
            if spec.name not in there
        ]
        if missing:
            _create(admin, missing, timeout_seconds)
            there = _wait_for(admin, [spec.name for spec in specs], timeout_seconds)
    except KafkaException as error:
        admin.poll(0)  # only here the client says why it did not get through
        raise kafka_error(error.args[0], "asking for topics", heard) from error
    found = there.get(settings.topics.events)
    if found is None or not found.partitions:
        raise KafkaUnreachable(f"topic {settings.topics.events} is not there yet")
    return len(found.partitions)


def _wait_for(
    admin: AdminClient, names: Iterable[str], timeout_seconds: float
) -> dict[str, TopicMetadata]:
    """Metadata once every topic has its leaders: a new one is not known everywhere at once."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        there = admin.list_topics(timeout=timeout_seconds).topics
        leaders = [
            part.leader
            for name in names
            if name in there
            for part in there[name].partitions.values()
        ]
        if all(name in there for name in names) and min(leaders, default=-1) >= 0:
            return there
        if time.monotonic() > deadline:
            raise KafkaUnreachable("topics that were just made have no leaders yet")
        time.sleep(0.05)


def _options(settings: ReaderSettings) -> dict[str, Any]:
    return {**settings.kafka, "log_level": 0}


def _create(admin: AdminClient, missing: list[NewTopic], timeout_seconds: float) -> None:
    for name, future in admin.create_topics(missing, operation_timeout=timeout_seconds).items():
        try:
            future.result(timeout_seconds + 5)
        except KafkaException as error:
            # Another reader that starts at the same time may have been first.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise
        except TimeoutError as error:
            raise KafkaUnreachable(f"topic {name} cannot be made: no answer") from error
        else:
            logger.info("topic_created", extra={"topic": name})
