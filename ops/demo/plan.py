"""What the demo plays: clocks that are wrong on purpose, short calls, and limits that fit them.

Owns every number of the demo and the configuration file made of them. Refuses to start anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from ops.simulation.scenarios import MIXES
from ops.simulation.script import US, Timing
from ops.simulation.servers import ClockSpec, ServerSpec
from ops.simulation.traffic import TrafficSpec
from ops.simulation.truth import CallTruth, Expect

PARTITIONS: Final = 6
REFERENCE: Final = "a"  # also holds the CDRs
READER_ROLE: Final = "cdr_reader"
WRITER_ROLE: Final = "cdr_writer"
TOLERANCE_MS: Final = 50.0  # of every time in a CDR: what the clock probes may be off by
CLOCK_CHECK_MS: Final = 20.0  # how well a server's clock must follow what was set
MAX_RINGING_SECONDS: Final = 8.0
FAILED_WAIT_SECONDS: Final = 6.0
MAX_CALL_SECONDS: Final = 28.0
LATENESS_SECONDS: Final = 2.0
TRAFFIC_SECONDS: Final = 20.0
CALLS_A_SECOND_MAX: Final = 15.0
PROBE_SECONDS: Final = 2.0

# More calls than usual have their ends seen by another server than their answers: there it is that
# clocks matter.
MIX: Final = {
    **MIXES["usual"],
    "bye_other": 110.0,
    "spread_classic": 90.0,
    "two_hop": 150.0,
}

# Talk is short and every limit is passed within a minute, so that nobody waits for the verdict.
TIMING: Final = Timing(
    ring=(0.1, 3.0),
    talk_mean=4.0,
    talk_max=9.0,
    abandon=(0.4, 4.0),
    no_answer=(4.0, 5.0),
    retry_gap=(0.3, 3.0),
    late_ring=(MAX_RINGING_SECONDS + 1, MAX_RINGING_SECONDS + 4),
    slow_transfer=(3.0, 8.0),
)


@dataclass(frozen=True, slots=True)
class WrongClock:
    """A clock as libfaketime sets it: an offset when the server starts, and a rate from then on."""

    offset_seconds: float = 0.0
    rate: float = 1.0

    @property
    def faketime(self) -> str | None:
        """Value of FAKETIME, None for a clock that is right."""
        if not self.offset_seconds and self.rate == 1.0:
            return None
        return f"{self.offset_seconds:+}s" + (f" x{self.rate}" if self.rate != 1.0 else "")

    @property
    def described(self) -> str:
        """For people."""
        if self.faketime is None:
            return "right"
        drift = f", {(self.rate - 1) * 1e6:+.0f} ppm" if self.rate != 1.0 else ""
        return f"{self.offset_seconds:+.1f} s{drift}"

    def since(self, started_us: int, epoch_us: int) -> ClockSpec:
        """The same clock, told from another moment on."""
        drift_ppm = (self.rate - 1) * 1e6
        gained_ms = drift_ppm * (epoch_us - started_us) / US / 1_000
        return ClockSpec(self.offset_seconds * 1_000 + gained_ms, drift_ppm)


CLOCKS: Final[Mapping[str, WrongClock]] = {
    "a": WrongClock(),
    "b": WrongClock(-5.5),
    "c": WrongClock(0.7, 1.00005),
}


def traffic_spec(
    calls: int, seed: int, start_us: int, started_us: Mapping[str, int]
) -> TrafficSpec:
    """The demo's traffic, beginning at a wall time; `started_us` is when each clock was set."""
    servers = tuple(
        ServerSpec(name, f"proxy-{name}.example.com:5060", clock.since(started_us[name], start_us))
        for name, clock in CLOCKS.items()
    )
    return TrafficSpec(
        seed=seed,
        calls=calls,
        within_seconds=max(TRAFFIC_SECONDS, calls / CALLS_A_SECOND_MAX),
        start_us=start_us,
        servers=servers,
        mix=",".join(f"{name}={share}" for name, share in MIX.items()),
        timing=TIMING,
        jitter_ms=0.0,  # the truth is exact: event_time is when the message passes
        redeliver=0.0,  # a killed reader sees to that
        retransmit=0.05,
        every_scenario=calls >= 100,
    )


def final_us(truth: CallTruth) -> int:
    """Reference time from which on a call's CDR can no longer change, the limits considered."""
    cdr = truth.cdr
    wait = 0.0
    if truth.expect is Expect.CDR and cdr is not None:
        if cdr.termination in ("F", "A"):
            wait = max(FAILED_WAIT_SECONDS, MAX_RINGING_SECONDS)
        elif cdr.end_us is None:
            wait = MAX_CALL_SECONDS
    elif truth.expect is not Expect.HIDDEN:
        wait = MAX_RINGING_SECONDS
    return truth.last_us + round((wait + 1.0) * US)


def config_text(
    bootstrap: str,
    dsns: Mapping[str, str],
    sink_dsn: str,
    *,
    kafka: Mapping[str, str] | None = None,
    reference_dsn: str = "",
    more: Sequence[str] = (),
) -> str:
    """A configuration file of the demo.

    Args:
        bootstrap: The broker.
        dsns: Of the servers that its reader is to know.
        sink_dsn: Of the database of the CDRs; empty for who does not know it.
        kafka: Properties of librdkafka to get in.
        reference_dsn: Whose clock is right, where `sink_dsn` does not tell.
        more: Further lines.
    """
    lines = ["# made by cdrstream demo", "[kafka]"]
    lines += [f"bootstrap_servers = {json.dumps(bootstrap)}", f"partitions = {PARTITIONS}"]
    lines += [f"{k.replace('.', '_')} = {json.dumps(v)}" for k, v in (kafka or {}).items()]
    for name, dsn in dsns.items():
        lines += ["", "[[servers]]", f'name = "{name}"', f"dsn = {json.dumps(dsn)}"]
    if sink_dsn:
        lines += ["", "[sink]", f"dsn = {json.dumps(sink_dsn)}"]
    lines += ["", "[clock]", f"probe_interval_seconds = {PROBE_SECONDS}"]
    if reference_dsn:
        lines += [f"reference_dsn = {json.dumps(reference_dsn)}"]
    lines += ["", *limits_lines(), f"servers = {json.dumps(list(CLOCKS))}", "", *more]
    return "\n".join(lines) + "\n"


def limits_lines() -> list[str]:
    """The rules' limits that fit the traffic, as a section of a configuration file."""
    return [
        "[resolution]",
        f"allowed_lateness_seconds = {LATENESS_SECONDS}",
        f"max_ringing_seconds = {MAX_RINGING_SECONDS}",
        f"failed_wait_seconds = {FAILED_WAIT_SECONDS}",
        f"max_call_seconds = {MAX_CALL_SECONDS}",
    ]
