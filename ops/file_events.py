"""Rows of files -> records of the event topic, as the reader makes them.

Owns the forms that a file may have and what a record is made of: the reader's own bytes where the
rows are the table's. A row that is none is a `Bad` with its line, never an exception. Refuses to
know Kafka: `ops.ingest` sends.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from callstate.envelope import Malformed, event_message
from callstate.events import BadRow, CallEvent, Clock, read_row
from cdc.pgoutput import EnvelopePrefix
from cdc.rows import RowEncoder
from ops import row_files, table_files
from ops.errors import OpsError, UsageError
from ops.table_files import BadLine

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


_END_MARK: Final = b"\\."


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
    """A plain-text dump: only the rows of our table.

    Raises:
        UsageError: There are none, or not as COPY has them: read as an empty table it would lose
            everything without a word.
        OpsError: The dump ends within a table's rows.
    """
    numbered = enumerate(lines, 1)
    is_there = False
    for number, line in numbered:
        columns = table_files.dump_columns(line)
        if columns is not None:
            is_there = True
            rows = table_files.copy_rows(_block(numbered), number + 1)
            yield from _table_records(rows, table_files.encoder(columns), options)
        elif table_files.is_other_copy(line):
            for _ in _block(numbered):
                pass
    if not is_there:
        raise UsageError(
            "the dump holds no rows of call_state_events as COPY writes them",
            "pg_dump without --inserts, --schema-only and --exclude-table-data",
        )


def _block(numbered: Iterator[tuple[int, bytes]]) -> Iterator[bytes]:
    """A table's rows in a dump, with their end mark. A row that was cut short is not one of them.

    Raises:
        OpsError: The end mark is missing.
    """
    for _, line in numbered:
        if line.rstrip(b"\r\n") == _END_MARK:
            yield line
            return
        if line.endswith(b"\n"):
            yield line
    raise OpsError(
        "the dump ends within a table's rows: it was cut short",
        "ingest it whole: rows that are there already change nothing",
    )
