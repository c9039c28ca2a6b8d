"""CDRs and their reasons as lines of PostgreSQL's COPY text.

Owns that form, of a CDR to the letter what the database itself would print: a digest over `cdrs` as
COPY tells them and one over CDRs that were never stored are the same. Refuses to know tables and
connections.

A third of what a client does that adapts each value and escapes byte by byte: nearly no text needs
it, and JSON never holds a control character.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import orjson

from callstate.cdr import Cdr, Provenance
from callstate.events import format_time

CDR_COLUMNS: Final = (
    "call_id",
    "from_tag",
    "to_tag",
    "caller_aor",
    "callee_aor",
    "start_time",
    "connect_time",
    "end_time",
    "termination",
    "failure_status",
    "failure_reason",
    "call_direction",
    "reference",
    "caller_contact",
    "callee_contact",
    "caller_internal",
    "callee_route",
)
NULL: Final = "\\N"
NO_CDR: Final = "\t".join([NULL] * (len(CDR_COLUMNS) - 1))
"""The columns behind the Call-ID of a call that has no record."""

# https://www.postgresql.org/docs/current/sql-copy.html, "Text Format"
_ESCAPES: Final = str.maketrans(
    {
        "\\": "\\\\",
        "\b": "\\b",
        "\f": "\\f",
        "\n": "\\n",
        "\r": "\\r",
        "\t": "\\t",
        "\v": "\\v",
    }
)


def escaped(text: str) -> str:
    """A text as COPY writes it."""
    if text.isprintable() and "\\" not in text:
        return text
    return text.translate(_ESCAPES)


def cdr_line(cdr: Cdr) -> str:
    """The record's columns in the order of `CDR_COLUMNS`, without the newline.

    Raises:
        TypeError: A text that is never absent is.
    """
    (
        call_id,
        from_tag,
        to_tag,
        caller_aor,
        callee_aor,
        start_us,
        connect_us,
        end_us,
        termination,
        status,
        reason,
        reference,
        caller_contact,
        callee_contact,
        internal,
        route,
    ) = cdr
    texts = "".join((call_id, from_tag, to_tag, caller_aor, callee_aor, termination))
    texts += f"{reason}{reference}{caller_contact}{callee_contact}{route}"
    if not texts.isprintable() or "\\" in texts:
        return _escaped_line(cdr)
    return (
        f"{call_id}\t{from_tag}\t{to_tag}\t{caller_aor}\t{callee_aor}\t{_time(start_us)}"
        f"\t{NULL if connect_us is None else _time(connect_us)}"
        f"\t{NULL if end_us is None else _time(end_us)}\t{termination}"
        f"\t{NULL if status is None else status}\t{NULL if reason is None else reason}\t{NULL}"
        f"\t{NULL if reference is None else reference}"
        f"\t{NULL if caller_contact is None else caller_contact}"
        f"\t{NULL if callee_contact is None else callee_contact}"
        f"\t{NULL if internal is None else 't' if internal else 'f'}"
        f"\t{NULL if route is None else route}"
    )


def provenance_line(why: Provenance, hidden_reason: str | None) -> bytes:
    """A row of `cdr_provenance` as `Provenance.to_json` tells it, newline and all.

    Raises:
        TypeError: Something in it cannot be JSON.
        UnicodeError: A text cannot be UTF-8.
    """
    hidden = NULL if hidden_reason is None else escaped(hidden_reason)
    missing = escaped(text_array(why.missing)) if why.missing else "{}"
    head = (
        f"{escaped(why.call_id)}\t{why.revision}\t{hidden}\t{escaped(why.rule)}\t{missing}"
        f"\t{'t' if why.suspect else 'f'}\t{escaped(text_array(why.servers))}"
    )
    watermark = NULL if why.watermark_us is None else format_time(why.watermark_us)
    return b"\t".join(
        (
            head.encode(),
            _json(why.offsets_json()),
            _json(why.legs) if why.legs else b"[]",
            _json(why.inversions) if why.inversions else b"[]",
            _json(dict(why.changed)) if why.changed else b"{}",
            _json(why.notes) if why.notes else b"[]",
            _json(why.events),
            f"{why.late_events}\t{why.events_dropped}\t{watermark}".encode(),
            (_json(dict(why.basis)) if why.basis else b"{}") + b"\n",
        )
    )


def text_array(values: Iterable[str]) -> str:
    """PostgreSQL's text for an array of texts."""
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def _json(value: object) -> bytes:
    return orjson.dumps(value).replace(b"\\", b"\\\\")


def _escaped_line(cdr: Cdr) -> str:
    def text(value: object) -> str:
        if value is None:
            return NULL
        if isinstance(value, bool):
            return "t" if value else "f"
        return escaped(str(value))

    def moment(time_us: int | None) -> str:
        return NULL if time_us is None else _time(time_us)

    times = (moment(cdr.start_time_us), moment(cdr.connect_time_us), moment(cdr.end_time_us))
    behind = (*map(text, cdr[8:11]), NULL, *map(text, cdr[11:]))
    return "\t".join((*map(text, cdr[:5]), *times, *behind))


def _time(time_us: int) -> str:
    """As PostgreSQL prints a timestamp: without the zeros that end it."""
    text = format_time(time_us)
    if text.endswith(".000000Z"):
        return f"{text[:10]} {text[11:19]}"
    return f"{text[:10]} {text[11:26].rstrip('0')}"
