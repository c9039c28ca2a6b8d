"""The command `simulate`: its options, checked and turned into a specification of traffic.

Owns what is said of a wrong option. Refuses to know how traffic is made.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from callstate.events import BadRow, parse_time_us
from ops.errors import UsageError
from ops.simulation.folder import simulate
from ops.simulation.scenarios import read_mix
from ops.simulation.script import Timing
from ops.simulation.servers import installation
from ops.simulation.traffic import TrafficSpec

ABSENT_FORMS = ("empty", "null", "mixed")


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """Options of `cdrstream simulate`, named as on the command line.

    Attributes:
        seed: Decides everything that the rest leaves open.
        calls: How many calls start by themselves.
        servers: How many servers; server 0 is the reference.
        rate: Calls started a second.
        start: True time of the beginning, ISO 8601.
        skew_ms: How far the other servers' clocks may be off.
        drift_ppm: How fast they may drift.
        step_ms: By how much the last server's clock is set, once.
        step_at: When, in seconds after the beginning.
        jitter_ms: Mean of what a proxy takes to notice a message.
        absent: `empty` ('' and 0), `null`, or `mixed` (server by server).
        redeliver: Share of rows that come twice.
        retransmit: Share of BYE and REFER that are sent twice.
        mix: `usual`, `even`, `crossing`, `plain`, or `scenario=share,...`.
        talk_mean: Mean seconds of talk.
    """

    seed: int = 1
    calls: int = 400
    servers: int = 3
    rate: float = 2.0
    start: str = "2024-03-04T09:00:00Z"
    skew_ms: float = 0.0
    drift_ppm: float = 0.0
    step_ms: float = 0.0
    step_at: float = 60.0
    jitter_ms: float = 2.0
    absent: str = "empty"
    redeliver: float = 0.01
    retransmit: float = 0.01
    mix: str = "usual"
    talk_mean: float = 90.0

    def spec(self) -> TrafficSpec:
        """The traffic that they ask for.

        Raises:
            UsageError: A value that cannot be; with its name, itself and what is allowed.
        """
        self._check()
        return TrafficSpec(
            seed=self.seed,
            calls=self.calls,
            rate=self.rate,
            start_us=parse_time_us(self.start),
            servers=installation(
                self.servers,
                skew_ms=self.skew_ms,
                drift_ppm=self.drift_ppm,
                step_ms=self.step_ms,
                step_at_seconds=self.step_at,
                absent=self.absent,
                seed=self.seed,
            ),
            mix=self.mix,
            timing=Timing(talk_mean=self.talk_mean),
            jitter_ms=self.jitter_ms,
            redeliver=self.redeliver,
            retransmit=self.retransmit,
        )

    def _check(self) -> None:
        for name, least, most in (
            ("calls", 1, 10_000_000),
            ("servers", 1, 1_000),
            ("rate", 0.001, 100_000),
            ("jitter_ms", 0, 60_000),
            ("redeliver", 0, 1),
            ("retransmit", 0, 1),
            ("talk_mean", 1, 86_400),
            ("drift_ppm", 0, 100_000),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(
                    f"--{name.replace('_', '-')} {value}: must be from {least} to {most}"
                )
        if self.absent not in ABSENT_FORMS:
            raise UsageError(f"--absent {self.absent}: must be one of {', '.join(ABSENT_FORMS)}")
        try:
            parse_time_us(self.start)
            read_mix(self.mix)
        except BadRow as error:
            raise UsageError(f"--start {self.start}: must be a time as ISO 8601") from error
        except ValueError as error:
            raise UsageError(f"--mix {self.mix}: {error}") from error


def run(out: Path, options: SimulateOptions) -> None:
    """Writes traffic and its truth into a folder, and says what is in it.

    Raises:
        UsageError: See `SimulateOptions.spec`.
    """
    meta = simulate(out, options.spec())
    sys.stderr.write(
        f"{meta['calls']} calls, {meta['events']} events on {options.servers} servers: {out}\n"
        f"resolve them:  cdrstream resolve {out} --reference 0\n"
    )
