"""Two minds agree: scenarios state the truth without the rules, and the rules find it."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest

from callstate.config import ResolutionConfig
from ops.resolve import run
from ops.simulation.command import SimulateOptions
from ops.simulation.folder import simulate
from ops.simulation.score import score


@pytest.mark.parametrize(
    "options",
    [
        SimulateOptions(seed=31, mix="even", absent="mixed"),
        SimulateOptions(seed=32, skew_ms=5_000, drift_ppm=50, servers=4),
    ],
    ids=["every scenario, right clocks", "clocks off by seconds, no probes"],
)
def test_resolved_traffic_is_what_happened(tmp_path: Path, options: SimulateOptions) -> None:
    simulate(tmp_path, options.spec())
    out = tmp_path / "cdrs.jsonl"
    run(
        [str(tmp_path)],
        config=ResolutionConfig(),
        reference="0",
        out=str(out),
        dead_letters=str(tmp_path / "dead-letters.jsonl"),
    )
    truth, cdrs = (
        [orjson.loads(line) for line in path.read_bytes().splitlines()]
        for path in (tmp_path / "truth.jsonl", out)
    )
    result = score(truth, cdrs, tolerance_ms=25)
    assert result.flawless, result.faults()[:5]
