"""Records of the event topic, and of the references beside it, into the files of an export.

Owns the writing: one file after another, checksums of what is on the disk, the manifest last, so
that an export that was broken off is none. The form is `ops.replay.exported`'s.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from confluent_kafka import Consumer, Message, TopicPartition

from ops.errors import UsageError
from ops.librdkafka import silent_log
from ops.replay.exported import ExportedFile, Manifest, line_of
from ops.replay.plan import PartPlan, Plan
from ops.replay.reading import Reached
from ops.replay.source import consumer_options, groups_of
from stream_app.records import kind_of

_FILE_RECORDS: Final = 50_000
_LEVEL: Final = 5
_GZIP: Final = 31  # zlib's window bits for a gzip header


def export_events(
    kafka: Mapping[str, Any],
    topic: str,
    references_topic: str,
    plan: Plan,
    folder: Path,
    tell: Callable[[Reached], None] = lambda _: None,
) -> Manifest:
    """Writes all that a replay of the plan's range needs.

    Raises:
        UsageError: The folder holds something.
        OpsError: The broker is away.
    """
    if folder.exists() and any(folder.iterdir()):
        raise UsageError(f"{folder}: is not empty", "name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    references = [
        PartPlan(part.partition, part.references_start, part.references_end) for part in plan.parts
    ]
    files: list[ExportedFile] = []
    read = 0
    told_at = 0.0
    for name, source, parts in (
        ("events", topic, list(plan.parts)),
        ("references", references_topic, references),
    ):
        writers: dict[int, _FileWriter] = {}
        for group in _groups(kafka, source, parts):
            number = group[0].partition()
            assert number is not None
            for message in group:
                writer = writers.get(number)
                if writer is None:
                    writer = writers[number] = _FileWriter(folder, name, number)
                writer.add(message)
                if writer.records >= _FILE_RECORDS:
                    files.append(writers.pop(number).close())
            read += len(group)
            if time.monotonic() - told_at > 0.5:
                told_at = time.monotonic()
                tell(Reached(read, None))
        files += [writer.close() for writer in writers.values()]
    manifest = Manifest(
        plan.span.from_us,
        plan.span.to_us,
        plan.read_from_us,
        plan.partitions,
        plan.parts,
        tuple(sorted(files, key=lambda file: (file.topic, file.partition, file.start))),
        version("cdrstream"),
    )
    manifest.write(folder)
    return manifest


def _groups(kafka: Mapping[str, Any], topic: str, parts: list[PartPlan]) -> Iterator[list[Message]]:
    waiting = {part.partition: part for part in parts if part.start < part.end}
    if not waiting:
        return
    consumer = Consumer(consumer_options(kafka), logger=silent_log())
    try:
        consumer.assign(
            [TopicPartition(topic, number, part.start) for number, part in waiting.items()]
        )
        yield from groups_of(consumer, topic, waiting)
    finally:
        consumer.close()


class _FileWriter:
    """One compressed file, from its first record on."""

    def __init__(self, folder: Path, topic: str, partition: int) -> None:
        self.records = 0
        self._folder, self._topic, self._partition = folder, topic, partition
        self._start = self._end = 0
        self._path: Path | None = None
        self._packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
        self._digest = sha256()
        self._lines: list[bytes] = []

    def add(self, message: Message) -> None:
        """Appends a record."""
        offset = message.offset()
        assert offset is not None
        if self._path is None:
            self._start = offset
            name = f"{self._topic}-{self._partition:04}-{offset:012}.jsonl.gz"
            self._path = self._folder / name
            self._path.write_bytes(b"")
        headers: Any = message.headers()
        kind = kind_of(headers or ())
        written_ms = message.timestamp()[1]
        self._lines.append(line_of(offset, written_ms, kind, message.key(), message.value()))
        self.records += 1
        self._end = offset + 1
        if len(self._lines) >= 1_000:
            self._pack()

    def _pack(self, *, last: bool = False) -> None:
        assert self._path is not None
        block = self._packer.compress(b"".join(self._lines))
        if last:
            block += self._packer.flush()
        self._lines = []
        self._digest.update(block)
        with self._path.open("ab") as stream:
            stream.write(block)

    def close(self) -> ExportedFile:
        """Ends the file."""
        self._pack(last=True)
        assert self._path is not None
        return ExportedFile(
            self._path.name,
            self._topic,
            self._partition,
            self._start,
            self._end,
            self.records,
            self._digest.hexdigest(),
        )
