"""The topics that a worker needs, and that they are as they must be.

Owns which they are; `callstate.topics` says how each must be. Refuses to know who asks: `provision`
and the worker both do, so that either may come first.
"""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from callstate.broker_codes import PASSES
from callstate.broker_words import Heard
from callstate.topics import TopicKind, TopicSpec, topic_spec
from stream_app.changelog import client_log
from stream_app.errors import BrokerUnavailable, TopicError
from stream_app.settings import WorkerSettings

_ANSWER_SECONDS = 5.0  # well below what an orderly end may take


def topic_specs(settings: WorkerSettings) -> list[TopicSpec]:
    """Everything that the stream app reads or writes."""
    wanted = [
        (TopicKind.EVENTS, settings.events_topic),
        (TopicKind.REFERENCES, settings.references_topic),
        (TopicKind.CHANGELOG, settings.changelog_topic),
        (TopicKind.DEAD_LETTERS, settings.dead_letter_topic),
        (TopicKind.STATUS, settings.status_topic),
    ]
    if settings.cdrs_topic:
        wanted.append((TopicKind.CDRS, settings.cdrs_topic))
    days = settings.topic_retention_days
    return [topic_spec(kind, name, settings.partitions, days) for kind, name in wanted]


def ensure_topics(settings: WorkerSettings, *, timeout: float = 15.0) -> list[str]:
    """Creates what is missing and checks the partition counts of what is there.

    Returns:
        Names of the topics that were created now.

    Raises:
        TopicError: A co-partitioned topic has another number of partitions.
        BrokerUnavailable: The broker does not answer, or not with that yet.
    """
    heard = Heard()
    options: dict[str, Any] = {
        **settings.librdkafka(client_id=f"{settings.worker_id}-admin"),
        "error_cb": heard,
    }
    admin = AdminClient(options, logger=client_log)
    specs = topic_specs(settings)
    try:
        there = admin.list_topics(timeout=min(timeout, _ANSWER_SECONDS)).topics
    except KafkaException as error:
        admin.poll(0)  # only here the client says why it did not get through
        told = heard.reason if heard.advice else error
        raise BrokerUnavailable(
            f"the broker does not answer: {told}", heard.advice or None
        ) from error
    for spec in specs:
        known = there.get(spec.name)
        if known is not None and known.error is not None:
            raise _not_yet(f"topic {spec.name} cannot be used: {known.error.str()}")
        if known is not None and spec.co_partitioned and len(known.partitions) != spec.partitions:
            raise TopicError(
                f"topic {spec.name} has {len(known.partitions)} partitions,"
                f" the settings say {spec.partitions}"
            )
    missing = [spec for spec in specs if spec.name not in there]
    if not missing:
        return []
    wanted = [
        NewTopic(spec.name, spec.partitions, settings.replication_factor, config=dict(spec.config))
        for spec in missing
    ]
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=timeout).items():
        try:
            future.result(timeout + 5.0)
        except KafkaException as error:
            code = error.args[0].code()
            if code in PASSES:
                raise _not_yet(f"topic {name} cannot be created: {error}") from error
            if code != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"topic {name} cannot be created: {error}") from error
        except TimeoutError as error:
            raise _not_yet(f"topic {name} cannot be created: no answer") from error
        else:
            created.append(name)
    return created


def _not_yet(what: str) -> BrokerUnavailable:
    """With advice of its own: who waits tells each advice once."""
    return BrokerUnavailable(
        what,
        "the brokers are there and not ready: have they a controller, and each partition a leader?"
        " The worker goes on by itself",
    )
