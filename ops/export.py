"""`cdrstream export`: CDRs of a range of time as CSV or JSON Lines, streamed.

Owns the columns and their form. CSV is opened in spreadsheets, and what strangers wrote into a SIP
header must not be run there: a cell that begins like a formula gets an apostrophe in front, unless
the bytes are wanted as they are.
"""

from __future__ import annotations

import csv
import io
import itertools
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import IO, Any, Final

import orjson
import psycopg
from psycopg import sql

from ops.complete import complete_through
from ops.config import Config
from ops.dsn import with_options
from ops.errors import ConfigError, OpsError
from ops.moments import moment
from ops.whole_file import whole_file

COLUMNS: Final = (  # what the old interface exported, in its order
    *("callee_aor", "caller_aor", "start_time", "connect_time", "end_time"),
    *("failure_status", "termination", "call_id"),
)
ALL_COLUMNS: Final = (
    *("call_id", "from_tag", "to_tag", "caller_aor", "callee_aor"),
    *("start_time", "connect_time", "end_time", "termination", "failure_status"),
    *("failure_reason", "reference", "caller_contact", "callee_contact"),
    *("caller_internal", "callee_route"),
)
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
_FETCH_ROWS: Final = 5_000
_OPTIONS: Final = "-c default_transaction_read_only=on -c timezone=UTC -c datestyle=ISO,YMD"
_PROGRESS_SECONDS: Final = 0.5
_PLAIN_SECONDS: Final = 10.0


def guarded(cell: str) -> str:
    """The cell, harmless in a spreadsheet."""
    return "'" + cell if cell.startswith(_FORMULA) else cell


def as_text(value: Any) -> str:
    """A column's value in CSV: times ISO 8601 in UTC, nothing where there is nothing."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def iso(value: datetime) -> str:
    """`2026-01-31T12:00:00.000000Z`; the table's times are UTC without a zone."""
    return value.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def rows(
    config: Config, since: datetime, until: datetime, columns: Sequence[str]
) -> Iterator[tuple[Any, ...]]:
    """CDRs that began in [since, until), by start time, a few thousand at a time.

    Raises:
        psycopg.Error: The database does not answer, or refuses.
    """
    dsn = with_options(config.sink_dsn(), f"{_OPTIONS} -c search_path={config.sink.schema_name}")
    query = sql.SQL(
        "SELECT {} FROM cdrs WHERE start_time >= %s AND start_time < %s"
        " ORDER BY start_time, call_id"
    ).format(sql.SQL(", ").join(map(sql.Identifier, columns)))
    with (
        psycopg.connect(dsn, connect_timeout=5) as connection,
        connection.cursor(name="cdrstream_export") as cursor,
    ):
        cursor.itersize = _FETCH_ROWS
        cursor.execute(query, (since.replace(tzinfo=None), until.replace(tzinfo=None)))
        yield from cursor


def csv_lines(columns: Sequence[str], *, raw: bool) -> Callable[[Sequence[Any]], bytes]:
    """A function from a row (or the names) to a line of CSV."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")

    def line(row: Sequence[Any]) -> bytes:
        cells = [as_text(value) for value in row]
        writer.writerow(cells if raw else [guarded(cell) for cell in cells])
        text = buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        return text.encode("utf-8", "replace")

    assert columns
    return line


def json_lines(columns: Sequence[str]) -> Callable[[Sequence[Any]], bytes]:
    """A function from a row to a line of JSON."""

    def line(row: Sequence[Any]) -> bytes:
        told = (iso(value) if isinstance(value, datetime) else value for value in row)
        return orjson.dumps(dict(zip(columns, told, strict=True))) + b"\n"

    return line


def run(
    config: Config,
    *,
    since: str,
    until: str,
    form: str,
    out: str,
    every_column: bool,
    raw: bool,
    exit_code: bool = False,
) -> None:
    """Writes the CDRs of a range; says on standard error how many, and where some may be missing.

    Raises:
        ConfigError: A time is none, or the range is empty.
        OpsError: `exit_code`, and CDRs may be missing; the others are written.
        psycopg.Error: The database does not answer, or refuses.
    """
    begin, end = moment(since, "--from"), moment(until, "--to")
    if begin >= end:
        raise ConfigError(f"--from {since} is not before --to {until}", "the end is not included")
    columns = ALL_COLUMNS if every_column else COLUMNS
    line = csv_lines(columns, raw=raw) if form == "csv" else json_lines(columns)
    # Asked before the rows are: what is written in between may be missing here and is of no harm.
    notice = _what_may_be_missing(config, end.replace(tzinfo=None))
    found = rows(config, begin, end, columns)
    # Asked before anything is written: a database that is away makes no file of a header alone.
    found = itertools.chain(list(itertools.islice(found, 1)), found)
    if out == "-":
        written = _write(sys.stdout.buffer, line, found, columns, form)
    else:
        with whole_file(out) as file:
            written = _write(file, line, found, columns, form)
    sys.stderr.write(f"{written:,} CDRs\n")
    if notice and exit_code:
        raise OpsError(notice)
    if notice:
        sys.stderr.write(f"{notice}\n")


def _what_may_be_missing(config: Config, end: datetime) -> str:
    """What to say of a range that is not all told yet; empty where it is, but for open calls."""
    dsn = with_options(config.sink_dsn(), f"{_OPTIONS} -c search_path={config.sink.schema_name}")
    try:
        with psycopg.connect(dsn, connect_timeout=5) as connection:
            through = complete_through(connection)
    except psycopg.Error as error:  # a role that reads `cdrs` and nothing else
        return f"whether that is all cannot be told: {' '.join(str(error).split())[:120]}"
    if through is None:
        return "whether that is all cannot be told: not all partitions have been read yet"
    if through < end:
        return f"calls that ended after {iso(through)} may be missing: `cdrstream status` says why"
    return ""


def _write(
    file: IO[bytes],
    line: Callable[[Sequence[Any]], bytes],
    found: Iterator[tuple[Any, ...]],
    columns: Sequence[str],
    form: str,
) -> int:
    if form == "csv":
        file.write(line(columns))
    terminal = sys.stderr.isatty()
    every = _PROGRESS_SECONDS if terminal else _PLAIN_SECONDS
    written, next_word = 0, time.monotonic() + every
    for row in found:
        file.write(line(row))
        written += 1
        if not written % 1_000 and time.monotonic() > next_word:
            next_word = time.monotonic() + every
            sys.stderr.write(f"\r{written:,} CDRs" if terminal else f"{written:,} CDRs so far\n")
    file.flush()
    if terminal:
        sys.stderr.write("\r")
    return written
