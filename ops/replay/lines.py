"""A CDR as one line of PostgreSQL's COPY text: shadow tables are filled with it, digests are of it.

Owns that form, to the letter what the database itself would print, so that a digest over `cdrs` as
COPY tells them and one over CDRs that were never stored are the same.
"""

from __future__ import annotations

from typing import Final

from callstate.cdr import Cdr
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
    """The record's columns in the order of `CDR_COLUMNS`, without the newline."""
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
    texts = f"{call_id}{from_tag}{to_tag}{caller_aor}{callee_aor}{reason}"
    texts += f"{reference}{caller_contact}{callee_contact}{route}"
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
