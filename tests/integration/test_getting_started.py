"""What docs/getting-started.md tells a newcomer to type, typed as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli_kit import cdrstream, environment

PAGE = Path(__file__).resolve().parents[2] / "docs" / "getting-started.md"

pytestmark = pytest.mark.timeout(600)


def test_the_whole_path_on_this_machine(tmp_path: Path) -> None:
    blocks = re.findall(r"<!-- run: path -->\n```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 2
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    try:
        told = subprocess.run(
            ["bash", "-mec", "".join(blocks)],
            cwd=tmp_path, env={**environment(), "PATH": path},
            capture_output=True, text=True, check=False, timeout=500,
        )  # fmt: skip
        assert told.returncode == 0, told.stdout + told.stderr
        assert "in order" in told.stdout
        assert "is gone" in told.stdout
    finally:
        cdrstream("stack", "down", "--folder", str(tmp_path / "stack"))
