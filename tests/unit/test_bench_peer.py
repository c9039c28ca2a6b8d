"""A peer's kit: what it is given, what it says, and its figures beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ops.bench.peer import PeerFailed, beside, measure_peer

KIT = """
import json, sys
sys.stderr.write("a run\\n")
assert "--tuned" in sys.argv
figures = {"peer": "debezium", "version": "3.7", "cpu_s_per_100k": 6.0, "rss_mb": 577.0}
print("words before")
print(json.dumps({**figures, "arguments": sys.argv[1:], "path": __file__}))
"""


class Server:
    """Notes what is made and dropped."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def create_database(self, name: str) -> None:
        self.done.append(f"create {name}")

    def drop_database(self, name: str) -> None:
        self.done.append(f"drop {name}")

    def dsn_for(self, name: str) -> str:
        return f"dbname={name}"


def bed() -> Any:
    broker = SimpleNamespace(bootstrap_servers="127.0.0.1:9")
    return SimpleNamespace(server=Server(), stack=SimpleNamespace(broker=broker))


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    path = tmp_path / "run.py"
    path.write_text(KIT)
    return path


def test_the_kit_gets_a_database_of_its_own_and_the_same_work(kit: Path) -> None:
    on = bed()
    found = measure_peer(on, kit, 500_000, 3, 15, 1_000, frozenset({"backlog", "delays"}))
    told = {part: " ".join(figures["arguments"]) for part, figures in found.items()}
    for words in told.values():
        assert words.startswith("--pg dbname=peer --bootstrap 127.0.0.1:9 --workdir ")
        assert "--tuned --repeat 3" in words
    assert told["backlog"].endswith("--rows 500000")
    assert told["delays"].endswith("--live --rate 1000 --seconds 15")
    assert on.server.done == ["create peer", "drop peer"]


def test_only_what_was_asked_for_is_measured(kit: Path) -> None:
    assert set(measure_peer(bed(), kit, 5, 1, 1, 5, frozenset({"delays", "away"}))) == {"delays"}


@pytest.mark.parametrize("source", ["raise SystemExit(3)", "print('no figures')", ""])
def test_a_kit_that_fails_is_told_and_leaves_nothing(source: str, kit: Path) -> None:
    kit.write_text(source)
    on = bed()
    with pytest.raises(PeerFailed, match=r"run\.py"):
        measure_peer(on, kit, 5, 1, 1, 5, frozenset({"backlog"}))
    assert on.server.done == ["create peer", "drop peer"]


def test_both_stand_side_by_side_with_the_targets_as_ratios() -> None:
    theirs = {
        "backlog": {
            "peer": "debezium",
            "version": "3.7",
            "rows_per_s": 27_500.0,
            "cpu_s_per_100k": 5.9,
            "rss_mb": 577.0,
            "ids_missing": 0,
        },
        "delays": {
            "peer": "debezium",
            "cpu_s_per_100k": 60.0,
            "commit_to_consumer_p50_ms": 20.0,
            "commit_to_consumer_p99_ms": 36.0,
            "missing": 2,
        },
    }
    ours = {"rows_a_second": 66_000.0, "cpu_s_per_100k": 1.18, "p50_ms": 7.0, "cpu_share": 0.12}
    lines = {name: (value, target) for name, value, target in beside(ours, theirs, 1_000)}
    at = "CPU at the steady rate, share of a core"
    assert lines["debezium 3.7, tuned: backlog, rows/s into Kafka"] == ("27,500", "")
    assert lines["ours / debezium 3.7, tuned: backlog, rows/s into Kafka"] == ("2.40", ">= 2")
    assert lines["ours / debezium 3.7, tuned: CPU s per 100,000 rows"] == ("0.20", "")
    assert lines[f"debezium, tuned: {at}"] == ("0.600", "")
    assert lines[f"ours / debezium, tuned: {at}"] == ("0.20", "<= 0.25")
    assert lines["debezium, tuned: rows missing"] == ("2", "")
    assert "ours / debezium, tuned: commit to readable, p99 ms" not in lines
    assert json.dumps(sorted(lines)).count("rows missing") == 1
