"""Rows out of files that PostgreSQL wrote: CSV with a header line, COPY text, a dump's COPY block.

Owns the two text forms (PostgreSQL manual, COPY, "File Formats") and where a row begins. Refuses to
judge rows: what cannot be taken apart is a `BadLine` with its reason, and the next row is read as
if nothing had happened.

CSV is taken apart here and not by Python's reader, because PostgreSQL tells NULL (nothing) from an
empty text (`""`), and because one open quote must not swallow the rest of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from cdc.drift import SCHEMA_7
from cdc.rows import Column, RowEncoder
from cdc.settings import CALL_TABLE

TABLE_COLUMNS: Final[Mapping[str, int]] = SCHEMA_7[CALL_TABLE]
_CSV_LINES_MAX: Final = 1_000  # of one row: texts have line breaks seldom, and never so many
_CSV_BYTES_MAX: Final = 16 * 1024 * 1024
_TEXT_OID: Final = 25

_COPY_BEGINS: Final = re.compile(
    rb'COPY (?:"?[\w$]+"?\.)?"?call_state_events"? \(([^)]*)\) FROM stdin;\s*', re.IGNORECASE
)
_ANY_COPY_BEGINS: Final = re.compile(rb"COPY .* FROM stdin;\s*", re.IGNORECASE)
_ESCAPE: Final = re.compile(rb"\\(x[0-9A-Fa-f]{1,2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}
_CSV_FIELD: Final = re.compile(rb'(?:"((?:[^"]|"")*)"|([^",]*))(,|$)')


class BadLine(NamedTuple):
    """A line that is no row, and why."""

    reason: str


Value = bytes | None


class Row(NamedTuple):
    """Where a row begins in its file, its bytes, and its values or what is wrong with it."""

    line: int
    raw: bytes
    values: Sequence[Value] | BadLine


class ColumnError(ValueError):
    """A file's columns are not those of a table of call state events."""


def encoder(columns: Sequence[str]) -> RowEncoder:
    """What turns rows of these columns into the same bytes as the reader's.

    Raises:
        ColumnError: A column is there twice, or none of them is known.
    """
    if len(set(columns)) != len(columns):
        raise ColumnError(f"a column is named twice: {', '.join(columns)}")
    missing = [name for name in ("call_id", "event_type", "event_time") if name not in columns]
    if missing:
        raise ColumnError(f"no column {', '.join(missing)} among: {', '.join(columns)[:200]}")
    typed = [Column(name, TABLE_COLUMNS.get(name, _TEXT_OID)) for name in columns]
    return RowEncoder(typed, "call_id")


def encode(encoder: RowEncoder, values: Sequence[Value]) -> tuple[bytes, str] | BadLine:
    """A row as JSON and its key; an absent number or time may be written as nothing."""
    if len(values) != len(encoder.columns):
        return BadLine(f"{len(values)} columns, {len(encoder.columns)} were announced")
    plain = [
        None if value == b"" and column.type_oid != _TEXT_OID else value
        for column, value in zip(encoder.columns, values, strict=True)
    ]
    try:
        return encoder.encode_values(plain)
    except ValueError as bad:
        return BadLine(f"a value is not of its column's type: {bad!s:.80}")


def csv_header(line: bytes) -> list[str]:
    """The columns that a CSV file's first line names.

    Raises:
        ColumnError: It is no header.
    """
    fields = _csv_fields(line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n"))
    if isinstance(fields, BadLine):
        raise ColumnError(f"the first line is no CSV header: {fields.reason}")
    return [(field or b"").decode("utf-8", "replace").strip().lower() for field in fields]


def csv_rows(lines: Iterable[bytes], first_line: int) -> Iterator[Row]:
    """Rows of a CSV file behind its header; a quoted value may go on over several lines."""
    held: list[bytes] = []
    number = first_line - 1
    for line in lines:
        number += 1
        held.append(line)
        if _quotes_are_open(held):
            if len(held) < _CSV_LINES_MAX and sum(map(len, held)) < _CSV_BYTES_MAX:
                continue
            # A quote that nobody closed: this line is bad, and what follows it is read again.
            yield from _after_open_quote(held, number)
            held = []
            continue
        row = b"".join(held)
        if row.strip():
            yield Row(number - len(held) + 1, row, _csv_fields(row.rstrip(b"\r\n")))
        held = []
    if held:
        yield from _after_open_quote(held, number)


def _after_open_quote(held: list[bytes], last_line: int) -> Iterator[Row]:
    first = last_line - len(held) + 1
    yield Row(first, held[0], BadLine("a quote is not closed"))
    for at, line in enumerate(held[1:], first + 1):
        open_again = line.count(b'"') % 2
        if line.strip():
            bad = BadLine("a quote is not closed")
            yield Row(at, line, bad if open_again else _csv_fields(line.rstrip(b"\r\n")))


def _quotes_are_open(held: list[bytes]) -> bool:
    return sum(line.count(b'"') for line in held) % 2 == 1


def _csv_fields(row: bytes) -> list[Value] | BadLine:
    fields: list[Value] = []
    at = 0
    while True:
        match = _CSV_FIELD.match(row, at)
        if match is None:
            return BadLine(f"not CSV behind column {len(fields)}")
        quoted, plain, comma = match.groups()
        fields.append(quoted.replace(b'""', b'"') if quoted is not None else plain or None)
        at = match.end()
        if not comma:
            return fields


def copy_rows(lines: Iterable[bytes], first_line: int) -> Iterator[Row]:
    """Rows of COPY's text form, up to its end mark or the end of the file."""
    for number, line in enumerate(lines, first_line):
        text = line.rstrip(b"\n").removesuffix(b"\r")
        if text == b"\\.":
            return
        if text:
            yield Row(number, line, [_unescaped(field) for field in text.split(b"\t")])


def _unescaped(field: bytes) -> Value:
    if field == b"\\N":
        return None
    return _ESCAPE.sub(_one_escape, field) if b"\\" in field else field


def _one_escape(match: re.Match[bytes]) -> bytes:
    what: bytes = match[1]
    if what[:1] == b"x" and len(what) > 1:
        return bytes((int(what[1:], 16),))
    if what[:1].isdigit():
        return bytes((int(what, 8) & 0xFF,))
    return _ESCAPED.get(what, what)


def dump_columns(line: bytes) -> list[str] | None:
    """The columns of a dump's COPY line for our table; None for any other line."""
    match = _COPY_BEGINS.fullmatch(line)
    if match is None:
        return None
    return [name.strip().strip('"') for name in match[1].decode("utf-8", "replace").split(",")]


def is_other_copy(line: bytes) -> bool:
    """Whether a dump's line begins another table's rows."""
    return _ANY_COPY_BEGINS.fullmatch(line) is not None
