"""The topics that a worker needs, and that they are as they must be.

Owns their names, partition counts and cleanup. Refuses to know who asks: `provision` and the worker
both do, so that either may come first.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from stream_app.changelog import client_log
from stream_app.errors import BrokerUnavailable, TopicError
from stream_app.settings import WorkerSettings

_DAY_MS = 86_400_000
REBUILD_HORIZON_MS = 35 * _DAY_MS


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic; co-partitioned ones must have exactly `partitions`."""

    name: str
    partitions: int
    config: dict[str, str] = field(default_factory=dict)
    co_partitioned: bool = False


def topic_specs(settings: WorkerSettings) -> list[TopicSpec]:
    """Everything that the stream app reads or writes."""
    keep = {"cleanup.policy": "delete", "retention.ms": str(REBUILD_HORIZON_MS)}
    partitions = settings.partitions
    return [
        TopicSpec(settings.events_topic, partitions, keep, co_partitioned=True),
        TopicSpec(settings.references_topic, partitions, keep, co_partitioned=True),
        TopicSpec(
            settings.changelog_topic,
            partitions,
            {
                # Compaction alone: deletion by age would forget calls that are still open.
                "cleanup.policy": "compact",
                "segment.ms": str(3_600_000),
                "min.cleanable.dirty.ratio": "0.2",
                "delete.retention.ms": str(3_600_000),
            },
            co_partitioned=True,
        ),
        TopicSpec(settings.dead_letter_topic, 1, keep),
        *([TopicSpec(settings.cdrs_topic, partitions, keep)] if settings.cdrs_topic else []),
        TopicSpec(
            settings.status_topic,
            1,
            {"cleanup.policy": "compact,delete", "retention.ms": str(_DAY_MS)},
        ),
    ]


def ensure_topics(settings: WorkerSettings, *, timeout: float = 15.0) -> list[str]:
    """Creates what is missing and checks the partition counts of what is there.

    Returns:
        Names of the topics that were created now.

    Raises:
        TopicError: A co-partitioned topic has another number of partitions.
        BrokerUnavailable: The broker does not answer.
    """
    admin = AdminClient(
        settings.librdkafka(client_id=f"{settings.worker_id}-admin"), logger=client_log
    )
    specs = topic_specs(settings)
    try:
        there = admin.list_topics(timeout=timeout).topics
    except KafkaException as error:
        raise BrokerUnavailable(f"the broker does not answer: {error}") from error
    for spec in specs:
        known = there.get(spec.name)
        if known is not None and spec.co_partitioned and len(known.partitions) != spec.partitions:
            raise TopicError(
                f"topic {spec.name} has {len(known.partitions)} partitions,"
                f" the settings say {spec.partitions}"
            )
    missing = [spec for spec in specs if spec.name not in there]
    if not missing:
        return []
    wanted = [
        NewTopic(spec.name, spec.partitions, settings.replication_factor, config=spec.config)
        for spec in missing
    ]
    created = []
    for name, future in admin.create_topics(wanted, operation_timeout=timeout).items():
        try:
            future.result(timeout + 5.0)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"topic {name} cannot be created: {error}") from error
        else:
            created.append(name)
    return created
