"""What the operator reads of a partition's clocks and sources, as they change.

Owns the words. Refuses to tell anything of single calls above debug level: no addresses, no values.
"""

from __future__ import annotations

import logging

from callstate.effects import (
    ClocksDisagree,
    ClockStepped,
    Effect,
    RecordLate,
    SkewObserved,
    SourceChanged,
)
from callstate.events import format_time

log = logging.getLogger(__name__)


def log_effect(effect: Effect, partition: int) -> None:
    """Logs an effect that has no other consequence."""
    if isinstance(effect, SkewObserved):
        log.warning(
            "clock_off" if effect.off else "clock_right_again",
            extra={
                "partition": partition,
                "server": effect.server,
                "offset_ms": effect.offset_us / 1_000,
                "error_ms": effect.error_us / 1_000,
                "measured_by": effect.source,
            },
        )
    elif isinstance(effect, ClockStepped):
        log.warning(
            "clock_was_set",
            extra={
                "partition": partition,
                "server": effect.server,
                "at": format_time(effect.at_us),
                "jump_ms": effect.jump_us / 1_000,
                "measured_by": effect.source,
            },
        )
    elif isinstance(effect, ClocksDisagree):
        log.warning(
            "clock_measurements_disagree",
            extra={
                "partition": partition,
                "server": effect.server,
                "probe_ms": effect.probe_us / 1_000,
                "traffic_ms": effect.traffic_us / 1_000,
            },
        )
    elif isinstance(effect, SourceChanged):
        log.warning(
            "source_" + effect.state, extra={"partition": partition, "server": effect.server}
        )
    elif isinstance(effect, RecordLate):
        log.debug(
            "event_late",
            extra={"partition": partition, "server": effect.server, "call_id": effect.call_id},
        )
