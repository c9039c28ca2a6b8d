"""`cdrstream simulate`: options become traffic, and wrong ones are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ops.errors import UsageError
from ops.simulation.command import SimulateOptions, run


def test_the_folder_is_written_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, SimulateOptions(calls=10, servers=2, skew_ms=500, absent="mixed"))
    assert (tmp_path / "rows.1.jsonl").exists()
    assert "events on 2 servers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"calls": 0}, "--calls 0: must be from 1"),
        ({"talk_mean": 0}, "--talk-mean 0: must be from 1"),
        ({"absent": "never"}, "--absent never: must be one of empty, null, mixed"),
        ({"mix": "nonsense"}, "--mix nonsense: unknown mix or scenario"),
        ({"mix": "simple=much"}, "--mix simple=much"),
        ({"start": "soon"}, "--start soon: must be a time"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        SimulateOptions(**options).spec()
