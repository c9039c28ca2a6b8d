"""The command `ingest`: call state events from files onto the event topic.

Owns the forms that a file may have, what a record is made of, and what happens to bad rows. Records
are the reader's own, byte for byte where the rows are the table's, so that everything behind the
topic treats them alike: identity is (server, id), and a file that is ingested twice changes
nothing. Refuses to tell anyone how far a server has got: rows of files are late events.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import orjson
from confluent_kafka import KafkaError, KafkaException, Producer

from callstate.envelope import EVENT, Malformed, event_message
from callstate.events import BadRow, CallEvent, Clock, read_row
from cdc.pgoutput import EnvelopePrefix
from cdc.publisher import headers, producer_options
from cdc.rows import RowEncoder
from cdc.settings import TopicNames
from ops import row_files, table_files
from ops.errors import OpsError, UsageError
from ops.row_files import STDIN, RowFile
from ops.table_files import BadLine

_TELL_SECONDS: Final = 10.0
_POLL_ROWS: Final = 500
_FLUSH_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10.0
_RAW_BYTES_MAX: Final = 500_000
FORMS: Final = ("auto", "jsonl", "csv", "copy")


class Good(NamedTuple):
    """A record for the event topic."""

    key: str
    value: bytes
    server: str


class Bad(NamedTuple):
    """A row for the dead letters."""

    reason: str
    raw: bytes
    line: int


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """What the command line asks for.

    Attributes:
        server: Whose rows they are, where they do not say so themselves (envelopes do).
        form: One of `FORMS`.
        columns: Of COPY text; empty: the table's own, in its order.
        clock: Stamped on rows; None: their server's clock is not known.
    """

    server: str
    form: str = "auto"
    columns: tuple[str, ...] = ()
    clock: Clock | None = None


@dataclass(slots=True)
class Counted:
    """What became of the rows."""

    sent: int = 0
    acknowledged: int = 0
    bad: int = 0
    skipped: int = 0


def records(
    lines: Iterator[bytes], options: IngestOptions, counted: Counted
) -> Iterator[Good | Bad]:
    """What each row of a file is; never raises for a row.

    Raises:
        UsageError: The file's columns are not the table's.
    """
    first = list(itertools.islice(lines, 1))
    if not first:
        return
    form = _form_of(first[0]) if options.form == "auto" else options.form
    everything = itertools.chain(first, lines)
    try:
        if form == "jsonl":
            yield from _json_records(everything, options, counted)
        elif form == "csv":
            encoder = table_files.encoder(table_files.csv_header(next(everything)))
            yield from _table_records(table_files.csv_rows(everything, 2), encoder, options)
        elif form == "dump":
            yield from _dump_records(everything, options)
        else:
            encoder = table_files.encoder(options.columns or tuple(table_files.TABLE_COLUMNS))
            yield from _table_records(table_files.copy_rows(everything, 1), encoder, options)
    except table_files.ColumnError as error:
        raise UsageError(str(error), "name the columns: --columns id,observer,...") from error


def _form_of(line: bytes) -> str:
    text = line.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"{"):
        return "jsonl"
    if text.startswith((b"--", b"COPY ", b"SET ", b"\\restrict")) or not text:
        return "dump"
    return "copy" if b"\t" in line else "csv"


def _json_records(
    lines: Iterable[bytes], options: IngestOptions, counted: Counted
) -> Iterator[Good | Bad]:
    for number, line in enumerate(lines, 1):
        record = row_files.read_line(line, options.server)
        if record is None:
            continue
        if isinstance(record, Malformed):
            yield Bad(record.reason, line.rstrip(b"\n"), number)
        elif type(record) is CallEvent:
            told = _loaded(line)
            if "row" not in told:
                told = event_message(options.server, "0/0", None, options.clock, told)
            # An envelope goes on as it is: the clock of its server is in it.
            yield Good(record.call_id, _dumped(told), record.server)
        else:
            counted.skipped += (
                1  # a heartbeat or gap of an archived topic: of its time, not of ours
            )


def _loaded(line: bytes) -> dict[str, Any]:
    """A line that `read_line` has read, the same way."""
    try:
        told: dict[str, Any] = orjson.loads(line)
    except orjson.JSONDecodeError:  # what others write: lone surrogates, integers of any size
        told = json.loads(line.decode("utf-8", "replace"), parse_int=row_files.whole_or_float)
    return told


def _dumped(message: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(message)
    except TypeError:
        text = json.dumps(message, ensure_ascii=False)
        # A lone surrogate is no text: written as U+FFFD.
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _table_records(
    rows: Iterable[table_files.Row], encoder: RowEncoder, options: IngestOptions
) -> Iterator[Good | Bad]:
    prefix = EnvelopePrefix(options.server)
    prefix.set_clock(options.clock)
    before_row = prefix.build(0, None)
    for row in rows:
        found: tuple[bytes, str] | BadLine
        if isinstance(row.values, BadLine):
            found = row.values
        else:
            found = table_files.encode(encoder, row.values)
        if not isinstance(found, BadLine):
            wrong = _why_no_event(options.server, found[0])
            found = BadLine(wrong) if wrong else found
        if isinstance(found, BadLine):
            yield Bad(found.reason, row.raw.rstrip(b"\n"), row.line)
        else:
            yield Good(found[1], before_row + found[0] + b"}", options.server)


def _why_no_event(server: str, row: bytes) -> str:
    try:
        read_row(server, orjson.loads(row))
    except BadRow as bad:
        return str(bad.args[0])
    return ""


def _dump_records(lines: Iterable[bytes], options: IngestOptions) -> Iterator[Good | Bad]:
    """A plain-text dump: only the rows of our table."""
    numbered = enumerate(lines, 1)
    for number, line in numbered:
        columns = table_files.dump_columns(line)
        if columns is not None:
            block = (each for _, each in numbered)
            rows = table_files.copy_rows(block, number + 1)
            yield from _table_records(rows, table_files.encoder(columns), options)
        elif table_files.is_other_copy(line):
            for _, each in numbered:
                if each.rstrip() == b"\\.":
                    break


class Ingestion:
    """One run: rows of some files into Kafka, until all of them are acknowledged."""

    def __init__(self, kafka: Mapping[str, object], topic: str, options: IngestOptions) -> None:
        self._options = options
        self._topic = topic
        self._dead = TopicNames.dead_letter(topic)
        self._failure: str | None = None
        self._headers: dict[str, Any] = {}
        self._told_at = time.monotonic()
        self.counted = Counted()
        self._producer = Producer(
            {
                **producer_options(kafka),
                "client.id": "cdrstream-ingest",
                "message.timeout.ms": 120_000,  # a person is waiting
                "queue.buffering.max.messages": 100_000,
                "queue.buffering.max.kbytes": 64 * 1024,
                "log_level": 0,
            }
        )

    def run(self, files: Iterable[RowFile]) -> Counted:
        """Sends everything.

        Raises:
            OpsError: Kafka did not take it; running again is safe.
            UsageError: A file is none of the forms.
        """
        self._find_topics()
        for file in files:
            name = "standard input" if file.path == STDIN else file.path
            for n, record in enumerate(
                records(row_files.lines(file), self._options, self.counted), 1
            ):
                if isinstance(record, Bad):
                    self._dead_letter(record, f"{file.path}:{record.line}")
                else:
                    self._send(record, file.path)
                if n % _POLL_ROWS == 0:
                    self._producer.poll(0)
                    self._tell(name)
                if self._failure is not None:
                    self._fail()
        left = self._flush()
        if self._failure is not None or left:
            self._failure = self._failure or f"{left} records were not acknowledged"
            self._fail()
        return self.counted

    def _find_topics(self) -> None:
        for topic in (self._topic, self._dead):
            try:
                found = self._producer.list_topics(topic, timeout=_CONNECT_SECONDS).topics[topic]
            except KafkaException as error:
                self._failure = error.args[0].str()
                self._fail()
            if found.error is not None:
                raise OpsError(f"topic {topic}: {found.error.str()}", "run cdrstream provision")

    def _flush(self) -> int:
        deadline = time.monotonic() + _FLUSH_SECONDS
        while (left := self._producer.flush(0.5)) and self._failure is None:
            if time.monotonic() > deadline:
                break
        return left

    def _send(self, record: Good, source: str) -> None:
        kept = self._headers.get(record.server)
        if kept is None:
            kept = self._headers[record.server] = headers(EVENT, record.server)

        def report(error: KafkaError | None, _message: Any) -> None:
            if error is None:
                self.counted.acknowledged += 1
            elif error.code() in (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.INVALID_RECORD):
                self._dead_letter(Bad(error.str(), record.value, 0), source)
            else:
                self._failure = error.str()

        self.counted.sent += 1
        self._produce(self._topic, record.value, record.key, report, kept)

    def _dead_letter(self, bad: Bad, source: str) -> None:
        self.counted.bad += 1
        if self.counted.bad <= 10:
            sys.stderr.write(f"{source}: {bad.reason}\n")
        told: list[tuple[str, str | bytes | None]] = [
            ("reason", bad.reason.encode("utf-8", "replace")),
            ("source", source.encode("utf-8", "replace")),
        ]

        def report(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                self._failure = error.str()

        kept = [*headers(EVENT, self._options.server), *told]
        self._produce(self._dead, bad.raw[:_RAW_BYTES_MAX], self._options.server, report, kept)

    def _produce(self, topic: str, value: bytes, key: str, report: Any, headers_: Any) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, on_delivery=report, headers=headers_)
            except BufferError:
                self._producer.poll(0.1)
                if self._failure is not None:
                    self._fail()
            except KafkaException as error:
                report(error.args[0], None)
                return
            else:
                return

    def _tell(self, name: str) -> None:
        terminal = sys.stderr.isatty()
        now = time.monotonic()
        if now - self._told_at < (0.2 if terminal else _TELL_SECONDS):
            return
        self._told_at = now
        text = f"{name}: {self.counted.acknowledged} rows, {self.counted.bad} bad"
        sys.stderr.write(f"\r{text}\x1b[K" if terminal else text + "\n")

    def _fail(self) -> NoReturn:
        raise OpsError(
            f"Kafka did not take the rows: {self._failure}",
            "run it again when that is mended: rows that are there already change nothing",
        )


def run(
    kafka: Mapping[str, object],
    topic: str,
    inputs: Iterable[str],
    options: IngestOptions,
    *,
    strict: bool,
) -> None:
    """Ingests files and says what became of their rows.

    Raises:
        OpsError: Kafka did not take them, or with `strict` some were dead letters.
        UsageError: No such file, or none of the forms.
    """
    files: list[RowFile] = []
    for given in inputs:
        if given != STDIN and not Path(given).exists():
            raise UsageError(f"{given}: no such file")
        files.extend(row_files.row_files([given]))
    if options.form not in FORMS:
        raise UsageError(f"--format {options.form}: must be one of {', '.join(FORMS)}")
    ingestion = Ingestion(kafka, topic, options)
    counted = ingestion.run(files)
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    sys.stderr.write(f"{counted.acknowledged} rows on {topic}")
    if counted.bad:
        sys.stderr.write(f"; {counted.bad} bad rows on {TopicNames.dead_letter(topic)}")
    if counted.skipped:
        sys.stderr.write(f"; {counted.skipped} heartbeats and gaps left out")
    sys.stderr.write("\n")
    if strict and counted.bad:
        raise OpsError(f"{counted.bad} rows were bad", "the dead letters say which and why")
