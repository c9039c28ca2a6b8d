"""A call that has no CDR yet: its events as Kafka holds them, and what it waits for.

Owns the looking: one partition of the event topic, backwards from its end, bounded in records and
time. What the events would give if nothing more came is resolved by the same processor as ever.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from aiokafka.partitioner import murmur2
from confluent_kafka import Consumer, TopicPartition

from callstate.config import ResolutionConfig
from callstate.effects import DeadLetter, EmitCdr, HideCall
from callstate.events import CallEvent
from callstate.processor import DictStore, PartitionProcessor
from ops.config import Config, resolution_config
from ops.monitor.facts import Json
from ops.monitor.words import clock, duration
from stream_app.partition import read_record

RECORDS_MAX: Final = 100_000
LOOK_SECONDS: Final = 3.0
_BATCH: Final = 2_000


@dataclass(frozen=True, slots=True)
class OpenCall:
    """What was found; `provenance` is what would be told if nothing more came.

    Attributes:
        partition: Where its events are.
        looked_back: How many records were looked through.
        events: How many of them are the call's.
        waits: Sentences: what it waits for, and who holds that up.
    """

    partition: int
    looked_back: int
    whole: bool
    events: int
    provenance: dict[str, Any] | None
    cdr: dict[str, Any] | None
    waits: tuple[str, ...]


class _Raw:
    """A record of the client, in the form that the stream app reads."""

    __slots__ = ("headers", "key", "offset", "value")

    def __init__(self, message: Any) -> None:
        self.offset: int = message.offset()
        self.key: bytes | None = message.key()
        self.value: bytes | None = message.value()
        self.headers: Sequence[tuple[str, bytes]] = message.headers() or ()


def partition_of(call_id: str, partitions: int) -> int:
    """Where every client of the topic puts that key."""
    return int((murmur2(call_id.encode()) & 0x7FFFFFFF) % partitions)  # type: ignore[no-untyped-call]


def look(config: Config, call_id: str, picture: Json) -> OpenCall:
    """Looks for the call in the newest records of its partition. Blocks for a few seconds at most.

    Raises:
        KafkaException: The broker does not answer.
    """
    number = partition_of(call_id, config.kafka.partitions)
    found, looked, whole = _events(config, call_id, number)
    rules = resolution_config(config)
    provenance, cdr, letter = _resolved(found, rules)
    waits = _waits(found, provenance, cdr, letter, rules, picture, number)
    return OpenCall(number, looked, whole, len(found), provenance, cdr, waits)


def _events(config: Config, call_id: str, number: int) -> tuple[list[CallEvent], int, bool]:
    """The call's events; how many records were looked through, and whether that was all."""
    quiet = logging.getLogger("cdrstream.librdkafka")
    consumer = Consumer(
        {
            **config.kafka.client_properties(),
            "group.id": "cdrstream-dashboard",  # asked for, and never joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": 16_384,
        },
        logger=quiet,
    )
    deadline = time.monotonic() + LOOK_SECONDS
    key = call_id.encode()
    try:
        place = TopicPartition(config.kafka.events_topic, number)
        low, high = consumer.get_watermark_offsets(place, timeout=LOOK_SECONDS)
        begin = max(low, high - RECORDS_MAX)
        consumer.assign([TopicPartition(config.kafka.events_topic, number, begin)])
        found: dict[tuple[str, int | None, int], CallEvent] = {}
        looked, at = 0, begin
        while at < high and time.monotonic() < deadline:
            for message in consumer.consume(_BATCH, timeout=0.5):
                if message.error() is not None:
                    continue
                looked, at = looked + 1, (message.offset() or 0) + 1
                if message.key() == key:
                    event = read_record(_Raw(message))
                    if isinstance(event, CallEvent):
                        found[event.server, event.id, event.event_seq] = event
        return list(found.values()), looked, begin == low and at >= high
    finally:
        consumer.close()


def _resolved(
    events: list[CallEvent], rules: ResolutionConfig
) -> tuple[dict[str, Any] | None, dict[str, Any] | None, str]:
    if not events:
        return None, None, ""
    processor = PartitionProcessor(replace(rules, servers=()), DictStore(), live=False)
    processor.feed(events)
    letter = ""
    for effect in processor.finish():
        if isinstance(effect, EmitCdr):
            return effect.provenance.to_json(), effect.cdr.columns(), ""
        if isinstance(effect, HideCall):
            return effect.provenance.to_json(), None, effect.reason
        if isinstance(effect, DeadLetter):
            letter = effect.reason
    return None, None, letter


def _until(since: Any, wait: float, then: str) -> str:
    """The end of a sentence about a limit; a limit of 0 is off."""
    if wait <= 0:
        return "; no limit is set."
    at = datetime.fromisoformat(str(since)).timestamp() + wait
    return f"; when the watermark passes {clock(at)} UTC ({duration(wait)}), {then}."


def _waits(
    events: list[CallEvent],
    provenance: Json | None,
    cdr: Json | None,
    letter: str,
    rules: ResolutionConfig,
    picture: Json,
    number: int,
) -> tuple[str, ...]:
    if not events:
        return ()
    if cdr is None:
        reason = letter or "the rules hide it"
        return (f"No CDR would be written: {reason}.",)
    sentences = []
    ended, connected = cdr.get("end_time"), cdr.get("connect_time")
    last = max(str(event["time"]) for event in (provenance or {}).get("events", ()))
    if ended:
        sentences.append("It has ended; it becomes a CDR when the watermark passes its end.")
        wait = 0.0 if cdr["termination"] in ("C", "T") else rules.failed_wait_seconds
        if wait > 0:
            sentences.append(f"A failure waits {duration(wait)} for another try.")
    elif connected:
        wait = rules.max_call_seconds
        sentences.append(
            "It is answered and has no end yet: it waits for a BYE"
            + _until(connected, wait, "it is closed as unknown")
        )
    else:
        wait = rules.max_ringing_seconds
        sentences.append(
            "It has no answer yet: it may ring" + _until(last, wait, "it is closed as failed")
        )
    part = next((one for one in picture["partitions"] if one["number"] == number), None)
    if part is not None:
        at = part["watermark"]
        sentences.append(
            f"The watermark of its partition ({number}) is at {clock(at)} UTC,"
            f" {duration(part['lag'])} ago; its last event was at {last[11:19]} UTC."
        )
        if part["why"] != "up to date":
            sentences.append(f"Its partition: {part['why']}.")
    return tuple(sentences)
