"""One process's share of a replay: its partitions, read to the plan's ends.

Owns the loop: chunks from a source, through the partitions, to where it is told, at a pace; mail
between calls of its own partitions; and the points from which it can go on after a kill. Refuses to
know what the source is and what becomes of the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from callstate.envelope import ReferenceKnown
from callstate.events import CallEvent, format_time
from ops.replay.digest import Ledger, PartInput
from ops.replay.pace import Pace
from ops.replay.partition import PartitionReplay, Question, Told
from ops.replay.partitioner import partition_of
from ops.replay.plan import Span
from ops.replay.source import Chunk, Late, Position, Source
from stream_app.copy_text import cdr_line

_TELL_SECONDS: Final = 0.5
_SLACK_US: Final = 3_600 * 1_000_000  # clocks that are off, and calls told late


class Output(Protocol):
    """Where it is told what came of the records."""

    def take(self, part: PartitionReplay, told: Told) -> None:
        """What was told of a partition since the last time."""

    def note(self, parts: Mapping[int, PartitionReplay], done: set[int], *, last: bool) -> None:
        """A moment at which everything fed is told: a point to go on from, if it likes."""


@dataclass(slots=True)
class PartResult:
    """What one partition came to.

    Attributes:
        inputs: What was read.
        watermark_us: How far it is complete.
        returning: Calls to be looked at as a whole.
        questions: Between calls, not answered.
        answers: Between calls, answered.
        open_calls: Calls not told yet of which a request or setup is held; only where somebody
            may still ask for them.
        servers: Names that were heard.
        dead_letters: Records that nothing could be made of.
        unprobed: Clocks were measured by the traffic, for events came without a probe.
    """

    inputs: PartInput
    watermark_us: int | None = None
    returning: set[str] = field(default_factory=set)
    questions: set[Question] = field(default_factory=set)
    answers: set[Question] = field(default_factory=set)
    open_calls: set[str] = field(default_factory=set)
    servers: set[str] = field(default_factory=set)
    dead_letters: int = 0
    unprobed: bool = False


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a process has come, for who watches."""

    records: int
    event_us: int | None


class LedgerOutput:
    """Tells a ledger: digests only, no database. A kill begins it anew."""

    def __init__(self, span: Span) -> None:
        self.ledger = Ledger()
        self._span = span

    def take(self, part: PartitionReplay, told: Told) -> None:
        """As `Output` says."""
        holds, add, number = self._span.holds, self.ledger.add, part.partition
        for call_id, call in told.calls.items():
            cdr = call.cdr
            line = None
            if cdr is not None and holds(cdr.start_time_us):
                line = cdr_line(cdr).encode("utf-8", "replace")
            add(call_id, line, call.provenance.revision, number)
        for call_id in told.nobody:
            add(call_id, None, 0, number)

    def note(self, parts: Mapping[int, PartitionReplay], done: set[int], *, last: bool) -> None:
        """Nothing to keep."""


class Tail:
    """When all calls of a range are over, only what comes late to them still matters.

    Many days may lie between a range and the topic's end. They are passed over at a fifth of the
    cost: heartbeats are read, and events whose server's clock showed a time of the range or of its
    longest call when they happened, or whose call was told without an end.
    """

    def __init__(self, span: Span, longest_us: int) -> None:
        self._span = span
        self._from_us = span.to_us + longest_us + _SLACK_US
        self._unfinished: dict[int, set[bytes]] = {}
        self._begun: set[int] = set()

    def begins(self, part: PartitionReplay, told: Told) -> bool:
        """Whether it begins now for a partition, of which this was told just now."""
        number = part.partition
        unfinished = self._unfinished.setdefault(number, set())
        for call_id, call in told.calls.items():
            cdr = call.cdr
            if cdr is not None and self._span.holds(cdr.start_time_us):
                key = call_id.encode("utf-8", "replace")
                (unfinished.add if cdr.end_time_us is None else unfinished.discard)(key)
        now_us = part.processor.watermark_us
        if now_us is None or now_us < self._from_us or number in self._begun:
            return False
        self._begun.add(number)
        return True

    def late(self, number: int) -> Late:
        """What a source may leave out from now on."""
        before = format_time(self._from_us)[:19].replace("T", " ").encode()
        return Late(before, self._unfinished[number])


def read_parts(
    source: Source,
    parts: Mapping[int, PartitionReplay],
    ends: Mapping[int, int],
    partitions: int,
    output: Output,
    *,
    pace: Pace | None = None,
    tail: Tail | None = None,
    tell: Callable[[Reached], None] = lambda _: None,
    is_stopped: Callable[[], bool] = lambda: False,
) -> bool:
    """Reads all partitions to their ends; False where it was stopped before.

    Raises:
        OpsError: The source cannot be read.
        psycopg.Error: The output cannot be written.
    """
    positions = {n: Position(part.next_offset, part.crc) for n, part in parts.items()}
    done = {n for n, part in parts.items() if part.next_offset >= ends[n]}
    records = sum(part.records for part in parts.values())
    event_us: int | None = None
    told_at = 0.0
    for chunk in source.chunks(positions):
        part = parts[chunk.partition]
        _feed(part, chunk)
        _deliver(part, parts, partitions)
        told = part.take_told()
        if tail is not None and tail.begins(part, told):
            source.only_late(part.partition, tail.late(part.partition))
        if told.calls or told.nobody:
            output.take(part, told)
        if part.next_offset >= ends[chunk.partition]:
            done.add(chunk.partition)
        records += chunk.read
        if pace is not None:
            pace.note(chunk.read)
        now = time.monotonic()
        if now - told_at >= _TELL_SECONDS:
            told_at = now
            event_us = _newest(chunk, event_us)
            tell(Reached(records, event_us))
        output.note(parts, done, last=False)
        if is_stopped():
            break
    complete = not is_stopped()
    if complete:
        done.update(parts)
    for part in parts.values():
        output.take(part, part.take_told())
    output.note(parts, done, last=True)
    tell(Reached(records, event_us))
    return complete


def _feed(part: PartitionReplay, chunk: Chunk) -> None:
    part.feed(chunk.records)
    if chunk.answers:
        part.note_answers(chunk.answers)
    part.next_offset = max(part.next_offset, chunk.next_offset)
    part.records += chunk.read
    part.crc = chunk.crc


def _deliver(
    sender: PartitionReplay, parts: Mapping[int, PartitionReplay], partitions: int
) -> None:
    """Mail of a partition to those partitions that this process has; others ask at the end."""
    waiting = [sender]
    while waiting:
        mail, waiting[-1].mail = waiting[-1].mail, []
        waiting.pop()
        for letter in mail:
            receiver = parts.get(partition_of(letter.call_id, partitions))
            if receiver is None:
                continue
            if isinstance(letter, ReferenceKnown):
                receiver.note_answers((letter,))
            receiver.feed([letter])
            if receiver.mail:
                waiting.append(receiver)


def _newest(chunk: Chunk, before: int | None) -> int | None:
    with suppress(StopIteration):
        newest = next(r.time_us for r in reversed(chunk.records) if type(r) is CallEvent)
        return newest if before is None else max(before, newest)
    return before


def result_of(part: PartitionReplay, start: int) -> PartResult:
    """What a partition came to that was read to its end."""
    inputs = PartInput(part.partition, start, part.next_offset, part.records, part.crc)
    questions = part.open_questions()
    processor = part.processor
    return PartResult(
        inputs,
        processor.watermark_us,
        set(part.store.returning),
        questions,
        set(part.answered),
        set(part.open_calls()),
        set(processor.watermark.sources),
        part.dead_letters,
        bool(processor.snapshot()["clocks"]["unprobed"]),
    )


def facts_between(questions: set[Question], known: Callable[[str], bool]) -> list[ReferenceKnown]:
    """Answers to questions, by whoever knows which calls exist."""
    return [
        ReferenceKnown(asker, referenced)
        for asker, referenced in sorted(questions)
        if known(referenced)
    ]
