"""An export of the event topic: a folder of compressed files, and a manifest that vouches for them.

Owns the form: JSON Lines in gzip files of some ten thousand records of one partition each, and
`manifest.json` with offsets, counts and SHA-256 of every file. A line is
`{"offset", "written_ms", "kind", "key", "message"}`, the message being the record's own bytes; a
record that is no JSON object in one line has its bytes as Base64 in `raw` instead.

Reading checks every file before it is used. Refuses to know Kafka: `ops.replay.exporting` writes.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import orjson

from callstate.envelope import EVENT, Record, ReferenceKnown, read_message
from callstate.exchanges import Exchange
from ops.errors import OpsError, UsageError
from ops.replay.plan import PartPlan, Plan, Span
from ops.replay.source import Chunk, Late, Position
from stream_app.records import read_value

VERSION: Final = 1
MANIFEST: Final = "manifest.json"
_RECORDS: Final = 5_000
_BLOCK_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ExportedFile:
    """One file of an export.

    Attributes:
        name: In the folder.
        topic: `events` or `references`.
        partition: Of that topic.
        start: First offset.
        end: Behind the last offset.
        records: How many.
        sha256: Of the compressed bytes, in hex.
    """

    name: str
    topic: str
    partition: int
    start: int
    end: int
    records: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export holds.

    Attributes:
        from_us: The range that was asked for.
        to_us: Its end.
        read_from_us: Records from before this moment were left away.
        partitions: Of the topic.
        parts: Offsets by partition, as they were planned.
        files: In order of topic, partition and offset.
        version: Of the program that wrote it.
    """

    from_us: int
    to_us: int
    read_from_us: int
    partitions: int
    parts: tuple[PartPlan, ...]
    files: tuple[ExportedFile, ...]
    version: str

    def write(self, folder: Path) -> None:
        """Puts it into the folder, last of all files."""
        text = json.dumps({"v": VERSION, **asdict(self)}, indent=1)
        (folder / MANIFEST).write_text(text + "\n", "utf-8")


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        UsageError: There is none, or it is not one.
    """
    path = folder / MANIFEST
    try:
        told: dict[str, Any] = json.loads(path.read_text("utf-8"))
        if told.pop("v") != VERSION:
            raise UsageError(f"{path}: written by a newer version", "use a newer cdrstream")
        return Manifest(
            **{
                **told,
                "parts": tuple(PartPlan(**part) for part in told["parts"]),
                "files": tuple(ExportedFile(**file) for file in told["files"]),
            }
        )
    except FileNotFoundError:
        raise UsageError(
            f"{folder}: no export: {MANIFEST} is missing",
            "an export that was broken off has none: make it again",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is damaged: {error!s:.200}", "make the export again") from None


def plan_export(
    folder: Path, span: Span, *, server: str | None = None, calls: Sequence[str] = ()
) -> Plan:
    """The plan for reading an export.

    Raises:
        UsageError: It is none, or of another range.
    """
    manifest = read_manifest(folder)
    if span.from_us < manifest.from_us or span.to_us > manifest.to_us:
        raise UsageError(
            f"{folder}: holds {Span(manifest.from_us, manifest.to_us)}, not all of {span}",
            "ask for what it holds, or export again",
        )
    return Plan(
        span,
        manifest.read_from_us,
        "export",
        manifest.parts,
        manifest.partitions,
        server,
        tuple(calls),
        str(folder.resolve()),
    )


class ExportSource:
    """The files of an export, as `KafkaSource` reads the topic: the same records, the same CRC."""

    def __init__(
        self,
        where: str,
        parts: Sequence[PartPlan],
        *,
        keys: Collection[bytes] | None = None,
        is_stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self._folder = Path(where)
        self._manifest = read_manifest(self._folder)
        self._parts = {part.partition: part for part in parts}
        self._keys = None if keys is None else {key.decode("utf-8", "replace") for key in keys}
        self._is_stopped = is_stopped
        self._late: dict[int, Late] = {}

    def only_late(self, partition: int, late: Late) -> None:
        """As `Source` says."""
        self._late[partition] = late

    def chunks(self, positions: Mapping[int, Position]) -> Iterator[Chunk]:
        """As `Source` says.

        Raises:
            OpsError: A file is missing, or not as it was written.
        """
        for number, part in sorted(self._parts.items()):
            position = positions.get(number, Position(part.start, 0))
            if position.next_offset >= part.end:
                continue
            yield from self._partition(number, part, position)

    def _partition(self, number: int, part: PartPlan, position: Position) -> Iterator[Chunk]:
        notes = self._notes(number)
        crc, offset = position.crc, position.next_offset
        for file in self._files("events", number):
            if file.end <= offset:
                continue
            batch: list[tuple[int, Record]] = []
            read = 0
            for line in self._lines(file):
                told = orjson.loads(line)
                if told["offset"] < offset:
                    continue
                value = _value_of(line, told)
                crc = crc32(value or b"", crc)
                read += 1
                if self._is_wanted(number, told, value):
                    batch.append((told["written_ms"], _record(told, value)))
                if read >= _RECORDS:
                    yield _chunk(number, batch, notes, told["offset"] + 1, read, crc)
                    batch, read = [], 0
                    if self._is_stopped():
                        return
            yield _chunk(number, batch, notes, file.end, read, crc)
            if self._is_stopped():
                return
        left: list[Record] = [record for _, record in reversed(notes)]
        answers = [record for record in left if isinstance(record, ReferenceKnown)]
        yield Chunk(number, left, part.end, 0, crc, answers)

    def _is_wanted(self, number: int, told: Mapping[str, Any], value: bytes | None) -> bool:
        key = told["key"]
        if self._keys is not None and key not in self._keys:
            return False
        late = self._late.get(number)
        if late is None or value is None or told["kind"] != EVENT or key is None:
            return True
        return not late.leaves(key.encode("utf-8", "replace"), value)

    def _notes(self, number: int) -> list[tuple[int, ReferenceKnown | Exchange]]:
        """Answers and exchanges of the live run, newest first."""
        notes: list[tuple[int, ReferenceKnown | Exchange]] = []
        for file in self._files("references", number):
            for line in self._lines(file):
                told = orjson.loads(line)
                record = _record(told, _value_of(line, told))
                if isinstance(record, ReferenceKnown | Exchange):
                    notes.append((told["written_ms"], record))
        notes.reverse()
        return notes

    def _files(self, topic: str, number: int) -> list[ExportedFile]:
        return [f for f in self._manifest.files if f.topic == topic and f.partition == number]

    def _lines(self, file: ExportedFile) -> Iterator[bytes]:
        """The lines of a file that is as it was written."""
        path = self._folder / file.name
        damaged = OpsError(f"{path} is damaged", "copy the export again, or make it again")
        try:
            with path.open("rb") as stream:
                found = sha256()
                while block := stream.read(_BLOCK_BYTES):
                    found.update(block)
            if found.hexdigest() != file.sha256:
                raise damaged
            with gzip.open(path, "rb") as unpacked:
                yield from unpacked
        except FileNotFoundError:
            raise OpsError(f"{path} is missing", "copy the export again") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise damaged from error


def line_of(
    offset: int, written_ms: int, kind: str, key: bytes | None, value: bytes | None
) -> bytes:
    """One record as an export has it."""
    head = orjson.dumps(
        {
            "offset": offset,
            "written_ms": written_ms,
            "kind": kind,
            "key": None if key is None else key.decode("utf-8", "replace"),
        }
    )[:-1]
    if value is not None and _fits(value):
        return head + _MESSAGE + value + b"}\n"
    raw = b"null" if value is None else b'"' + base64.b64encode(value) + b'"'
    return head + b',"raw":' + raw + b"}\n"


_MESSAGE: Final = b',"message":'


def _fits(value: bytes) -> bool:
    """Whether a value can stand in a line as it is."""
    if not value.startswith(b"{") or b"\n" in value:
        return False
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return False
    return True


def _value_of(line: bytes, told: Mapping[str, Any]) -> bytes | None:
    """The record's own bytes."""
    if "message" in told:
        return line[line.index(_MESSAGE) + len(_MESSAGE) : -2]
    return None if told["raw"] is None else base64.b64decode(told["raw"])


def _record(told: Mapping[str, Any], value: bytes | None) -> Record:
    message = told.get("message")
    if message is not None:
        return read_message(told["kind"], message)
    return read_value(told["kind"], value, None)


def _chunk(
    number: int,
    batch: Sequence[tuple[int, Record]],
    notes: list[tuple[int, ReferenceKnown | Exchange]],
    next_offset: int,
    read: int,
    crc: int,
) -> Chunk:
    if not notes:
        return Chunk(number, [record for _, record in batch], next_offset, read, crc)
    records: list[Record] = []
    answers: list[ReferenceKnown] = []
    for written_ms, record in batch:
        while notes and notes[-1][0] <= written_ms:
            note = notes.pop()[1]
            if isinstance(note, ReferenceKnown):
                answers.append(note)
            records.append(note)
        records.append(record)
    return Chunk(number, records, next_offset, read, crc, answers)
