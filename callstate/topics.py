"""What every topic of Kafka must be: partitions, what is kept and for how long.

Owns the one description that provision, readers, workers and `doctor` share, so that whoever comes
first makes the same topics. Refuses to know names (settings) and Kafka's clients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

DAY_MS: Final = 86_400_000
RETENTION_DAYS: Final = 35.0  # how far back CDRs can be rebuilt, unless a setting says otherwise
# What the event topic refuses for its size must fit into its dead letters, whole.
DEAD_LETTER_BYTES_MAX: Final = 8 * 1024 * 1024


class TopicKind(Enum):
    """What a topic carries, in a few words."""

    EVENTS = "events, heartbeats and gaps"
    DEAD_LETTERS = "what could not be read, with the reason"
    REFERENCES = "questions between calls"
    CDRS = "revisions of CDRs"
    OBSERVERS = "restarts of the proxies"
    POSITIONS = "how far each reader has got"
    STATUS = "what each process says of itself"
    CHANGELOG = "calls in progress"


# One partition for each of the event topic's: a call is in the same one everywhere.
_CO_PARTITIONED: Final = frozenset((TopicKind.EVENTS, TopicKind.REFERENCES, TopicKind.CHANGELOG))
_AS_MANY: Final = _CO_PARTITIONED | {TopicKind.CDRS}


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """What one topic must be.

    Attributes:
        name: Whole name.
        kind: What it carries.
        partitions: Count; fixed when the topic is created.
        config: The broker's settings of that topic which matter to us.
    """

    name: str
    kind: TopicKind
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)

    @property
    def meaning(self) -> str:
        """What it carries, in a few words."""
        return self.kind.value

    @property
    def cleanup(self) -> frozenset[str]:
        """Kafka's `cleanup.policy`, as a set."""
        return frozenset(self.config["cleanup.policy"].split(","))

    @property
    def co_partitioned(self) -> bool:
        """Whether another number of partitions would part a call's records."""
        return self.kind in _CO_PARTITIONED


def topic_spec(
    kind: TopicKind, name: str, partitions: int, retention_days: float = RETENTION_DAYS
) -> TopicSpec:
    """A topic of that kind.

    Args:
        kind: What it carries.
        name: Whole name.
        partitions: Of the event topic; kinds that need no more have one.
        retention_days: How long events, and what is made of them, are kept.
    """
    count = partitions if kind in _AS_MANY else 1
    return TopicSpec(name, kind, count, _config(kind, round(retention_days * DAY_MS)))


def _config(kind: TopicKind, retention_ms: int) -> dict[str, str]:
    kept = {"cleanup.policy": "delete", "retention.ms": str(retention_ms)}
    # Small segments, so that compaction keeps up and a start reads little.
    compacted = {
        "cleanup.policy": "compact",
        "segment.bytes": str(4 * 1024 * 1024),
        "segment.ms": str(DAY_MS // 24),
        "min.cleanable.dirty.ratio": "0.1",
        "delete.retention.ms": str(DAY_MS),
    }
    if kind is TopicKind.POSITIONS:
        return compacted
    if kind is TopicKind.STATUS:
        # A worker's name is its process: those that are gone must not be kept for ever.
        return {**compacted, "cleanup.policy": "compact,delete", "retention.ms": str(DAY_MS)}
    if kind is TopicKind.CHANGELOG:
        # Compaction alone: deletion by age would forget calls that are still open.
        return {
            "cleanup.policy": "compact",
            "segment.ms": str(DAY_MS // 24),
            "min.cleanable.dirty.ratio": "0.2",
            "delete.retention.ms": str(DAY_MS // 24),
            # A call at its bound of events (a phone in a loop) is a megabyte and more.
            "max.message.bytes": str(DEAD_LETTER_BYTES_MAX),
        }
    if kind is TopicKind.DEAD_LETTERS:
        return {**kept, "max.message.bytes": str(DEAD_LETTER_BYTES_MAX)}
    return kept


def dead_letter_topic(topic: str) -> str:
    """Where records go that `topic` refuses, or that nothing can be made of."""
    return f"{topic}.dead-letter"
