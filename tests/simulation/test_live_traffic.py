"""Ordinary traffic as a live stream, in the order of its arrival, with and without clock probes."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from ops.simulation.score import Verdict, score
from ops.simulation.servers import installation
from ops.simulation.traffic import Traffic, TrafficSpec, generate
from ops.simulation.world import WorldSpec, history_of
from ops.simulation.world_cluster import Cluster
from ops.simulation.world_readers import ReaderSpec

SKEWS: dict[str, dict[str, float]] = {
    "clean": {},
    "skew500ms": {"skew_ms": 500, "drift_ppm": 20},
    "skew5s": {"skew_ms": 5_000, "drift_ppm": 40},
    "step": {"skew_ms": 300, "drift_ppm": 20, "step_ms": -1_500, "step_at_seconds": 120},
}
SEED = 5


def live(skew: str, *, probe_error_us: int | None, partitions: int) -> tuple[Traffic, Cluster]:
    servers = installation(3, seed=SEED, **SKEWS[skew])  # type: ignore[arg-type]
    traffic = generate(TrafficSpec(seed=SEED, calls=400, servers=servers, redeliver=0))
    readers = tuple(
        ReaderSpec(server.name, server.clock, probe_error_us=probe_error_us, latency_us=50_000)
        for server in servers
    )
    spec = WorldSpec(
        SEED, servers, readers, 400, 2.0, "usual", partitions, 2_000_000, 0.0, 2_000,
        probe_error_us is not None,
    )  # fmt: skip
    history = history_of(spec, traffic, random.Random(SEED))
    cluster = Cluster(history.config, history.partitions)
    cluster.play(history)
    return traffic, cluster


def right(truths: Iterable[Mapping[str, Any]], cluster: Cluster) -> tuple[float, int]:
    """Share of right CDRs among those owed, and how many those are."""
    truths = list(truths)
    of = {truth["call_id"] for truth in truths}
    got = [w.cdr.columns() for c, w in cluster.sink.calls.items() if w.cdr and c in of]
    told = score(truths, got, tolerance_ms=25)
    assert told.count(Verdict.MISSING) == told.count(Verdict.LEAKED) == 0
    return told.count(Verdict.RIGHT) / told.expected, told.expected


@pytest.mark.parametrize(
    ("skew", "least"), [("clean", 1.0), ("skew500ms", 0.999), ("skew5s", 0.999), ("step", 0.98)]
)
def test_with_probes(skew: str, least: float) -> None:
    traffic, cluster = live(skew, probe_error_us=1_000, partitions=2)
    share, owed = right(traffic.truth_lines(), cluster)
    assert owed > 350
    assert share >= least


@pytest.mark.parametrize(
    ("skew", "partitions", "least"),
    [
        ("clean", 1, 0.99),
        ("clean", 4, 0.99),
        ("skew500ms", 1, 0.99),
        ("skew500ms", 4, 0.99),
        ("skew5s", 1, 0.99),
        ("skew5s", 4, 0.99),
        ("step", 1, 0.99),
        ("step", 4, 0.98),  # a step is placed between two rows, of which each sees a quarter
    ],
)
def test_from_the_traffic_alone_once_a_minute_was_seen(
    skew: str, partitions: int, least: float
) -> None:
    traffic, cluster = live(skew, probe_error_us=None, partitions=partitions)
    known_us = traffic.spec.start_us + 60_000_000
    later = [
        truth.line(traffic.reference_us)
        for truth in traffic.truths
        if truth.cdr is not None and truth.cdr.start_us >= known_us
    ]
    share, owed = right(later, cluster)
    assert owed > 250
    assert share >= least


def test_a_probe_tells_of_a_step_once_in_each_partition() -> None:
    traffic, cluster = live("step", probe_error_us=1_000, partitions=4)
    told = [step for step in cluster.clock_steps if step.source == "probe"]
    assert [step.server for step in told] == ["2"] * 4
    for step in told:
        assert abs(step.jump_us + 1_500_000) < 5_000
        assert 0 <= step.at_us - traffic.spec.start_us - 120_000_000 < 5_000_000


def test_the_traffic_alone_tells_of_a_step_with_its_time_and_size() -> None:
    traffic, cluster = live("step", probe_error_us=None, partitions=1)
    (step,) = (step for step in cluster.clock_steps if step.server == "2")
    assert step.source == "traffic"
    assert abs(step.jump_us + 1_500_000) < 20_000
    assert abs(step.at_us - traffic.spec.start_us - 120_000_000) < 10_000_000


def test_clocks_that_are_right_are_not_said_to_be_set() -> None:
    _, cluster = live("clean", probe_error_us=None, partitions=1)
    assert cluster.clock_steps == []
