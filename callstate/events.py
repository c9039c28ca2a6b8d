"""What a row of `call_state_events` is, once read: an immutable event.

Owns the reading of one row (tolerant of absent values, strict about what a CDR cannot do without)
and of its time. Refuses to know how rows travel (`envelope`) or what they mean together (`call`).

Absent values are `''` or `0` with one writer and NULL or a missing column with another: all are
read alike, as `''`, `0` and, for `caller_internal` alone, None.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from operator import itemgetter
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
    texts = _texts(row)
    if not texts[0]:
        raise BadRow("call_id is absent")
    get = row.get
    kind = get("event_type")
    if type(kind) is not str or kind not in EVENT_TYPES:
        raise BadRow("event_type is absent" if not kind else f"event_type is unknown: {kind!r:.40}")
    internal = get("caller_internal")
    if internal is not None and not isinstance(internal, bool):
        raise BadRow(f"caller_internal is not a boolean: {internal!r:.40}")
    row_id, event_seq, cseq = get("id"), get("event_seq"), get("cseq")
    status, via_count = get("failure_status"), get("via_count")
    if type(status) is not int:
        status = _whole("failure_status", status)
    if status and not -_INT2_LIMIT <= status < _INT2_LIMIT:  # it goes into a column of `cdrs`
        raise BadRow(f"failure_status is out of range: {status!r:.40}")
    call_id, from_tag, to_tag, from_url, to_url, observer, branch_id, *others = texts
    contact, refer_to, referred_by, reason, request_uri, reference, callee_route = others
    # Interned: the events of a call repeat most of its texts, and millions of calls may be open.
    return CallEvent(
        server,
        row_id if row_id is None or type(row_id) is int else _whole("id", row_id),
        intern(observer),
        event_seq if type(event_seq) is int else _whole("event_seq", event_seq),
        parse_time_us(get("event_time")),
        kind,
        cseq if type(cseq) is int else _whole("cseq", cseq),
        intern(call_id),
        intern(from_tag),
        intern(to_tag),
        intern(from_url),
        intern(to_url),
        contact,
        refer_to,
        referred_by,
        status,
        reason,
        request_uri,
        reference,
        internal,
        callee_route,
        intern(branch_id),
        via_count if type(via_count) is int else _whole("via_count", via_count),
        clock,
    )


_TEXT_COLUMNS = (
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
_text_columns = itemgetter(*_TEXT_COLUMNS)


def _texts(row: Mapping[str, Any]) -> tuple[str, ...]:
    """The text columns in the order of `_TEXT_COLUMNS`, all of them text that can be stored."""
    try:
        texts: tuple[str, ...] = _text_columns(
            row
        )  # one call for a row that has all columns, as most have
        joined = "".join(texts)
    except (KeyError, TypeError):  # columns left out, or NULL where another writer has ''
        texts = tuple(row.get(column) or "" for column in _TEXT_COLUMNS)
        try:
            joined = "".join(texts)
        except TypeError:
            raise BadRow("a text column holds something that is not text") from None
    if _is_storable(joined):
        return texts
    return tuple(_printable(text) for text in texts)


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


def _is_storable(text: str) -> bool:
    """Whether PostgreSQL can store it: neither NUL nor lone surrogates."""
    if "\x00" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(text: str) -> str:
    """What PostgreSQL can store: NUL and lone surrogates become U+FFFD."""
    return (
        text.replace("\x00", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )
