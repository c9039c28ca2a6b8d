"""Where records come from: chunks of one partition, in offset order, as the domain knows them.

Owns the reading of the topics: a consumer of its own, in no group of the service, with bounded
queues. The references that the live run asked and answered are read too, and fed when the records
around them were written. Refuses to know what records mean.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple, Protocol
from zlib import crc32

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from callstate.envelope import EVENT, Record, ReferenceKnown
from callstate.exchanges import Exchange
from ops.errors import OpsError
from ops.librdkafka import silent_log
from ops.replay.plan import PartPlan
from stream_app.records import kind_of, read_value

BATCH_RECORDS: Final = 5_000
_WAIT_SECONDS: Final = 0.1
_SILENCE_SECONDS: Final = 60.0
_partition_of = Message.partition


class Chunk(NamedTuple):
    """Some records of one partition.

    Attributes:
        partition: Its number.
        records: Decoded, in offset order; those that were filtered away are not in it.
        next_offset: Behind the last record.
        read: Records read for it.
        crc: Running CRC over the values of the partition, from what it was before.
        answers: Those of `records` that answer a question between calls.
    """

    partition: int
    records: list[Record]
    next_offset: int
    read: int
    crc: int
    answers: Sequence[ReferenceKnown] = ()


class Position(NamedTuple):
    """Where to go on in a partition."""

    next_offset: int
    crc: int


class Source(Protocol):
    """Something that holds records."""

    def chunks(self, positions: Mapping[int, Position]) -> Iterator[Chunk]:
        """All chunks from these positions to the plan's ends, partitions in any turn."""

    def only_late(self, partition: int, late: Late) -> None:
        """From the next chunk on what is not late may be left out of a partition's records."""


class Late(NamedTuple):
    """What still matters when all calls of the range are over.

    Attributes:
        before: Events of before this time, `YYYY-MM-DD HH:MM:SS` by their server's clock.
        keys: Of calls whose end is not known; may grow meanwhile.
    """

    before: bytes
    keys: Collection[bytes]

    def leaves(self, key: bytes | None, value: bytes) -> bool:
        """Whether a record of kind `event` may be left out."""
        at = value.find(_EVENT_TIME)
        if at < 0:
            return False
        begins = at + len(_EVENT_TIME)
        told = value[begins : begins + 10] + b" " + value[begins + 11 : begins + 19]
        return told >= self.before and key not in self.keys


_EVENT_TIME: Final = b'"event_time":"'


class _Noted(NamedTuple):
    """A record of the topic of references, and when it was written."""

    written_ms: int
    record: ReferenceKnown | Exchange


class KafkaSource:
    """The event topic between the offsets of a plan."""

    def __init__(
        self,
        kafka: Mapping[str, Any],
        topic: str,
        references_topic: str,
        parts: Sequence[PartPlan],
        *,
        keys: Collection[bytes] | None = None,
        queue_kbytes_max: int = 16_384,
        batch_records_max: int = BATCH_RECORDS,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        """`keys`: only records with these keys; None: all."""
        self._batch = batch_records_max
        self._options = consumer_options(kafka, queue_kbytes_max)
        self._topic = topic
        self._references_topic = references_topic
        self._parts = {part.partition: part for part in parts}
        self._keys = keys
        self._is_stopped = is_stopped
        self._late: dict[int, Late] = {}

    def only_late(self, partition: int, late: Late) -> None:
        """As `Source` says."""
        self._late[partition] = late

    def chunks(self, positions: Mapping[int, Position]) -> Iterator[Chunk]:
        """As `Source` says.

        Raises:
            OpsError: The broker is away for a minute, or records are gone.
        """
        waiting = {
            number: part
            for number, part in self._parts.items()
            if max(part.start, _at(positions, number).next_offset) < part.end
        }
        notes = self._notes(positions)
        crcs = {number: _at(positions, number).crc for number in self._parts}
        consumer = Consumer(self._options, logger=silent_log())
        try:
            consumer.assign(
                [
                    TopicPartition(
                        self._topic, number, max(part.start, _at(positions, number).next_offset)
                    )
                    for number, part in waiting.items()
                ]
            )
            for group in groups_of(consumer, self._topic, waiting, self._is_stopped, self._batch):
                number = group[0].partition()
                assert number is not None
                chunk = self._chunk(number, group, crcs[number], notes.get(number))
                crcs[number] = chunk.crc
                yield chunk
        finally:
            consumer.close()
        for number, left in notes.items():
            # What was noted behind the last record counts too.
            if left and not self._is_stopped():
                end = self._parts[number].end
                yield _only_notes(number, left, end, crcs[number])

    def _chunk(
        self, number: int, group: list[Message], crc: int, notes: list[_Noted] | None
    ) -> Chunk:
        values = [message.value() for message in group]
        for value in values:
            crc = crc32(value or b"", crc)
        last = group[-1].offset()
        assert last is not None
        keys = self._keys
        late = self._late.get(number)
        if late is not None:
            chosen = [
                (message, value)
                for message, value in zip(group, values, strict=True)
                if value is None or not _is_event(message) or not late.leaves(message.key(), value)
            ]
            records = [_decoded(message, value) for message, value in chosen]
            group = [message for message, _ in chosen]
        elif keys is None:
            records = [
                _decoded(message, value) for message, value in zip(group, values, strict=True)
            ]
        else:
            chosen = [
                (message, value)
                for message, value in zip(group, values, strict=True)
                if message.key() in keys
            ]
            records = [_decoded(message, value) for message, value in chosen]
            group = [message for message, _ in chosen]
        answers: list[ReferenceKnown] = []
        if notes:
            records = _merged(group, records, notes, answers)
        return Chunk(number, records, last + 1, len(values), crc, answers)

    def _notes(self, positions: Mapping[int, Position]) -> dict[int, list[_Noted]]:
        """Answers and exchanges of the live run, by partition, newest first (to be popped)."""
        parts = [
            part
            for part in self._parts.values()
            if part.references_start < part.references_end
            and _at(positions, part.partition).next_offset < part.end
        ]
        if not parts:
            return {}
        consumer = Consumer(self._options, logger=silent_log())
        found: dict[int, list[_Noted]] = {part.partition: [] for part in parts}
        topic = self._references_topic
        try:
            consumer.assign(
                [TopicPartition(topic, part.partition, part.references_start) for part in parts]
            )
            ends = {
                part.partition: PartPlan(part.partition, part.references_start, part.references_end)
                for part in parts
            }
            for group in groups_of(consumer, topic, ends, self._is_stopped):
                for message in group:
                    record = _decoded(message, message.value())
                    if isinstance(record, ReferenceKnown | Exchange) and self._is_wanted(record):
                        number = message.partition()
                        assert number is not None
                        found[number].append(_Noted(message.timestamp()[1], record))
        finally:
            consumer.close()
        for notes in found.values():
            notes.reverse()
        return found

    def _is_wanted(self, record: ReferenceKnown | Exchange) -> bool:
        if self._keys is None or isinstance(record, Exchange):
            return True
        return record.call_id.encode("utf-8", "replace") in self._keys


def consumer_options(kafka: Mapping[str, Any], queue_kbytes_max: int = 16_384) -> dict[str, Any]:
    """Of a consumer of our own that leaves no trace: partitions are assigned by hand."""
    return {
        "client.id": "cdrstream-replay",
        **kafka,
        "group.id": "cdrstream-replay",  # never joined
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": True,
        "auto.offset.reset": "error",
        "check.crcs": True,
        "fetch.wait.max.ms": 50,
        "fetch.message.max.bytes": 1024 * 1024,
        "queued.min.messages": 2_000,
        # By default a full queue is looked at again after a second: 2,000 records a partition.
        "fetch.queue.backoff.ms": 10,
        "queued.max.messages.kbytes": queue_kbytes_max,
    }


def groups_of(
    consumer: Consumer,
    topic: str,
    waiting: dict[int, PartPlan],
    is_stopped: Callable[[], bool] = lambda: False,
    batch_records_max: int = BATCH_RECORDS,
) -> Iterator[list[Message]]:
    """Messages of one partition at a time, none behind the plan's end.

    `waiting` are the partitions that are assigned; who has come to its end is taken out of it.

    Raises:
        OpsError: The broker is away for a minute, or records are gone.
    """
    heard = time.monotonic()
    while waiting and not is_stopped():
        messages = consumer.consume(batch_records_max, _WAIT_SECONDS)
        if messages:
            heard = time.monotonic()
        elif time.monotonic() - heard > _SILENCE_SECONDS:
            raise OpsError(f"Kafka: {topic} cannot be read: no answer", _RESUME)
        for number, run in groupby(messages, key=_partition_of):
            assert number is not None
            part = waiting.get(number)
            group = [message for message in run if not _is_sign(message, topic, waiting)]
            if part is None or not group:
                continue
            last = group[-1].offset()
            assert last is not None
            if last >= part.end - 1:
                waiting.pop(number, None)  # its end may have been told in the same batch
                consumer.incremental_unassign([TopicPartition(topic, number)])
                while group and (group[-1].offset() or 0) >= part.end:
                    group.pop()
            if group:
                yield group


def _is_sign(message: Message, topic: str, waiting: dict[int, PartPlan]) -> bool:
    """Whether a message is no record but a word of the client."""
    error = message.error()
    if error is None:
        return False
    if error.code() == KafkaError._PARTITION_EOF:
        number, offset = message.partition(), message.offset()
        part = waiting.get(-1 if number is None else number)
        if part is not None and (offset is None or offset >= part.end):
            del waiting[part.partition]  # transactions' marks may stand at the very end
    elif error.code() == KafkaError._AUTO_OFFSET_RESET:
        raise OpsError(
            f"topic {topic}: records of the plan are gone: {error.str()}",
            "the topic's retention has reached them: make a new replay",
        )
    elif not error.retriable():
        raise OpsError(f"Kafka: {topic} cannot be read: {error.str()}", _RESUME)
    return True


_RESUME: Final = "is the broker running? The replay can be resumed"


def _at(positions: Mapping[int, Position], number: int) -> Position:
    return positions.get(number, _BEGINNING)


_BEGINNING: Final = Position(0, 0)


def _is_event(message: Message) -> bool:
    headers: Any = message.headers()
    return kind_of(headers or ()) == EVENT


def _decoded(message: Message, value: bytes | None) -> Record:
    """As the worker reads it."""
    headers: Any = message.headers()
    return read_value(kind_of(headers or ()), value, None)


def _merged(
    group: Sequence[Message],
    records: list[Record],
    notes: list[_Noted],
    answers: list[ReferenceKnown],
) -> list[Record]:
    """Records with those notes between them that were written before them."""
    merged: list[Record] = []
    for message, record in zip(group, records, strict=True):
        written_ms = message.timestamp()[1]
        while notes and notes[-1].written_ms <= written_ms:
            note = notes.pop().record
            if isinstance(note, ReferenceKnown):
                answers.append(note)
            merged.append(note)
        merged.append(record)
    return merged


def _only_notes(number: int, notes: list[_Noted], end: int, crc: int) -> Chunk:
    records: list[Record] = [note.record for note in reversed(notes)]
    notes.clear()
    answers = [record for record in records if isinstance(record, ReferenceKnown)]
    return Chunk(number, records, end, 0, crc, answers)
