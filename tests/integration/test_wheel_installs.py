"""What is released installs as a program of its own, with nothing of this source tree about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import release

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).resolve().parents[2]


def test_the_wheel_is_a_tool_that_makes_cdrs(tmp_path: Path) -> None:
    """As docs/installing.md has it: `uv tool install cdrstream-*.whl`."""
    made = release.build(ROOT, tmp_path / "dist", "1700000000")
    (wheel,) = (path for path in made if path.suffix == ".whl")
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environ = {
        **plain,
        "UV_TOOL_DIR": str(tmp_path / "tools"),
        "UV_TOOL_BIN_DIR": str(tmp_path / "bin"),
        "UV_NO_PROGRESS": "1",
    }
    install = [release.UV, "tool", "install", "--quiet", "--python", sys.executable, wheel]
    told = subprocess.run(
        install, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr

    def cdrstream(*arguments: str) -> str:
        ran = subprocess.run(
            [tmp_path / "bin" / "cdrstream", *arguments],
            env=plain,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    cdrstream("simulate", "--out", "calls", "--calls", "5")
    lines = cdrstream("resolve", "calls", "--reference", "0", "--out", "-").splitlines()
    assert {"call_id", "start_time"} <= json.loads(lines[0]).keys()
    assert "cdrstream-reader.service" in cdrstream("install-units", "--program", "/usr/bin/true")
    assert "kafka-acls.sh" in cdrstream("acls")
