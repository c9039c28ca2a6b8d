"""Pauses reach a command's whole family, and nobody else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A parent and a child in a session of its own; each says the longest that it was not let run.
FAMILY = """
import subprocess, sys, time
child = None
if sys.argv[1] == "parent":
    child = subprocess.Popen([sys.executable, __file__, "child"], start_new_session=True)
longest, last, end = 0.0, time.monotonic(), time.monotonic() + 3
while time.monotonic() < end:
    time.sleep(0.01)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
print(sys.argv[1], longest, flush=True)
sys.exit(7 if child is None else child.wait())
"""


def test_all_of_a_command_is_paused_and_its_exit_code_is_told(tmp_path: Path) -> None:
    family = tmp_path / "family.py"
    family.write_text(FAMILY)
    pauses = [sys.executable, "-m", "scripts.pauses", "--every", "0.2", "--longest", "0.8"]
    done = subprocess.run(
        [*pauses, "--seed", "1", sys.executable, family, "parent"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 7, done.stderr
    longest = {who: float(seconds) for who, seconds in map(str.split, done.stdout.splitlines())}
    assert set(longest) == {"parent", "child"}
    assert min(longest.values()) > 0.3
