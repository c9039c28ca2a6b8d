"""Traffic: calls that overlap, on servers with clocks of their own, as rows in commit order.

Owns when calls start and which scenario each plays; puts scenarios, servers and truth together. A
function of the spec: the same spec gives the same rows and truth, on any machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from callstate.events import format_time, parse_time_us
from ops.simulation.scenarios import SCENARIOS, read_mix
from ops.simulation.script import US, CallScript, Timing, World
from ops.simulation.servers import Observer, RowWrite, ServerSpec, installation
from ops.simulation.truth import CallTruth


@dataclass(frozen=True, slots=True)
class TrafficSpec:
    """What traffic to make.

    Attributes:
        seed: Decides everything that the rest leaves open.
        calls: How many calls start by themselves; transfers and chains add more.
        rate: Calls started a second, on average; with `within_seconds` this is ignored.
        within_seconds: All calls start within this time, evenly spread at random.
        start_us: True time of the beginning.
        mix: A name of `scenarios.MIXES` or `scenario=share,...`.
        jitter_ms: Mean of what a proxy takes to notice a message.
        redeliver: Share of rows that come a second time.
        retransmit: Share of BYE and REFER that are sent again half a second later.
        every_scenario: Each scenario of the mix is played at least once.
    """

    seed: int = 1
    calls: int = 400
    rate: float = 2.0
    within_seconds: float | None = None
    start_us: int = parse_time_us("2024-03-04T09:00:00Z")
    servers: tuple[ServerSpec, ...] = field(default_factory=lambda: installation(3))
    mix: str = "usual"
    timing: Timing = field(default_factory=Timing)
    jitter_ms: float = 2.0
    redeliver: float = 0.01
    retransmit: float = 0.01
    every_scenario: bool = False

    def described(self) -> dict[str, Any]:
        """JSON-able, for `meta.json`."""
        return {
            "seed": self.seed,
            "calls": self.calls,
            "servers": len(self.servers),
            "rate": self.rate,
            "within_seconds": self.within_seconds,
            "start": format_time(self.start_us),
            "mix": self.mix,
            "jitter_ms": self.jitter_ms,
            "redeliver": self.redeliver,
            "retransmit": self.retransmit,
            "talk_mean": self.timing.talk_mean,
        }


@dataclass(frozen=True, slots=True)
class Traffic:
    """The whole of it.

    Attributes:
        writes: Rows in the order of their commits over all servers, redeliveries among them.
        truths: What should come out, in the order of the calls' starts.
        observers: The servers as they ended up, in the order of the spec.
    """

    spec: TrafficSpec
    writes: tuple[RowWrite, ...]
    truths: tuple[CallTruth, ...]
    observers: tuple[Observer, ...]

    def reference_us(self, true_us: int) -> int:
        """A true time as the reference, server 0, tells it."""
        return self.observers[0].reading_us(true_us)

    def truth_lines(self) -> Iterator[dict[str, Any]]:
        """The lines of `truth.jsonl`."""
        for truth in self.truths:
            yield truth.line(self.reference_us)

    @property
    def last_us(self) -> int:
        """True time of the last row's message."""
        return max((write.message_us for write in self.writes), default=self.spec.start_us)


def generate(spec: TrafficSpec) -> Traffic:
    """Plays the calls and writes the rows.

    Raises:
        ValueError: For an unknown mix or an installation without servers.
    """
    if not spec.servers:
        raise ValueError("traffic needs at least one server")
    calls = [call for number, at in enumerate(_starts(spec)) for call in _play(spec, number, at)]
    observers = tuple(
        Observer(
            server,
            spec.start_us,
            _chance(f"{spec.seed}:server:{server.name}"),
            jitter_ms=spec.jitter_ms,
        )
        for server in spec.servers
    )
    seen = [
        (observation.at_us, observation.server, number, observation.columns)
        for number, call in enumerate(calls)
        for observation in call.observations
    ]
    seen.sort(key=lambda item: item[:3])
    writes = [observers[server].write(at, columns, server) for at, server, _, columns in seen]
    writes.extend(list(_redelivered(spec, writes)))
    writes.sort(key=lambda write: (write.commit_us, write.server, write.row["id"]))
    truths = sorted((_truth(spec, call) for call in calls), key=lambda t: (t.last_us, t.call_id))
    return Traffic(spec, tuple(writes), tuple(truths), observers)


def _starts(spec: TrafficSpec) -> list[int]:
    rng = _chance(f"{spec.seed}:starts")
    if spec.within_seconds is not None:
        span = spec.within_seconds
        return sorted(spec.start_us + round(rng.uniform(0, span) * US) for _ in range(spec.calls))
    gaps = (rng.expovariate(spec.rate) for _ in range(spec.calls))
    return [spec.start_us + round(at * US) for at in accumulate(gaps)]


def _play(spec: TrafficSpec, number: int, at: int) -> list[CallScript]:
    """The calls that begin with call `number`; chance is its own, whatever the others draw."""
    rng = _chance(f"{spec.seed}:call:{number}")
    mix = read_mix(spec.mix)
    names = list(mix)
    if spec.every_scenario and number < len(names):
        name = names[number]
    else:
        name = rng.choices(names, list(mix.values()))[0]
    world = World(rng, spec.timing, len(spec.servers), spec.retransmit)
    return SCENARIOS[name](world, at)


def _redelivered(spec: TrafficSpec, writes: list[RowWrite]) -> Iterator[RowWrite]:
    rng = _chance(f"{spec.seed}:redelivery")
    for write in writes:
        if rng.random() < spec.redeliver:
            later = write.commit_us + round(rng.uniform(0, 3) * US)
            yield replace(write, commit_us=later, again=True)


def _truth(spec: TrafficSpec, call: CallScript) -> CallTruth:
    assert call.truth is not None, f"scenario {call.scenario} states no truth"
    servers = sorted({observation.server for observation in call.observations})
    return replace(
        call.truth,
        observers=tuple(spec.servers[server].observer for server in servers),
        last_us=max(observation.at_us for observation in call.observations),
        events=len(call.observations),
    )


def _chance(name: str) -> random.Random:
    return random.Random(name)  # noqa: S311 - reproducible, not secret
