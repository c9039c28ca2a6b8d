"""What a replay reads: the range of CDRs, and the offsets that its calls' records lie between.

Owns the plan: made once, stored with the replay, never changed, so that a replay that is resumed
reads what it began to read. Refuses to read records.

A CDR belongs to the range that its `start_time` is in. Records are read from `margin_seconds`
before the range by Kafka's time index, because a record is written after its event and clocks
differ, and to the topic's end as of now: an event may come at any time after its call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from confluent_kafka import Consumer, KafkaException, TopicPartition

from callstate.events import BadRow, format_time, parse_time_us
from ops.errors import OpsError, UsageError
from ops.librdkafka import silent_log
from ops.offsets import ends_of, offsets_at, partitions_of

VERSION: Final = 1
_TIMEOUT_SECONDS: Final = 10.0
_FUTURE_SECONDS: Final = 60.0  # what two machines' clocks may differ by


@dataclass(frozen=True, slots=True)
class Span:
    """A range of time, the end not in it; microseconds since 1970 UTC."""

    from_us: int
    to_us: int

    def __str__(self) -> str:
        return f"{format_time(self.from_us)} to {format_time(self.to_us)}"

    def holds(self, time_us: int) -> bool:
        """Whether a moment is in it."""
        return self.from_us <= time_us < self.to_us


@dataclass(frozen=True, slots=True)
class PartPlan:
    """Offsets of one partition, ends not in them.

    Attributes:
        partition: Its number.
        start: First offset to read.
        end: Where to stop.
        references_start: The same of the topic of references.
        references_end: Where to stop there.
        first_us: When the first record that is left was written, where older ones are gone.
    """

    partition: int
    start: int
    end: int
    references_start: int = 0
    references_end: int = 0
    first_us: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read, and for which range.

    Attributes:
        span: The range of `start_time`.
        read_from_us: Records written before that are not read.
        source: `topic`, `export` or `servers`.
        where: The export's folder.
        parts: Offsets by partition.
        partitions: Of the topic; more than `parts` where some are empty.
        server: Only calls that this server saw are compared.
        calls: Only these calls; empty: all.
    """

    span: Span
    read_from_us: int
    source: str
    parts: tuple[PartPlan, ...]
    partitions: int
    server: str | None = None
    calls: tuple[str, ...] = ()
    where: str = ""

    @property
    def records(self) -> int:
        """How many there are to read, at most."""
        return sum(part.end - part.start for part in self.parts)

    @property
    def missing_until_us(self) -> int | None:
        """The range's records from before this moment are gone; None where none are."""
        gone = [part.first_us for part in self.parts if part.first_us is not None]
        latest = max(gone, default=None)
        return latest if latest is not None and latest > self.span.from_us else None

    @property
    def is_cut(self) -> bool:
        """Whether calls may have begun before the first record that is read."""
        return any(part.start > 0 for part in self.parts)

    def to_json(self) -> dict[str, Any]:
        """JSON-able."""
        return {"v": VERSION, **asdict(self)}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Plan:
        """Reads what `to_json` wrote.

        Raises:
            OpsError: A newer version wrote it.
        """
        if told["v"] != VERSION:
            raise OpsError(f"a plan of version {told['v']!r} is unknown", "use a newer cdrstream")
        return cls(
            span=Span(**told["span"]),
            read_from_us=told["read_from_us"],
            source=told["source"],
            parts=tuple(PartPlan(**part) for part in told["parts"]),
            partitions=told["partitions"],
            server=told["server"],
            calls=tuple(told["calls"]),
            where=told["where"],
        )


def span_of(from_text: str, to_text: str, now_us: int | None = None) -> Span:
    """The range that a command line asks for; times without a zone are UTC.

    Raises:
        UsageError: Not times, the wrong way round, or in the future.
    """
    if now_us is None:
        now_us = _now_us()
    times = []
    for option, text in (("--from", from_text), ("--to", to_text)):
        try:
            times.append(parse_time_us(text))
        except BadRow:
            raise UsageError(
                f"{option} {text}: not a time", "write it like 2024-03-04T09:00:00Z"
            ) from None
        if times[-1] > now_us + _FUTURE_SECONDS * 1_000_000:
            raise UsageError(
                f"{option} {text}: is in the future", "only what has happened can be replayed"
            )
    if times[0] >= times[1]:
        raise UsageError(f"--from {from_text} is not before --to {to_text}", "swap them?")
    return Span(*times)


def plan_topic(
    kafka: Mapping[str, Any],
    topic: str,
    references_topic: str,
    span: Span,
    margin_us: int,
    *,
    server: str | None = None,
    calls: Sequence[str] = (),
) -> Plan:
    """The plan for reading the event topic.

    Raises:
        OpsError: The broker is away, or there is no such topic.
    """
    read_from_us = span.from_us - margin_us
    consumer = Consumer(
        {**kafka, "group.id": "cdrstream-replay-plan", "enable.auto.commit": False},
        logger=silent_log(),
    )
    try:
        numbers = partitions_of(consumer, topic, _TIMEOUT_SECONDS)
        if not numbers:
            raise OpsError(f"there is no topic {topic}", "run `cdrstream provision`")
        since_ms = max(1, read_from_us // 1_000)
        starts = offsets_at(consumer, topic, dict.fromkeys(numbers, since_ms), _TIMEOUT_SECONDS)
        has_references = bool(partitions_of(consumer, references_topic, _TIMEOUT_SECONDS))
        parts = []
        for number in numbers:
            low, high = _ends(consumer, topic, number)
            start = high if starts[number] is None else max(low, starts[number] or 0)
            first_us = None
            if low > 0 and start == low:
                # Nothing is left at all: then up to this moment.
                left = low < high
                first_us = _written_at(consumer, topic, number, low) if left else _now_us()
            from_, to_ = _ends(consumer, references_topic, number) if has_references else (0, 0)
            parts.append(PartPlan(number, start, high, from_, to_, first_us))
    except KafkaException as error:
        raise OpsError(
            f"Kafka: {error.args[0].str()}",
            "is the broker running, and is kafka.bootstrap_servers right?",
        ) from error
    finally:
        consumer.close()
    return Plan(span, read_from_us, "topic", tuple(parts), len(numbers), server, tuple(calls))


def _ends(consumer: Consumer, topic: str, number: int) -> tuple[int, int]:
    return ends_of(consumer, TopicPartition(topic, number), _TIMEOUT_SECONDS)


def _now_us() -> int:
    return time.time_ns() // 1_000


def _written_at(consumer: Consumer, topic: str, number: int, offset: int) -> int:
    """When a record was written, microseconds since 1970."""
    consumer.assign([TopicPartition(topic, number, offset)])
    try:
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while time.monotonic() < deadline:
            for message in consumer.consume(1, 0.5):
                if message.error() is None:
                    return int(message.timestamp()[1]) * 1_000
    finally:
        consumer.unassign()
    raise OpsError(f"Kafka: offset {offset} of {topic} cannot be read", "is the broker running?")
