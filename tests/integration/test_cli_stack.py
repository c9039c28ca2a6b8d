"""`stack up` leaves a stack running, `stack down` ends it whole."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest

from tests.cli_kit import cdrstream

pytestmark = pytest.mark.timeout(600)


def test_up_and_down(tmp_path: Path) -> None:
    folder = tmp_path / "stack"
    at = ("--folder", str(folder))
    up = cdrstream("stack", "up", "--servers", "1", *at)
    try:
        assert up.returncode == 0, up.stderr
        assert f"cdrstream provision --config {folder}/cdrstream.toml" in up.stdout
        state = json.loads((folder / "stack.json").read_text())

        again = cdrstream("stack", "up", *at)
        assert again.returncode == 1
        assert "a stack runs already" in again.stderr

        config = folder / "cdrstream.toml"
        assert cdrstream("provision", config=config).returncode == 0
        with psycopg.connect(state["servers"]["a"]) as server:
            assert server.execute("SELECT count(*) FROM cdrs").fetchone() == (0,)
    finally:
        down = cdrstream("stack", "down", *at)
    assert down.returncode == 0, down.stderr
    assert not Path(state["folder"]).exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(state["servers"]["a"])
    nothing = cdrstream("stack", "down", *at)
    assert nothing.returncode == 0
    assert "no stack runs" in nothing.stdout
