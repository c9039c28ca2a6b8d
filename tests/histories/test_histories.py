"""Histories that once came out wrong, replayed for ever through the code of today."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.simulation.world_check import run
from ops.simulation.world_history import History

HISTORIES = sorted(Path(__file__).parent.glob("*.json"))


@pytest.mark.parametrize("path", HISTORIES, ids=lambda path: path.stem)
def test_history(path: Path) -> None:
    assert run(History.read(path)).faults == ()


def test_there_are_histories() -> None:
    assert HISTORIES
