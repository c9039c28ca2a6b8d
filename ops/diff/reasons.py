"""Why a call's two versions differ, as far as our provenance tells it.

Owns the reading of reasons out of a provenance (`callstate.cdr.Provenance.to_json`, or the row of
`cdr_provenance`). What the old side did nobody has written down: a reason says what there is in the
call that could have led it astray, never that it did.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from ops.diff.classify import Difference, Kind

UNEXPLAINED: Final = "nothing in the provenance tells why"
UNKNOWN_CALL: Final = "we have seen no event of this call"
NOT_YET: Final = "not final here yet: the watermark is before its end"
REUSED: Final = "the Call-ID was used again: each use has a record here"
CLOCK: Final = "a clock was corrected"
ORDER: Final = "CSeq and the SIP lifecycle order its events against the clocks"
SPREAD: Final = "its events are spread over several servers"
LATE: Final = "events came late, and made a new revision"
LEGS: Final = "several legs were answered; another one wins"
INCOMPLETE: Final = "some of its events were lost"
SUSPECT: Final = "a gap in a server's log may have taken some of its events"
_ROUNDING_US: Final = 1_000  # proxies write whole milliseconds


def reasons(
    difference: Difference,
    provenance: Mapping[str, Any] | None,
    *,
    watermark_us: int | None = None,
) -> tuple[str, ...]:
    """What may be behind a difference, the likeliest first; empty for a call that is the same.

    Args:
        difference: The call compared.
        provenance: Ours of this call, None where there is none.
        watermark_us: Event time up to which our side is complete, None where that is unknown or
            all of it is.
    """
    if difference.same:
        return ()
    found = tuple(dict.fromkeys(_found(difference, provenance, watermark_us)))
    return found or (UNEXPLAINED,)


def _found(
    difference: Difference, provenance: Mapping[str, Any] | None, watermark_us: int | None
) -> Iterator[str]:
    kinds = difference.kinds
    if Kind.ONLY_OLD in kinds:
        hidden = (provenance or {}).get("hidden_reason")
        if hidden:
            yield f"hidden here: {hidden}"
        times = difference.times_us
        if provenance is None and watermark_us is not None and times and times[1] >= watermark_us:
            yield NOT_YET
        elif provenance is None:
            yield UNKNOWN_CALL
        return
    if provenance is None:
        return
    if ";from-tag=" in difference.call_id or (provenance.get("basis") or {}).get("uses"):
        yield REUSED
    if Kind.TIMES in kinds:
        yield from _of_times(difference, provenance)
    yield from _of_any(provenance)


def _of_times(difference: Difference, provenance: Mapping[str, Any]) -> Iterator[str]:
    """A clock that was moved is the reason where no time differs by more than its offset."""
    moved_us = [
        abs(offset["offset_us"])
        for offset in provenance.get("offsets") or ()
        if offset.get("applied")
    ]
    if difference.largest_shift_us <= max(moved_us, default=-1) + _ROUNDING_US:
        yield CLOCK


def _of_any(provenance: Mapping[str, Any]) -> Iterator[str]:
    if provenance.get("missing"):
        yield INCOMPLETE
    if len(provenance.get("legs") or ()) > 1:
        yield LEGS
    if provenance.get("late_events"):
        yield LATE
    if provenance.get("inversions"):
        yield ORDER
    if provenance.get("suspect"):
        yield SUSPECT
    if any(offset.get("applied") for offset in provenance.get("offsets") or ()):
        yield CLOCK
    if len(provenance.get("servers") or ()) > 1:
        yield SPREAD
