"""Generated traffic with its truth: every CDR right, whatever the clocks and the order."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from callstate.config import ResolutionConfig
from ops.resolve import run
from ops.simulation.score import Score, Verdict, score

Folder = Callable[[str], Path]


def lines(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def resolved(*inputs: Path, out: Path, **more: Any) -> bytes:
    run([str(one) for one in inputs], config=ResolutionConfig(), out=str(out), **more)
    return out.read_bytes()


def scored(folder: Path, cdrs: bytes, tolerance_ms: float = 25) -> Score:
    got = [orjson.loads(line) for line in cdrs.splitlines()]
    return score(lines(folder / "truth.jsonl"), got, tolerance_ms=tolerance_ms)


@pytest.mark.parametrize("name", ["clean", "skew500ms", "skew5s", "step"])
def test_every_cdr_is_right(name: str, traffic_folder: Folder, tmp_path: Path) -> None:
    folder = traffic_folder(f"traffic-{name}")
    told = scored(folder, resolved(folder, out=tmp_path / "cdrs", reference="0"))
    assert told.faults() == ()
    assert told.count(Verdict.RIGHT) == told.expected > 350


def test_a_step_is_told_with_its_time_and_size(
    traffic_folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resolved(traffic_folder("traffic-step"), out=tmp_path / "cdrs", reference="0")
    told = [line for line in capsys.readouterr().err.splitlines() if "-1.5" in line]
    assert len(told) == 1
    assert "2" in told[0]


def shuffled(folder: Path, out: Path, seed: int) -> Path:
    """All rows of a folder in one file, in another order, some of them twice."""
    chance = random.Random(seed)
    rows = [
        row | {"server": path.name.split(".")[1]}
        for path in sorted(folder.glob("rows.*.jsonl"))
        for row in lines(path)
    ]
    rows += chance.choices(rows, k=len(rows) // 10)
    chance.shuffle(rows)
    out.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return out


@pytest.mark.parametrize("name", ["skew5s", "step"])
def test_any_order_gives_the_same_bytes(name: str, traffic_folder: Folder, tmp_path: Path) -> None:
    folder = traffic_folder(f"traffic-{name}")
    straight = resolved(folder, out=tmp_path / "straight", reference="0")
    mixed = shuffled(folder, tmp_path / "mixed.jsonl", 11)
    assert resolved(mixed, out=tmp_path / "cdrs", reference="0") == straight
    files = sorted(folder.glob("rows.*.jsonl"), reverse=True)
    assert resolved(*files, out=tmp_path / "cdrs", reference="0") == straight


def test_a_bad_row_among_the_good_ones_changes_no_call(
    traffic_folder: Folder, tmp_path: Path
) -> None:
    folder = traffic_folder("traffic-clean")
    straight = resolved(folder, out=tmp_path / "straight", reference="0")
    mixed = shuffled(folder, tmp_path / "mixed.jsonl", 12)
    good = mixed.read_bytes().splitlines(keepends=True)
    bad = [b'{"event_type":[]}\n', b"\x00\n", b'{"call_id":"x","event_type":"R"}\n', b"null\n"]
    chance = random.Random(13)
    told = io.BytesIO()
    for line in good:
        told.write(line)
        if chance.random() < 0.2:
            told.write(chance.choice(bad))
    mixed.write_bytes(told.getvalue())
    dead = tmp_path / "dead"
    assert resolved(mixed, out=tmp_path / "cdrs", reference="0", dead_letters=str(dead)) == straight
    assert len(lines(dead)) > 100
