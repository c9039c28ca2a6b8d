"""Where a partition begins and ends, and where a moment is in it, as of now.

Owns what commands ask of a broker about offsets, and asking again: a broker that has just made a
partition, or was just given it by another, says for a moment that it does not lead it. Refuses to
take an error for an answer: a partition that is told of with one has no offset, and is not empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from callstate.broker_codes import NOT_LED_NOW

_PASSING: Final = NOT_LED_NOW | {KafkaError._UNKNOWN_PARTITION}  # the latter of old metadata
_AGAIN_SECONDS: Final = 0.1
_Answer = TypeVar("_Answer")


def partitions_of(client: Consumer | Producer, topic: str, seconds: float) -> list[int]:
    """The numbers of a topic's partitions; none: there is no such topic.

    Raises:
        KafkaException: The broker does not answer within `seconds`, or not with that.
    """

    def ask(left: float) -> list[int]:
        found = client.list_topics(topic, timeout=left).topics[topic]
        if found.error is None:
            return sorted(found.partitions)
        if found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
            return []
        raise KafkaException(found.error)

    return _asked(ask, seconds)


def ends_of(consumer: Consumer, place: TopicPartition, seconds: float) -> tuple[int, int]:
    """A partition's first offset, and the one behind its last record.

    Raises:
        KafkaException: The broker does not answer within `seconds`, or not with that.
    """

    def ask(left: float) -> tuple[int, int]:
        ends = consumer.get_watermark_offsets(place, timeout=left)
        if ends is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))
        return ends

    return _asked(ask, seconds)


def offsets_at(
    consumer: Consumer, topic: str, moments_ms: Mapping[int, int], seconds: float
) -> dict[int, int | None]:
    """The first offset written at or after a moment; None: nothing was written since.

    Args:
        consumer: Whose broker is asked.
        topic: Its name.
        moments_ms: By partition, milliseconds since 1970 UTC.
        seconds: How long the broker has.

    Raises:
        KafkaException: The broker does not answer in time, or not with that.
    """

    def ask(left: float) -> dict[int, int | None]:
        asked = [TopicPartition(topic, number, at) for number, at in moments_ms.items()]
        found: Sequence[Any] = consumer.offsets_for_times(asked, timeout=left)
        for each in found:
            if each.error is not None:
                raise KafkaException(each.error)
        return {each.partition: each.offset if each.offset >= 0 else None for each in found}

    return _asked(ask, seconds)


def _asked(ask: Callable[[float], _Answer], seconds: float) -> _Answer:
    deadline = time.monotonic() + seconds
    while True:
        try:
            return ask(max(deadline - time.monotonic(), _AGAIN_SECONDS))
        except KafkaException as error:
            if error.args[0].code() not in _PASSING or time.monotonic() >= deadline:
                raise
        time.sleep(_AGAIN_SECONDS)
