"""A row's text values -> the JSON bytes of its envelope's `row`, by code generated per relation.

Owns how PostgreSQL's text of each type is said in JSON, and the fast way to do it. Refuses to know
where the values come from beyond the tuple format of the logical replication protocol
(PostgreSQL manual, "Logical Replication Message Formats", TupleData).

The fast way rests on one fact: PostgreSQL's text never holds NUL, so in a tuple of text columns
shorter than 65,536 bytes the three bytes `t NUL NUL` stand only where a column begins. One `split`
in C then finds all columns, where reading length after length takes four times as long. What does
not fit (long columns, columns that were not sent, an unexpected number of columns) takes the plain
way, and so does all text beyond ASCII, because the split works on Latin-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import orjson

BOOL, INT8, INT2, INT4, OID, FLOAT4, FLOAT8 = 16, 20, 21, 23, 26, 700, 701
TIMESTAMP, TIMESTAMPTZ = 1114, 1184
_WHOLE: Final = frozenset((INT8, INT2, INT4, OID))
_FAST_BYTES_MAX: Final = 60_000
_MARK: Final = "t\0\0"

_dumps = orjson.dumps


class Column(NamedTuple):
    """One column as the relation message or the catalog names it."""

    name: str
    type_oid: int


class BadTuple(ValueError):
    """The bytes of a row are not what the protocol says."""


class _Absent:
    """Marks a value that the server did not send (an unchanged TOAST column)."""


ABSENT: Final = _Absent()
Value = bytes | None | _Absent


def iso_time(text: str) -> str:
    """PostgreSQL's `timestamp` as ISO 8601 with `Z`; infinity and BC stay as printed."""
    if text[10:11] != " " or text[-1] == "C":
        return text
    return f"{text[:10]}T{text[11:]}Z"


def iso_time_zoned(text: str) -> str:
    """The same for `timestamptz` in a session whose zone is UTC."""
    return iso_time(text[:-3]) if text.endswith("+00") else text


def _whole(text: str) -> int | str:
    # More than 64 bits no JSON reader takes: kept as text.
    number = int(text)
    return number if -(2**63) <= number < 2**63 else text


def _real(text: str) -> float | str:
    number = float(text)
    return number if math.isfinite(number) else text


def _truth(text: str) -> bool:
    return text == "t"


_CONVERT: Final[dict[int, Callable[[str], object]]] = {
    **dict.fromkeys(_WHOLE, _whole),
    BOOL: _truth,
    FLOAT4: _real,
    FLOAT8: _real,
    TIMESTAMP: iso_time,
    TIMESTAMPTZ: iso_time_zoned,
}

# The same in generated code; {0} is an expression that gives the text, cheap to repeat after `:=`.
_INLINE: Final[dict[int, str]] = {
    **dict.fromkeys(_WHOLE, "int({0})"),
    BOOL: '({0}) == "t"',
    FLOAT4: "real({0})",
    FLOAT8: "real({0})",
    TIMESTAMP: '(v[:10] + "T" + v[11:] + "Z" if (v := {0})[10:11] == " " and v[-1] != "C" else v)',
    TIMESTAMPTZ: "zoned({0})",
}

Extract = Callable[[list[str]], tuple[bytes, str] | None]


class RowEncoder:
    """JSON of one relation's rows.

    `encode` takes the bytes of a tuple, `encode_values` values that were taken apart already; both
    give the JSON object's bytes and the text of the key column ('' where it is null or missing).
    """

    def __init__(
        self, columns: Sequence[Column], key_column: str | None, codec: str = "utf-8"
    ) -> None:
        self.columns = tuple(columns)
        self._codec = codec
        self._convert = [_CONVERT.get(column.type_oid) for column in columns]
        names = [column.name for column in columns]
        self._key = names.index(key_column) if key_column in names else None
        # By the number of parts, and so of nulls: rows of one kind leave out the same columns, so
        # the pattern seen last is nearly always right, and a wrong one is told by the lengths.
        self._extract: dict[int, Extract] = {}
        self._learned: dict[int, tuple[int, ...]] = {}

    def encode(self, data: Any) -> tuple[bytes, str]:
        """The row in `data`, the TupleData's bytes behind the number of columns.

        Raises:
            BadTuple: Where the bytes are no tuple of this relation.
        """
        if len(data) < _FAST_BYTES_MAX:
            parts = str(data, "latin-1").split(_MARK)
            extract = self._extract.get(len(parts))
            if extract is not None:
                found = extract(parts)
                if found is not None and found[0].isascii():
                    return found
        return self._encode_plain(bytes(data))

    def encode_values(self, values: Sequence[Value]) -> tuple[bytes, str]:
        """The row whose columns have these values, in the server's text form."""
        row: dict[str, object] = {}
        for column, convert, value in zip(self.columns, self._convert, values, strict=True):
            if isinstance(value, _Absent):
                continue
            if value is None:
                row[column.name] = None
                continue
            # A database that is not UTF-8 may hold any bytes: no row may stop the reader.
            text = value.decode(self._codec, "replace")
            row[column.name] = text if convert is None else convert(text)
        key = "" if self._key is None else values[self._key]
        if not isinstance(key, str):
            key = key.decode(self._codec, "replace") if isinstance(key, bytes) else ""
        return _dumps(row), key

    def _encode_plain(self, data: bytes) -> tuple[bytes, str]:
        values = read_tuple(data, len(self.columns))
        self._learn(data, values)
        return self.encode_values(values)

    def _learn(self, data: bytes, values: Sequence[Value]) -> None:
        if len(data) >= _FAST_BYTES_MAX or any(isinstance(value, _Absent) for value in values):
            return
        nulls = tuple(index for index, value in enumerate(values) if value is None)
        parts = len(values) - len(nulls) + 1
        if self._learned.get(parts) != nulls:
            self._learned[parts] = nulls
            self._extract[parts] = self._generate(nulls)

    def _generate(self, nulls: Sequence[int]) -> Extract:
        """Code for one null pattern: checks that it is the row's, then takes the row apart.

        A part is two bytes of length, the text, and one `n` for each null that follows; the first
        part is only the nulls before any text.
        """
        sources, tails = _sources(len(self.columns), nulls)
        lines = ["def extract(p):"]
        for part, tail in enumerate(tails):
            if tail:
                size = f"(ord(a[0]) << 8) + ord(a[1]) + {2 + tail}" if part else str(tail)
                lines.append(f" a = p[{part}]")
                lines.append(f" if len(a) != {size} or a[-{tail}:] != {'n' * tail!r}: return None")
        members = []
        for column, source in zip(self.columns, sources, strict=True):
            if source is None:
                expression = "None"
            else:
                expression = _INLINE.get(column.type_oid, "{0}").format(source)
            members.append(f"{column.name!r}: {expression}")
        key = (None if self._key is None else sources[self._key]) or "''"
        lines.append(f" return dumps({{{', '.join(members)}}}), {key}")
        scope: dict[str, Any] = {"dumps": _dumps, "real": _real, "zoned": iso_time_zoned}
        # Column names are embedded as literals by repr: nothing a server sends is run.
        exec(compile("\n".join(lines), "<relation>", "exec"), scope)  # noqa: S102
        extract: Extract = scope["extract"]
        return extract


def _sources(count: int, nulls: Sequence[int]) -> tuple[list[str | None], list[int]]:
    """Where each column's text is among the parts, and how many nulls stand behind each part."""
    tails = [0]
    part_of: list[int | None] = []
    for index in range(count):
        if index in nulls:
            tails[-1] += 1
            part_of.append(None)
        else:
            tails.append(0)
            part_of.append(len(tails) - 1)
    sources = [
        None if part is None else f"p[{part}][2:{-tails[part] if tails[part] else ''}]"
        for part in part_of
    ]
    return sources, tails


def read_tuple(data: bytes, count: int) -> list[Value]:
    """The `count` values of a tuple, column after column: the plain way.

    Raises:
        BadTuple: Where the bytes end early, go on too long, or hold an unknown kind of column.
    """
    values: list[Value] = []
    at = 0
    for _ in range(count):
        kind = data[at : at + 1]
        at += 1
        if kind == b"t":
            end = at + 4 + int.from_bytes(data[at : at + 4])
            if end > len(data):
                raise BadTuple(f"a tuple ends inside column {len(values) + 1} of {count}")
            values.append(data[at + 4 : end])
            at = end
        elif kind == b"n":
            values.append(None)
        elif kind == b"u":
            values.append(ABSENT)
        else:
            raise BadTuple(f"column {len(values) + 1} of {count} has unknown kind {kind!r}")
    if at != len(data):
        raise BadTuple(f"{len(data) - at} bytes stand behind the last of {count} columns")
    return values
