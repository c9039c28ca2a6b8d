"""A seeded world in virtual time: servers, readers, links and workers, and what befalls them.

Owns which faults a seed brings and what tolerance the truth then has. A function of its seed: the
same seed gives the same history, byte for byte. Refuses to run production code (`world_cluster`)
and to judge (`world_check`).
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from callstate.config import ResolutionConfig
from callstate.envelope import HEARTBEAT, heartbeat_message
from callstate.events import Clock, parse_time_us
from ops.simulation.servers import Absent, ClockSpec, RowWrite, ServerSpec
from ops.simulation.traffic import Traffic, TrafficSpec, generate
from ops.simulation.world_history import Append, Fate, History, Step, Work
from ops.simulation.world_readers import US, Arrival, Reader, ReaderSpec

_EPOCH_US = parse_time_us("2024-03-04T09:00:00Z")
_JITTER_MS = 0.5
_TOLERANCE_MS = 25.0
_OFFSETS_MS = (0.0, 0.0, 40.0, -700.0, 700.0, 5_000.0, -5_500.0)
_FATES = (
    Fate.FED,
    Fate.WRITTEN,
    Fate.ASKED,
    Fate.HALF_LOGGED,
    Fate.LOGGED,
    Fate.MOVED,
    Fate.ZOMBIE,
)
_AFTER_THE_LAST_US = (60 * US, 9 * 3_600 * US, 9 * 3_600 * US + 60 * US, 10 * 3_600 * US)


@dataclass(frozen=True, slots=True)
class WorldSpec:
    """What a seed has drawn.

    Attributes:
        calls_per_second: Rate of calls that start by themselves.
        work_us: Mean time between two batches of one partition.
        fate_share: Share of batches that do not end as they should.
        batch_max: Most records of a batch.
    """

    seed: int
    servers: tuple[ServerSpec, ...]
    readers: tuple[ReaderSpec, ...]
    calls: int
    calls_per_second: float
    mix: str
    partitions: int
    work_us: int
    fate_share: float
    batch_max: int
    probed: bool


def history(seed: int) -> History:
    """The history that a seed stands for."""
    rng = _chance(f"{seed}:world")
    spec = draw(seed, rng)
    traffic = generate(
        TrafficSpec(
            seed=seed,
            calls=spec.calls,
            rate=spec.calls_per_second,
            start_us=_EPOCH_US,
            servers=spec.servers,
            mix=spec.mix,
            jitter_ms=_JITTER_MS,
            redeliver=0.0,  # readers redeliver
            retransmit=0.02,
        )
    )
    return history_of(spec, traffic, rng)


def history_of(spec: WorldSpec, traffic: Traffic, rng: random.Random) -> History:
    """The history of this traffic in that world; `rng` decides when workers work and die."""
    readers = _readers(spec, traffic)
    busy_until = traffic.last_us + 30 * US
    end = max([busy_until, *(back for r in spec.readers for _, back in (*r.stalls, *r.crashes))])
    arrivals = [arrival for reader in readers for arrival in reader.run(end + 60 * US)]
    arrivals.sort(key=lambda arrival: (arrival.at_us, arrival.partition))
    steps = [*_steps(spec, arrivals, rng), *_the_end(spec, end)]
    tolerances, timeless = _tolerances(spec, readers, traffic)
    return History(
        _rules(spec),
        spec.partitions,
        tuple(steps),
        tuple(traffic.truth_lines()),
        tolerances,
        timeless,
        {"seed": spec.seed, "world": _described(spec)},
    )


def _rules(spec: WorldSpec) -> ResolutionConfig:
    """The defaults, but for how long a call is kept: a server may be away for an hour."""
    names = tuple(server.name for server in spec.servers)
    return ResolutionConfig(servers=names, reference="0", late_horizon_seconds=3 * 3_600.0)


def draw(seed: int, rng: random.Random) -> WorldSpec:
    """What befalls this world."""
    count = rng.randrange(2, 6)
    calls, rate = rng.randrange(30, 90), rng.choice((0.1, 0.5, 2.0))
    span_us = round(calls / rate * US) + 120 * US
    probed = rng.random() < 0.75
    servers, readers = [], []
    away = rng.randrange(count) if rng.random() < 0.25 else None
    for number in range(count):
        clock = _clock(rng, span_us, probed=probed) if number else ClockSpec()
        observer = f"proxy{number + 1}.example.com:5060"
        name = str(number)
        servers.append(ServerSpec(name, observer, clock, rng.choice(tuple(Absent))))
        readers.append(
            ReaderSpec(
                name,
                clock,
                stalls=_stalls(rng, span_us, away=number == away),
                crashes=_spans(rng, span_us, (1, 20)) if rng.random() < 0.4 else (),
                probe_error_us=rng.choice((300, 1_000, 3_000)) if probed else None,
                latency_us=rng.choice((5_000, 50_000, 3_000_000)),
            )
        )
    return WorldSpec(
        seed,
        tuple(servers),
        tuple(readers),
        calls,
        rate,
        rng.choice(("usual", "usual", "even", "crossing")),
        rng.choice((1, 2, 3, 4)),
        rng.choice((1, 5, 20)) * US,
        rng.choice((0.0, 0.05, 0.3)),
        rng.choice((3, 50, 2_000)),
        probed,
    )


def _clock(rng: random.Random, span_us: int, *, probed: bool) -> ClockSpec:
    offset = rng.choice(_OFFSETS_MS)
    drift = round(rng.uniform(-40, 40), 1)
    if not probed:
        # The traffic needs a while to know a clock; until then nobody can tell the times.
        return ClockSpec(offset, drift)
    steps: tuple[tuple[float, float], ...] = ()
    if rng.random() < 0.3:
        at = rng.uniform(0.2, 0.8) * span_us / US
        steps = ((at, rng.choice((-1_500.0, 1_500.0, 30_000.0))),)
    return ClockSpec(offset, drift, steps)


def _spans(
    rng: random.Random, span_us: int, seconds: tuple[float, float]
) -> tuple[tuple[int, int], ...]:
    spans = []
    for _ in range(rng.randrange(1, 4)):
        at = _EPOCH_US + rng.randrange(span_us)
        spans.append((at, at + round(rng.uniform(*seconds) * US)))
    return tuple(spans)


def _stalls(rng: random.Random, span_us: int, *, away: bool) -> tuple[tuple[int, int], ...]:
    stalls = _spans(rng, span_us, (1, 90)) if rng.random() < 0.5 else ()
    if away:
        at = _EPOCH_US + rng.randrange(span_us)
        stalls += ((at, at + round(rng.uniform(600, 3_600) * US)),)
    return stalls


def _readers(spec: WorldSpec, traffic: Traffic) -> list[Reader]:
    writes: defaultdict[int, list[RowWrite]] = defaultdict(list)
    for write in traffic.writes:
        writes[write.server].append(write)
    return [
        Reader(
            reader,
            _EPOCH_US,
            writes[number],
            spec.partitions,
            _chance(f"{spec.seed}:reader:{reader.name}"),
            traffic.last_us + 30 * US,
        )
        for number, reader in enumerate(spec.readers)
    ]


def _steps(spec: WorldSpec, arrivals: Sequence[Arrival], rng: random.Random) -> Iterator[Step]:
    """Arrivals, and between them batches of workers, some of which are killed."""
    due = [(_EPOCH_US + rng.randrange(1, 2 * spec.work_us), p) for p in range(spec.partitions)]
    waiting: list[Arrival] = []
    for arrival in arrivals:
        while min(due)[0] <= arrival.at_us:
            at, partition = min(due)
            due.remove((at, partition))
            due.append((at + rng.randrange(1, 2 * spec.work_us), partition))
            yield from _appended(waiting)
            waiting = []
            fate = Fate.DONE
            if rng.random() < spec.fate_share:
                fate = rng.choice(_FATES)
            yield Work(partition, rng.randrange(1, spec.batch_max + 1), fate)
        waiting.append(arrival)
    yield from _appended(waiting)


def _appended(arrivals: list[Arrival]) -> Iterator[Append]:
    by_partition = sorted(arrivals, key=lambda arrival: arrival.partition)
    for partition, group in groupby(by_partition, key=lambda arrival: arrival.partition):
        yield Append(partition, tuple((one.kind, one.message) for one in group))


def _the_end(spec: WorldSpec, end_us: int) -> Iterator[Step]:
    """All servers go on until every limit has passed and every late revision is due."""
    for later in _AFTER_THE_LAST_US:
        now = end_us + later
        beats = []
        for reader in spec.readers:
            offset = reader.clock.offset_us(now - _EPOCH_US)
            error = reader.probe_error_us
            clock = None if error is None else Clock(False, error, offset)
            beats.append((HEARTBEAT, heartbeat_message(reader.name, now + offset, "0/0", clock)))
        for partition in range(spec.partitions):
            yield Append(partition, tuple(beats))
        # what one partition asks of another arrives before the next round
        for _ in range(2):
            for partition in range(spec.partitions):
                yield Work(partition, 1_000_000)


def _tolerances(
    spec: WorldSpec, readers: Sequence[Reader], traffic: Traffic
) -> tuple[dict[str, float], frozenset[str]]:
    """By call, how far its times may be off: as far as the probes of its rows were."""
    off: defaultdict[str, float] = defaultdict(lambda: _TOLERANCE_MS)
    for reader in readers:
        for call_id, off_us in reader.stamps:
            off[call_id] = max(off[call_id], _TOLERANCE_MS + abs(off_us) / 1_000)
    skewed = any(server.clock.offset_ms or server.clock.drift_ppm for server in spec.servers)
    if spec.probed or not skewed:
        return {call_id: ms for call_id, ms in off.items() if ms > _TOLERANCE_MS + 5}, frozenset()
    return {}, frozenset(truth.call_id for truth in traffic.truths)


def _described(spec: WorldSpec) -> dict[str, object]:
    told: dict[str, object] = {
        name: getattr(spec, name)
        for name in ("calls", "calls_per_second", "mix", "partitions", "fate_share", "probed")
    }
    told["clocks"] = [
        [server.clock.offset_ms, server.clock.drift_ppm, *server.clock.steps]
        for server in spec.servers
    ]
    return told


def _chance(name: str) -> random.Random:
    return random.Random(name)  # noqa: S311 - reproducible, not secret
