"""The settings that decide what a CDR says; a replay with the same settings gives the same CDRs.

Owns the names, defaults and limits of the rules' settings. Refuses to know where they come from
(file, environment, flags): that is `ops.config`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

US_PER_SECOND = 1_000_000


class TimeCorrection(StrEnum):
    """Whether the times in `cdrs` are corrected by the servers' clock offsets."""

    AUTO = "auto"  # only where an offset exceeds its own error bound
    OFF = "off"


@dataclass(frozen=True, slots=True)
class ResolutionConfig:
    """Limits in seconds of event time, measured against the watermark; a timer <= 0 is off.

    Attributes:
        servers: Names that the watermark waits for from the start; others join when first heard.
        reference: Server whose clock is the timescale of the CDRs, if it is one of `servers`.
        allowed_lateness_seconds: How far the watermark stays behind the slowest server.
        idle_after_seconds: A server whose frontier stands still while the others' heartbeats
            advance by this much is set aside; None means never.
        max_ringing_seconds: An unanswered call rings no longer than this.
        max_call_seconds: A call without an end is closed as unknown after this.
        failed_wait_seconds: How long a failure waits for another try of the same call.
        grace_seconds: Least advance of the watermark after a call's last arrival.
        late_horizon_seconds: How long a closed call stays in the state for late events.
        reference_horizon_seconds: How long a call of which only its name is known is kept, because
            others name it.
        call_events_max: Bound on the distinct events kept of one call.
        skew_warning_seconds: Offset beyond which a server's clock is reported.
    """

    servers: tuple[str, ...] = ()
    reference: str | None = None
    allowed_lateness_seconds: float = 5.0
    idle_after_seconds: float | None = 60.0
    max_ringing_seconds: float = 120.0
    max_call_seconds: float = 28_800.0
    failed_wait_seconds: float = 180.0
    grace_seconds: float = 0.5
    late_horizon_seconds: float = 7_200.0
    reference_horizon_seconds: float = 604_800.0
    call_events_max: int = 20_000
    skew_warning_seconds: float = 0.5
    time_correction: TimeCorrection = TimeCorrection.AUTO


def to_us(seconds: float) -> int:
    """Seconds as whole microseconds, the unit of every time inside `callstate`."""
    return round(seconds * US_PER_SECOND)
