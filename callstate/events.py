"""What a row of `call_state_events` is, once read: an immutable event.

Owns the reading of one row (tolerant of absent values, strict about what a CDR cannot do without)
and of its time. Refuses to know how rows travel (`envelope`) or what they mean together (`call`).

Absent values are `''` or `0` with one writer and NULL or a missing column with another: all are
read alike, as `''`, `0` and, for `caller_internal` alone, None.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Any, Final, NamedTuple

REQUEST: Final = "R"  # INVITE without a To tag
SETUP: Final = "S"  # 2xx to an INVITE
FAILURE: Final = "F"  # final response >= 400 to an INVITE, 407 excepted
TRANSFER: Final = "T"  # REFER
END: Final = "E"  # BYE
EVENT_TYPES: Final = frozenset((REQUEST, SETUP, FAILURE, TRANSFER, END))

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_US = -62_135_596_800_000_000  # 0001-01-01, the first moment that can be written
_LAST_US = 253_402_300_799_999_999  # 9999-12-31
_INT2_LIMIT: Final = 2**15
_INT8_LIMIT: Final = 2**63  # beyond it no column holds a number, nor does the state's JSON


class Clock(NamedTuple):
    """What is known of the server's clock at a row: server minus reference, in microseconds.

    The tightest of two is the lesser. `late` marks rows that a backfill read long after they were
    written, so that the offset is that moment's and not the row's; `traffic` an offset that no
    probe has measured but the traffic.
    """

    late: bool
    error_us: int
    offset_us: int
    traffic: bool = False


class CallEvent(NamedTuple):
    """One row, as one server wrote it. A named tuple because millions are made: see docs/decisions.

    `time_us` is the raw `event_time` in microseconds since 1970-01-01 UTC, never corrected.
    `id` is None for rows without one (bare files); their identity is then their content.
    """

    server: str
    id: int | None
    observer: str
    event_seq: int
    time_us: int
    type: str
    cseq: int
    call_id: str
    from_tag: str
    to_tag: str
    from_url: str
    to_url: str
    contact: str
    refer_to: str
    referred_by: str
    failure_status: int
    failure_reason: str
    request_uri: str
    reference: str
    caller_internal: bool | None
    callee_route: str
    branch_id: str
    via_count: int
    clock: Clock | None = None


class BadRow(ValueError):
    """A row that cannot become an event; `args[0]` is the reason, fit for a dead letter."""


def parse_time_us(text: object) -> int:
    """Microseconds since 1970 UTC of an ISO 8601 time; without a zone it is UTC.

    PostgreSQL's `infinity`, BC years and anything else that is no point in time raise BadRow.
    """
    if not isinstance(text, str):
        raise BadRow("event_time is absent" if text is None else "event_time is not text")
    # A second is read once however many rows it has; what follows it is three or six digits.
    second, fraction = text[:19], text[20:].removesuffix("Z")
    digits = len(fraction)
    if digits in _FRACTIONS and text[19] == "." and fraction.isdecimal():
        second_us = _READ_SECONDS.get(second)
        if second_us is None and second.isascii():
            second_us = _read_second(second)
        if second_us is not None and fraction.isascii():
            return second_us + int(fraction) * (1_000 if digits == 3 else 1)
    try:
        since = datetime.fromisoformat(text) - _EPOCH
    except TypeError:
        since = datetime.fromisoformat(text).replace(tzinfo=UTC) - _EPOCH
    except (ValueError, OverflowError):
        raise BadRow(f"event_time is not a time: {text[:40]!r}") from None
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _read_second(text: str) -> int | None:
    """Microseconds since 1970 UTC of `YYYY-MM-DD HH:MM:SS`, remembered; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is not None or len(text) != 19 or text[16] != ":":
        return None
    if len(_READ_SECONDS) >= _SECONDS_MAX:
        _READ_SECONDS.clear()
    since = moment.replace(tzinfo=UTC) - _EPOCH
    second_us = _READ_SECONDS[text] = (since.days * 86_400 + since.seconds) * 1_000_000
    return second_us


def format_time(time_us: int) -> str:
    """ISO 8601 in UTC with `Z` and six decimals, the form of every time that leaves the program."""
    second, fraction_us = divmod(time_us, 1_000_000)
    text = _SECONDS.get(second)
    if text is None:
        if not _FIRST_US <= time_us <= _LAST_US:
            return format_time(min(max(time_us, _FIRST_US), _LAST_US))
        if len(_SECONDS) >= _SECONDS_MAX:
            _SECONDS.clear()
        text = _SECONDS[second] = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
    return f"{text}.{fraction_us:06d}Z"


# A second's text is asked for again and again: a call's events lie close together, and so do calls.
_SECONDS: Final[dict[int, str]] = {}
_FRACTIONS: Final = (3, 6)
_READ_SECONDS: Final[dict[str, int]] = {}
_SECONDS_MAX: Final = 4_096


def read_row(server: str, row: Mapping[str, Any], clock: Clock | None = None) -> CallEvent:
    """One row of `call_state_events` as an event.

    Args:
        server: Name of the server whose table holds the row.
        row: Column to value; unknown columns are ignored, absent ones read as empty.
        clock: What the clock probe said when the row was read.

    Raises:
        BadRow: Without `call_id`, `event_type` or a readable `event_time`, or with a value of a
            type that its column cannot have.
    """
    columns = tuple(map(row.get, COLUMNS))
    if tuple(map(type, columns)) not in _PLAIN_TYPES:
        columns = _mended(columns)
    return event_of(server, columns, clock)


def event_of(server: str, columns: Columns, clock: Clock | None = None) -> CallEvent:
    """The event that the columns make: values in the order of `COLUMNS`, None where absent.

    Args:
        server: Name of the server whose table holds the row.
        columns: Each of the type that its column has; see `read_row` for those that may not be.
        clock: What the clock probe said when the row was read.

    Raises:
        BadRow: As `read_row`.
    """
    if None in columns[:_NEVER_ABSENT]:
        columns = _filled(columns)
    texts = "".join(columns[:_TEXTS])
    if not texts.isascii() or "\x00" in texts:
        columns = (*map(_storable, columns[:_TEXTS]), *columns[_TEXTS:])
    (
        call_id,
        from_tag,
        to_tag,
        from_url,
        to_url,
        observer,
        branch_id,
        contact,
        refer_to,
        referred_by,
        failure_reason,
        request_uri,
        reference,
        callee_route,
        event_time,
        event_type,
        event_seq,
        cseq,
        failure_status,
        via_count,
        row_id,
        caller_internal,
    ) = columns
    if not call_id:
        raise BadRow("call_id is absent")
    if event_type not in EVENT_TYPES:
        what = f"event_type is unknown: {event_type!r:.40}"
        raise BadRow(what if event_type else "event_type is absent")
    if failure_status and not -_INT2_LIMIT <= failure_status < _INT2_LIMIT:  # `cdrs` has no room
        raise BadRow(f"failure_status is out of range: {failure_status!r:.40}")
    # Interned: the events of a call repeat most of its texts, and millions of calls may be open.
    return _new(
        CallEvent,
        (
            server,
            row_id,
            intern(observer),
            event_seq,
            parse_time_us(event_time),
            event_type,
            cseq,
            intern(call_id),
            intern(from_tag),
            intern(to_tag),
            intern(from_url),
            intern(to_url),
            contact,
            refer_to,
            referred_by,
            failure_status,
            failure_reason,
            request_uri,
            reference,
            caller_internal,
            callee_route,
            intern(branch_id),
            via_count,
            clock,
        ),
    )


_new: Final = tuple.__new__  # what `CallEvent(...)` comes to, without the call in between

Columns = tuple[Any, ...]
_TEXT_COLUMNS: Final = (
    "call_id",
    "from_tag",
    "to_tag",
    "from_url",
    "to_url",
    "observer",
    "branch_id",
    "contact",
    "refer_to",
    "referred_by",
    "failure_reason",
    "request_uri",
    "reference",
    "callee_route",
)
_NUMBER_COLUMNS: Final = ("event_seq", "cseq", "failure_status", "via_count")
_NULLABLE_COLUMNS: Final = ("id", "caller_internal")
COLUMNS: Final = (
    *_TEXT_COLUMNS,
    "event_time",
    "event_type",
    *_NUMBER_COLUMNS,
    *_NULLABLE_COLUMNS,
)
_TEXTS: Final = len(_TEXT_COLUMNS)
_NUMBERS: Final = _TEXTS + 2
_NEVER_ABSENT: Final = len(COLUMNS) - len(_NULLABLE_COLUMNS)
# The types of a row that needs no second look.
_PLAIN_TYPES: Final = frozenset(
    (*[str] * _NUMBERS, *[int] * len(_NUMBER_COLUMNS), row_id, internal)
    for row_id in (int, type(None))
    for internal in (bool, type(None))
)


def _filled(columns: Columns) -> Columns:
    """What one writer leaves NULL is empty with the other."""
    return (
        *(text or "" for text in columns[:_TEXTS]),
        *columns[_TEXTS:_NUMBERS],
        *(number or 0 for number in columns[_NUMBERS:_NEVER_ABSENT]),
        *columns[_NEVER_ABSENT:],
    )


def _mended(columns: Columns) -> Columns:
    """Columns of any types as `event_of` takes them: digits are numbers.

    Raises:
        BadRow: For a value of a type that its column cannot have.
    """
    texts = [text or "" for text in columns[:_TEXTS]]
    if not all(isinstance(text, str) for text in texts):
        raise BadRow("a text column holds something that is not text")
    event_time, event_type = columns[_TEXTS:_NUMBERS]
    if event_type and type(event_type) is not str:
        raise BadRow(f"event_type is unknown: {event_type!r:.40}")
    row_id, internal = columns[_NEVER_ABSENT:]
    if internal is not None and not isinstance(internal, bool):
        raise BadRow(f"caller_internal is not a boolean: {internal!r:.40}")
    numbers = columns[_NUMBERS:_NEVER_ABSENT]
    return (
        *texts,
        event_time,
        event_type or "",
        *map(_whole, _NUMBER_COLUMNS, numbers),
        None if row_id is None else _whole("id", row_id),
        internal,
    )


def row_of(event: CallEvent) -> dict[str, Any]:
    """The row as JSON: the table's columns, absent values as they were read."""
    row: dict[str, Any] = dict(zip(CallEvent._fields[1:-1], event[1:-1], strict=True))
    row["event_time"] = format_time(row.pop("time_us"))
    row["event_type"] = row.pop("type")
    return row


def content_key(event: CallEvent) -> tuple[tuple[bool, Any], ...]:
    """Orders rows by content, column by column, an absent value before any other."""
    return tuple((value is not None, value) for value in event[:-1])


def _whole(column: str, value: object) -> int:
    if type(value) is int:
        return value
    if value is None or value == "":
        return 0
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            pass
        else:
            if -_INT8_LIMIT <= number < _INT8_LIMIT:
                return number
            raise BadRow(f"{column} is out of range: {value!r:.40}")
    raise BadRow(f"{column} is not a whole number: {value!r:.40}")


def _storable(text: str) -> str:
    """What PostgreSQL can store: NUL and lone surrogates become U+FFFD."""
    text = text.replace("\x00", "\ufffd")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
