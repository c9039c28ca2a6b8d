"""How far is each server's clock from the reference's?

Owns a measurement of its own, over SQL, and its judgement. The reader's continuous probe is the
service's business; this one looks from the machine that `doctor` runs on.
"""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic, time
from typing import Final

from ops.doctor.checks import Finding, cannot_tell, fail, ok, warn
from ops.doctor.server_facts import connect

PROBES: Final = 8


@dataclass(frozen=True, slots=True)
class Measured:
    """A clock against this process's monotonic one: offset in seconds, half the round trip."""

    offset_seconds: float
    error_seconds: float


def measure(dsn: str) -> Measured:
    """The best of several probes of one server's clock.

    Raises:
        psycopg.Error: The server does not answer.
    """
    best: Measured | None = None
    with connect(dsn) as connection:
        for _ in range(PROBES):
            sent = monotonic()
            row = connection.execute(
                "SELECT extract(epoch FROM clock_timestamp())::float8 AS now"
            ).fetchone()
            received = monotonic()
            assert row is not None
            half = (received - sent) / 2
            if best is None or half < best.error_seconds:
                best = Measured(row["now"] - (sent + half), half)
    assert best is not None
    return best


def own_clock() -> Measured:
    """This machine's clock against the process's monotonic one: no round trip, no error."""
    return Measured(time() - monotonic(), 0.0)


def judge_own(own: Measured, reference: Measured, *, warning_seconds: float) -> list[Finding]:
    """This machine's clock minus the reference's: alerts by `time()` and logs go by it."""
    offset = own.offset_seconds - reference.offset_seconds
    text = f"this machine's clock is {offset:+.3f} s from the reference"
    if abs(offset) - reference.error_seconds > warning_seconds:
        return [
            warn(
                f"{text}: logs and alerts are off by as much",
                f"less than {warning_seconds:g} s",
                "chronyc tracking   here",
            )
        ]
    return [ok(text)]


def judge(
    server: Measured,
    reference: Measured,
    *,
    warning_seconds: float,
    allowed_lateness_seconds: float,
    corrected: bool,
) -> list[Finding]:
    """The server's clock minus the reference's, with the bound of its error.

    Args:
        server: Its clock.
        reference: The reference's, measured from the same process.
        warning_seconds: Offset that is worth a warning.
        allowed_lateness_seconds: What the watermark allows for.
        corrected: Whether CDRs are corrected by the offset.
    """
    offset = server.offset_seconds - reference.offset_seconds
    error = server.error_seconds + reference.error_seconds
    text = f"{offset:+.3f} s +- {error:.3f} s from the reference"
    look = "chronyc tracking   there; do not set the clock by hand during traffic"
    if abs(offset) - error > allowed_lateness_seconds and not corrected:
        needed = f"less than {allowed_lateness_seconds:g} s, or time_correction = 'auto'"
        return [fail(text, needed, look)]
    if error > allowed_lateness_seconds:
        needed = "resolution.allowed_lateness_seconds above the worst clock's error"
        return [warn(f"{text}: no better than the lateness allowed", needed, "a shorter route")]
    if abs(offset) - error > warning_seconds:
        suffix = "; CDRs are corrected by it" if corrected else "; CDRs are NOT corrected"
        return [warn(text + suffix, f"less than {warning_seconds:g} s", look)]
    if abs(offset) + error > warning_seconds:
        return [cannot_tell(text, "the route to that server is too slow to measure it better")]
    return [ok(text)]
