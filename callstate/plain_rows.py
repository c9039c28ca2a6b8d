"""Rows and event messages as nearly all of them are: JSON with each column of its own type.

Owns the short way from bytes to an event, half the cost of the way through dicts. Refuses to judge
what is otherwise: it declines, and the tolerant readers of `events` and `envelope` have the word.
Both ways make the same event of the same bytes, which the tests hold against each other.
"""

from __future__ import annotations

from sys import intern
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from msgspec.structs import astuple

from callstate.envelope import VERSION, read_clock
from callstate.events import COLUMNS, BadRow, CallEvent, event_of

_Whole = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class _Row(msgspec.Struct, kw_only=True, gc=False):
    """The columns in the order of `events.COLUMNS`; a row without its first needs has no room."""

    call_id: str
    from_tag: str | None = None
    to_tag: str | None = None
    from_url: str | None = None
    to_url: str | None = None
    observer: str | None = None
    branch_id: str | None = None
    contact: str | None = None
    refer_to: str | None = None
    referred_by: str | None = None
    failure_reason: str | None = None
    request_uri: str | None = None
    reference: str | None = None
    callee_route: str | None = None
    event_time: str
    event_type: str
    event_seq: _Whole | None = None
    cseq: _Whole | None = None
    failure_status: _Whole | None = None
    via_count: _Whole | None = None
    id: _Whole | None = None
    caller_internal: bool | None = None


class _FileRow(_Row, kw_only=True, gc=False):
    """A line of a file: a bare row, which may say whose it is; an envelope has a member `row`."""

    server: str = ""
    row: UnsetType = UNSET


class _Clock(msgspec.Struct, gc=False):
    offset_ms: float
    error_ms: float
    late: bool = False


class _Message(msgspec.Struct, kw_only=True, gc=False):
    v: Literal[1]
    server: str
    row: _Row
    clock: _Clock | None = None


assert _Row.__struct_fields__ == COLUMNS
assert VERSION == 1
_read_row = msgspec.json.Decoder(_FileRow).decode
_read_message = msgspec.json.Decoder(_Message).decode
_COLUMNS = len(COLUMNS)


def event_of_line(line: bytes, server: str | None) -> CallEvent | None:
    """The event of a file's line, of `server` where that is known; None: read it tolerantly."""
    try:
        row = _read_row(line)
        owner = server or row.server or row.observer
        return event_of(owner, astuple(row)[:_COLUMNS]) if owner else None
    except (msgspec.DecodeError, BadRow, UnicodeError):
        return None


def event_of_message(message: bytes) -> CallEvent | None:
    """The event that a message of kind `event` holds; None: read it tolerantly."""
    try:
        told = _read_message(message)
        clock = told.clock
        return (
            event_of(
                intern(told.server),
                astuple(told.row),
                None if clock is None else read_clock(clock.offset_ms, clock.error_ms, clock.late),
            )
            if told.server
            else None
        )
    except (msgspec.DecodeError, BadRow, UnicodeError, ValueError, OverflowError):
        return None
