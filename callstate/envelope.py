"""The contract between reader and stream app: what a record of the event topic says.

Owns the names, the version and the reading of every kind of record. Refuses to know JSON (the
edges parse and print it) and Kafka (the edges know keys and partitions).

| kind (record header) | key | message (JSON) |
|---|---|---|
| event | call-id | v, server, lsn, commit_time, clock, row |
| heartbeat | server | v, server, progress_us, lsn, clock |
| gap | server | v, server, from_lsn, to_lsn, from_us, to_us, reason |
| reference_asked | referenced call-id | v, call_id, asker |
| reference_known | asking call-id | v, call_id, referenced |
| exchange | none, one to every partition | v, exchange |

`clock` is `{"offset_ms": x, "error_ms": y}`, with `"late": true` where the row was read long after
it was written, or null where no probe has succeeded. `progress_us` is the server's own clock, in
microseconds since 1970 UTC: nothing older is to come from it but what commits late.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from sys import intern
from typing import Any, Final, NamedTuple

from callstate.events import BadRow, CallEvent, Clock, read_row
from callstate.exchanges import Exchange

VERSION: Final = 1
_MOMENT_LIMIT: Final = 2**60  # 36,000 years from 1970
KIND_HEADER: Final = "kind"
SERVER_HEADER: Final = "server"

EVENT: Final = "event"
HEARTBEAT: Final = "heartbeat"
GAP: Final = "gap"
REFERENCE_ASKED: Final = "reference_asked"
REFERENCE_KNOWN: Final = "reference_known"
EXCHANGE: Final = "exchange"


class Heartbeat(NamedTuple):
    """How far one server has got in the partition that this record is in."""

    server: str
    progress_us: int
    clock: Clock | None


class Gap(NamedTuple):
    """What a reader lost with its slot: calls of that time range are suspect."""

    server: str
    from_lsn: str
    to_lsn: str
    from_us: int
    to_us: int
    reason: str


class ReferenceAsked(NamedTuple):
    """Call `asker` names `call_id` in its reference and asks whether anyone knows it."""

    call_id: str
    asker: str


class ReferenceKnown(NamedTuple):
    """The answer to call `call_id`: a request or setup of `referenced` is held."""

    call_id: str
    referenced: str


class Malformed(NamedTuple):
    """A record that could not be read; it becomes a dead letter, whole."""

    reason: str
    server: str
    raw: Any


Record = CallEvent | Heartbeat | Gap | ReferenceAsked | ReferenceKnown | Exchange | Malformed


def clock_message(clock: Clock | None) -> dict[str, Any] | None:
    """The `clock` member of a message."""
    if clock is None:
        return None
    message: dict[str, Any] = {
        "offset_ms": clock.offset_us / 1_000,
        "error_ms": clock.error_us / 1_000,
    }
    if clock.late:
        message["late"] = True
    return message


def event_message(
    server: str, lsn: str, commit_time: str | None, clock: Clock | None, row: Mapping[str, Any]
) -> dict[str, Any]:
    """The message of one row."""
    return {
        "v": VERSION,
        "server": server,
        "lsn": lsn,
        "commit_time": commit_time,
        "clock": clock_message(clock),
        "row": row,
    }


def heartbeat_message(
    server: str, progress_us: int, lsn: str, clock: Clock | None
) -> dict[str, Any]:
    """The message of one heartbeat; the same bytes go to every partition."""
    return {
        "v": VERSION,
        "server": server,
        "progress_us": progress_us,
        "lsn": lsn,
        "clock": clock_message(clock),
    }


def gap_message(gap: Gap) -> dict[str, Any]:
    """The message that says which range of a server's log is missing."""
    return {"v": VERSION, **gap._asdict()}


def reference_message(record: ReferenceAsked | ReferenceKnown) -> dict[str, Any]:
    """The message of a question or an answer between two calls."""
    return {"v": VERSION, **record._asdict()}


def exchange_message(exchange: Exchange) -> dict[str, Any]:
    """The message that tells another partition of an exchange between two servers."""
    return {"v": VERSION, "exchange": list(exchange)}


def read_message(kind: str, message: object) -> Record:
    """The record that a parsed message is; what cannot be read is a `Malformed`, never an error."""
    # The first test is ten times faster than the second, and nearly always the last.
    if type(message) is not dict and not isinstance(message, Mapping):
        return Malformed("message is not an object", "", message)
    server = message.get("server")
    if not isinstance(server, str):
        server = ""
    if message.get("v") != VERSION:
        return Malformed(f"envelope version is unknown: {message.get('v')!r:.40}", server, message)
    reader = _READERS.get(kind)
    if reader is None:
        return Malformed(f"kind is unknown: {kind!r:.40}", server, message)
    if not server and kind in _TOLD_BY_SERVERS:
        return Malformed("server is absent", server, message)
    try:
        return reader(server, message)
    except BadRow as bad:
        return Malformed(str(bad.args[0]), server, message)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        return Malformed(
            f"{kind} cannot be read: {type(error).__name__} {error!s:.80}", server, message
        )


def _read_event(server: str, message: Mapping[str, Any]) -> CallEvent:
    return read_row(intern(server), message["row"], _read_clock(message.get("clock")))


def _read_heartbeat(server: str, message: Mapping[str, Any]) -> Heartbeat:
    return Heartbeat(server, _moment(message["progress_us"]), _read_clock(message.get("clock")))


def _read_asked(_: str, message: Mapping[str, Any]) -> ReferenceAsked:
    return ReferenceAsked(str(message["call_id"]), str(message["asker"]))


def _read_known(_: str, message: Mapping[str, Any]) -> ReferenceKnown:
    return ReferenceKnown(str(message["call_id"]), str(message["referenced"]))


def _read_clock(message: Any) -> Clock | None:
    if message is None:
        return None
    late = bool(message.get("late", False))
    offset_ms, error_ms = message["offset_ms"], message["error_ms"]
    if type(offset_ms) is not float or type(error_ms) is not float:
        return _clock(offset_ms, error_ms, late)
    return read_clock(offset_ms, error_ms, late)


def read_clock(offset_ms: float, error_ms: float, late: bool) -> Clock:
    """The clock that a message tells of, in milliseconds there.

    Raises:
        ValueError: Out of range.
        OverflowError: Infinite.
    """
    # Thousands of rows carry one probe: its clock is made once.
    clock = _CLOCKS.get((offset_ms, error_ms, late))
    if clock is None:
        clock = _clock(offset_ms, error_ms, late)
        if len(_CLOCKS) >= _CLOCKS_MAX:
            _CLOCKS.clear()
        _CLOCKS[offset_ms, error_ms, late] = clock
    return clock


_CLOCKS: Final[dict[tuple[float, float, bool], Clock]] = {}
_CLOCKS_MAX: Final = 1_024


def _clock(offset_ms: Any, error_ms: Any, late: bool) -> Clock:
    return Clock(late, _moment(round(error_ms * 1_000)), _moment(round(offset_ms * 1_000)))


def _moment(value: object) -> int:
    """Microseconds that can be added up and still be written as JSON."""
    if type(value) is not int:
        raise ValueError("a time is not a whole number of microseconds")
    if not -_MOMENT_LIMIT <= value <= _MOMENT_LIMIT:
        raise ValueError("a time is out of range")
    return value


def _read_gap(server: str, message: Mapping[str, Any]) -> Gap:
    return Gap(
        server,
        str(message["from_lsn"]),
        str(message["to_lsn"]),
        _moment(message["from_us"]),
        _moment(message["to_us"]),
        str(message["reason"]),
    )


def _read_exchange(_: str, message: Mapping[str, Any]) -> Exchange:
    a, b, *numbers = message["exchange"]
    return Exchange(str(a), str(b), *(_moment(number) for number in numbers))


_READERS: Final[Mapping[str, Callable[[str, Mapping[str, Any]], Record]]] = {
    EVENT: _read_event,
    HEARTBEAT: _read_heartbeat,
    GAP: _read_gap,
    REFERENCE_ASKED: _read_asked,
    REFERENCE_KNOWN: _read_known,
    EXCHANGE: _read_exchange,
}
_TOLD_BY_SERVERS: Final = frozenset((EVENT, HEARTBEAT, GAP))
