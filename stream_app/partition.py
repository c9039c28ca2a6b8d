"""One partition: records in, what is to be committed out.

Owns the reading of records, the processor, the next offsets, and what has come of the records since
the last commit. Refuses to know Faust, PostgreSQL and Kafka clients: `commits` performs what `cut`
returns. One thread only.

A record that makes the processor fail is set aside as a dead letter and the partition goes on from
its last committed state: one bad record never stops it.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from callstate.call import CallState
from callstate.config import ResolutionConfig, to_us
from callstate.effects import DeadLetter
from callstate.envelope import Gap, Record
from callstate.held_calls import CallStore
from callstate.processor import PartitionProcessor
from callstate.recall import Told, call_from_provenance, named_apart
from stream_app.call_store import PartitionCalls, decode_call, encode_call
from stream_app.changelog import PARTITION_KEY, OutRecord, changelog_record
from stream_app.errors import StreamAppError
from stream_app.holes import Holes
from stream_app.log_ends import FirstRecord, Log
from stream_app.metrics import BATCH_SECONDS, GAP_RECORDS, Counted
from stream_app.progress import Progress
from stream_app.records import KafkaRecord, read_record
from stream_app.settings import WorkerSettings
from stream_app.sink import CallWrite
from stream_app.stretch import Stretch
from stream_app.unheld import about_to_go, before_a_leap, maybe_forgotten

log = logging.getLogger(__name__)

STATE_VERSION: Final = 1
BAD_RECORDS_MAX: Final = 50  # in one uncommitted stretch; more is a broken program, not bad records

ProcessorFactory = Callable[[ResolutionConfig, CallStore], PartitionProcessor]


@dataclass(frozen=True, slots=True)
class Commit:
    """What one partition wants committed, in this order: calls, side records, changelog, acks."""

    partition: int
    epoch: int
    calls: tuple[CallWrite, ...]
    gaps: tuple[Gap, ...]
    progress: Progress
    side_records: tuple[OutRecord, ...]
    changelog: tuple[OutRecord, ...]
    tokens: tuple[Any, ...]
    records: int


class _Parked(NamedTuple):
    """A batch that waits for calls to be looked up, or behind one that does."""

    topic: str
    records: Sequence[KafkaRecord]
    token: Any
    read: list[Record] | None = None


class PartitionWorker:
    """One partition of both topics, from restore to revocation."""

    def __init__(
        self,
        settings: WorkerSettings,
        partition: int,
        epoch: int,
        table: MutableMapping[str, bytes],
        state: bytes | None = None,
        make_processor: ProcessorFactory = PartitionProcessor,
        *,
        recalling: bool = False,
        logs: Mapping[str, Log] | None = None,
    ) -> None:
        """Takes up a partition whose calls and own state have been read from the changelog.

        With `recalling` a batch about calls that are not in the state waits until `recall`: see
        `wanted`. A topic whose log in `logs` is not the one that the state speaks of is read from
        its beginning.

        Raises:
            StreamAppError: A newer version of the program wrote the state.
        """
        self.partition = partition
        self.epoch = epoch
        self.records_total = 0
        self._settings = settings
        self._make_processor = make_processor
        self._table = table
        self._committed_state = state
        self._logs: Mapping[str, Log] = logs or {}  # until the first cut, which knows them
        self._bad: set[tuple[str, int]] = set()
        self._holes = Holes(partition, settings.events_topic)
        self._stretch = Stretch(settings, partition)
        self._recalling = recalling
        self._horizon_us = to_us(settings.resolution.late_horizon_seconds)
        self._cut_calls: Mapping[str, CallWrite] = {}
        self._parked: deque[_Parked] = deque()
        self.wanted: frozenset[str] = frozenset()
        self._take_up()

    def _take_up(self) -> None:
        """Processor and positions as of the last cut."""
        told = _read_state(self._committed_state)
        share = self._settings.decoded_calls_max // self._settings.partitions
        self.calls = PartitionCalls(self._table, share)
        self.processor = self._make_processor(self._settings.resolution, self.calls)
        self.positions: dict[str, int] = {
            self._settings.events_topic: 0,
            self._settings.references_topic: 0,
            **told.get("positions", {}),
        }
        self._topic_ids: dict[str, str] = dict(told.get("topics", {}))
        self._holes.compare(self.positions, self._topic_ids, self._logs)
        try:
            self.processor.restore(told.get("processor"))
        except ValueError as error:
            raise StreamAppError(
                f"partition {self.partition} cannot be taken up: {error}",
                "a newer version has written it: use that version, or a newer one",
            ) from error
        self._counted = Counted(self.processor.counters.to_json())

    @property
    def made_anew(self) -> Mapping[str, int]:
        """Topics that are not those that were read, to the position in the log that is gone."""
        return self._holes.made_anew

    @property
    def pending_records(self) -> int:
        """Records fed and not yet cut."""
        return self._stretch.records

    @property
    def held_records(self) -> int:
        """Records taken in and not yet cut, those among them that wait for `recall`."""
        return self._stretch.records + sum(len(parked.records) for parked in self._parked)

    @property
    def has_calls_to_write(self) -> bool:
        """Whether finished calls or side records wait, and not progress alone."""
        stretch = self._stretch
        return bool(stretch.calls or stretch.side_records or stretch.gaps)

    def next_offset(self, topic: str) -> int:
        """Where the next batch must begin, or before; behind all that was taken in."""
        taken = self.positions[topic]
        for parked in self._parked:
            if parked.topic == topic and parked.records:
                taken = max(taken, parked.records[-1].offset + 1)
        return self._holes.next_record(topic, taken)

    def pass_over(self, topic: str, position: int, first: FirstRecord) -> None:
        """The log holds nothing from `position`, our `next_offset`, to `first`."""
        self._holes.pass_over(topic, position, first)

    def feed(self, topic: str, records: Sequence[KafkaRecord], token: Any = None) -> None:
        """A batch of one topic in offset order; what was fed before is skipped.

        `token` comes back in the `Commit` that covers the batch. Where `wanted` names calls after
        this, they are to be looked up and handed to `recall`; until then everything waits.
        """
        self._parked.append(_Parked(topic, records, token))
        if not self.wanted:
            self._feed_parked()

    def recall(self, found: Mapping[str, CallState]) -> None:
        """What was known of the calls in `wanted`; feeds what has waited for it."""
        for call_id, state in found.items():
            if call_id in self.wanted and call_id not in self.calls:
                self._take_back(call_id, state)
        asked, self.wanted = self.wanted, frozenset()
        self._feed_parked(asked)

    def _feed_parked(self, asked: frozenset[str] = frozenset()) -> None:
        """Feeds batches in order, up to one that needs calls which nobody has asked for yet."""
        while self._parked:
            topic, records, token, parsed = self._parked[0]
            fresh = records[-len(parsed) :] if parsed else self._fresh(topic, records)
            read = parsed or [read_record(record) for record in fresh]
            if self._recalling:
                now_us = self.processor.watermark_us
                leap = before_a_leap(read, now_us, self._horizon_us)
                if leap < len(read):
                    self._parked[0] = _Parked(topic, fresh[leap:], token, read[leap:])
                    before = records[: len(records) - len(fresh) + leap]
                    self._parked.appendleft(_Parked(topic, before, None, read[:leap]))
                    continue
                oldest_us = None if now_us is None else now_us - self._horizon_us
                forgotten = maybe_forgotten(read, self.calls, oldest_us) - asked
                missing = self._not_told_just_now(forgotten)
                if missing:
                    self.wanted = missing
                    return
                asked = frozenset()
                self._hold_what_comes_up(read)
            self._parked.popleft()
            self._feed(topic, records, token, fresh, read)

    def _hold_what_comes_up(self, read: Sequence[Record]) -> None:
        """Calls that a batch would both let go and speak of stay: inside it nobody is asked."""
        for call_id in about_to_go(read, self.calls):
            state = self.calls.get(call_id)
            if state is not None and state.closed and not state.dirty:
                self._take_back(call_id, state)

    def _not_told_just_now(self, forgotten: frozenset[str]) -> frozenset[str]:
        """Who of them the database must know; the others' records are still on their way to it.

        In a backlog hours pass within one batch: a call may be told and forgotten in it.
        """
        missing = set()
        for call_id in forgotten:
            told = self._just_told(call_id)
            if told is None:
                missing.add(call_id)
                continue
            names = named_apart(told.provenance)
            others = [other for name in names if (other := self._just_told(name))]
            self._take_back(call_id, call_from_provenance(call_id, told, others))
        return frozenset(missing)

    def _just_told(self, name: str) -> Told | None:
        write = self._stretch.calls.get(name) or self._cut_calls.get(name)
        if write is None:
            return None
        return Told(write.provenance.to_json(), write.cdr and write.cdr.columns())

    def _take_back(self, call_id: str, state: CallState) -> None:
        self._stretch.recalled[call_id] = encode_call(state)
        self.processor.recall(call_id, state)

    def _feed(
        self,
        topic: str,
        records: Sequence[KafkaRecord],
        token: Any,
        fresh: Sequence[KafkaRecord],
        read: list[Record],
    ) -> None:
        stretch = self._stretch
        stretch.batches.append((topic, records))
        if token is not None:
            stretch.tokens.append(token)
        stretch.records += len(records)
        self.records_total += len(records)
        begun = time.perf_counter()
        try:
            self._apply(topic, fresh, read)
        except Exception:
            log.exception("processor_failed", extra={"partition": self.partition, "topic": topic})
            self._feed_again_one_by_one()
        BATCH_SECONDS.observe(time.perf_counter() - begun)

    def _fresh(self, topic: str, records: Sequence[KafkaRecord]) -> Sequence[KafkaRecord]:
        position = self.positions[topic]
        if records and records[0].offset >= position:
            return records
        return [record for record in records if record.offset >= position]

    def _apply(self, topic: str, records: Sequence[KafkaRecord], read: list[Record]) -> None:
        if not records:
            return
        gap = self._holes.gap_before(
            topic,
            self._topic_ids.get(topic, ""),
            self.positions[topic],
            self.processor.watermark_us,
            read,
        )
        if gap is not None:
            read = [gap, *read]
        for parsed in read:
            if type(parsed) is Gap:
                self._stretch.gaps[parsed] = None
                GAP_RECORDS.inc()
        effects = self.processor.feed(read)
        self.positions[topic] = records[-1].offset + 1
        if effects:
            source = f"{topic}:{self.partition}:{records[0].offset}-{records[-1].offset}"
            self._stretch.note(effects, source)

    def _feed_again_one_by_one(self) -> None:
        """From the last cut, each record alone, so that the bad ones are found and left away."""
        before = self._stretch
        while True:
            self._stretch = before.again()
            self._take_up()
            for call_id, encoded in before.recalled.items():
                state = decode_call(encoded)
                assert state is not None
                self.processor.recall(call_id, state)
            failed = self._first_failure()
            if failed is None:
                return
            topic, record, reason = failed
            self._bad.add((topic, record.offset))
            if len(self._bad) > BAD_RECORDS_MAX:
                raise StreamAppError(f"partition {self.partition}: the processor fails: {reason}")

    def _first_failure(self) -> tuple[str, KafkaRecord, str] | None:
        for topic, records in self._stretch.batches:
            for record in self._fresh(topic, records):
                if (topic, record.offset) in self._bad:
                    self._set_aside(topic, record)
                    continue
                try:
                    self._apply(topic, [record], [read_record(record)])
                except Exception as error:  # noqa: BLE001  whatever it is, the record is named
                    return topic, record, f"{type(error).__name__}: {error!s:.200}"
        return None

    def _set_aside(self, topic: str, record: KafkaRecord) -> None:
        letter = DeadLetter("the program failed on this record", "", record.value or b"")
        self._stretch.set_aside(letter, record.key, f"{topic}:{self.partition}:{record.offset}")
        self.positions[topic] = record.offset + 1

    def cut(self) -> Commit | None:
        """All that has come of the records since the last cut; None where there were none."""
        stretch = self._stretch
        if not stretch.batches:
            return None
        self._stretch = Stretch(self._settings, self.partition)
        self._cut_calls = stretch.calls  # until the next cut, which comes when these are written
        self._bad.clear()
        self._logs = {}
        self._holes.forget_before(self.positions)
        topic = self._settings.changelog_topic
        changelog = [
            changelog_record(
                topic, self.partition, self.epoch, call_id.encode("utf-8", "replace"), encoded
            )
            for call_id, encoded in self.calls.take_changes()
        ]
        self._committed_state = self._state()
        counters = self.processor.counters.to_json()
        self._counted.now(counters)
        # Last, so that a changelog that holds it holds all calls that it speaks of.
        changelog.append(
            changelog_record(
                topic, self.partition, self.epoch, PARTITION_KEY, self._committed_state
            )
        )
        return Commit(
            partition=self.partition,
            epoch=self.epoch,
            calls=tuple(stretch.calls.values()),
            gaps=tuple(stretch.gaps),
            progress=Progress(
                self.partition,
                self.epoch,
                dict(self.positions),
                self.processor.watermark_us,
                counters,
            ),
            side_records=tuple(stretch.side_records),
            changelog=tuple(changelog),
            tokens=tuple(stretch.tokens),
            records=stretch.records,
        )

    def _state(self) -> bytes:
        return orjson.dumps(
            {
                "v": STATE_VERSION,
                "positions": self.positions,
                "topics": self._topic_ids,
                "processor": self.processor.snapshot(),
            },
            option=orjson.OPT_NON_STR_KEYS,
        )


def _read_state(state: bytes | None) -> Mapping[str, Any]:
    if state is None:
        return {}
    told: dict[str, Any] = orjson.loads(state)
    if told.get("v") != STATE_VERSION:
        raise StreamAppError(
            f"the partition's state has version {told.get('v')!r}, this program knows"
            f" {STATE_VERSION}",
            "a newer version has written it: use that version, or a newer one",
        )
    return told
