"""What comes out: the call detail record, and the reasons behind it.

Owns the columns of table `cdrs` and the provenance that belongs to each record. Refuses to know how
they are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from callstate.events import format_time

COMPLETED: Final = "C"
TRANSFERRED: Final = "T"
ABANDONED: Final = "A"
FAILED: Final = "F"
UNKNOWN: Final = "U"

TIME_COLUMNS: Final = ("start_time", "connect_time", "end_time")


class Cdr(NamedTuple):
    """One row of table `cdrs`, without its `id`. Times are microseconds since 1970 UTC.

    Guarantees: `start_time_us <= connect_time_us <= end_time_us` among those that are known.
    """

    call_id: str
    from_tag: str
    to_tag: str
    caller_aor: str
    callee_aor: str
    start_time_us: int
    connect_time_us: int | None
    end_time_us: int | None
    termination: str
    failure_status: int | None
    failure_reason: str | None
    reference: str | None
    caller_contact: str | None
    callee_contact: str | None
    caller_internal: bool | None
    callee_route: str | None

    def columns(self) -> dict[str, Any]:
        """Column name to value in the table's order, times as ISO 8601 text in UTC."""
        connect, end = self.connect_time_us, self.end_time_us
        return {
            "call_id": self.call_id,
            "from_tag": self.from_tag,
            "to_tag": self.to_tag,
            "caller_aor": self.caller_aor,
            "callee_aor": self.callee_aor,
            "start_time": format_time(self.start_time_us),
            "connect_time": None if connect is None else format_time(connect),
            "end_time": None if end is None else format_time(end),
            "termination": self.termination,
            "failure_status": self.failure_status,
            "failure_reason": self.failure_reason,
            "call_direction": None,
            "reference": self.reference,
            "caller_contact": self.caller_contact,
            "callee_contact": self.callee_contact,
            "caller_internal": self.caller_internal,
            "callee_route": self.callee_route,
        }


class AppliedOffset(NamedTuple):
    """By how much one server's times were corrected in one call, and who says so."""

    server: str
    offset_us: int
    error_us: int | None
    source: str  # "probe", "traffic" or "none"
    applied: bool


class Provenance(NamedTuple):
    """Why a CDR says what it says; JSON-able by `to_json`.

    Attributes:
        revision: Counts the distinct events (and answered references) behind the record.
        events: The distinct events in resolved order, each as a JSON-able object with the row's
            columns that are not empty, `server`, `raw_time`, `time` (corrected).
        offsets: What was done to each server's times.
        missing: Of "start", "setup", "end": what no event told.
        rule: Which rule closed the call, in words.
        legs: The dialogs, the winner first, each with the reason why it lost.
        inversions: Pairs of indices into `events` that the order turned against the clocks.
        watermark_us: Event time up to which the partition was complete; None at the end of input.
        suspect: True where a gap may have swallowed events of this call.
        changed: Column to [old, new] of what this revision changed; empty in the first.
        basis: What else the revision counts, for `recall`: calls that it names and that are known,
            gaps, clocks taken back, names of later uses; what there is none of is left out.
    """

    call_id: str
    revision: int
    events: tuple[dict[str, Any], ...]
    servers: tuple[str, ...]
    offsets: tuple[AppliedOffset, ...]
    missing: tuple[str, ...]
    rule: str
    legs: tuple[dict[str, Any], ...] = ()
    inversions: tuple[tuple[int, int], ...] = ()
    watermark_us: int | None = None
    late_events: int = 0
    events_dropped: int = 0
    suspect: bool = False
    changed: Mapping[str, list[Any]] = MappingProxyType({})
    notes: tuple[str, ...] = ()
    basis: Mapping[str, Any] = MappingProxyType({})

    def offsets_json(self) -> list[dict[str, Any]]:
        """The offsets, JSON-able; spelt out, for this is done for every call."""
        return [
            {
                "server": server,
                "offset_us": offset_us,
                "error_us": error_us,
                "source": source,
                "applied": applied,
            }
            for server, offset_us, error_us, source, applied in self.offsets
        ]

    def to_json(self) -> dict[str, Any]:
        """A JSON-able object; times as ISO 8601 text."""
        watermark = self.watermark_us
        return {
            "call_id": self.call_id,
            "revision": self.revision,
            "rule": self.rule,
            "missing": list(self.missing),
            "suspect": self.suspect,
            "servers": list(self.servers),
            "offsets": self.offsets_json(),
            "legs": list(self.legs),
            "inversions": [list(pair) for pair in self.inversions],
            "late_events": self.late_events,
            "events_dropped": self.events_dropped,
            "watermark": None if watermark is None else format_time(watermark),
            "changed": dict(self.changed),
            "notes": list(self.notes),
            "basis": dict(self.basis),
            "events": list(self.events),
        }
