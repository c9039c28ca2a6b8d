"""Real calls through two Kamailios: every CDR agrees with its caller's log, nothing left over."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ops.demo_kamailio.plan import ALL_CALLS
from ops.stack.debian import find_sip

ROOT = Path(__file__).parents[2]


@contextmanager
def demo(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The demo, with its folders below `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.demo_kamailio"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    """Fetched before the clock of a test runs."""
    find_sip()


def processes_naming(text: str) -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, UnicodeDecodeError):
                continue
            if text in line:
                found.append(line)
    return found


@pytest.mark.timeout(240)
def test_every_cdr_agrees_with_its_callers_log(tmp_path):
    with demo(tmp_path) as process:
        output, _ = process.communicate(timeout=180)
    assert process.returncode == 0, output
    assert f"{len(ALL_CALLS)} of {len(ALL_CALLS)} CDRs agree with their callers' logs" in output
    assert "KILLED proxy b" in output
    assert [
        call.name for call in ALL_CALLS if not re.search(rf"right +{call.name}\n", output)
    ] == []
    assert not processes_naming(str(tmp_path))
    assert not list(tmp_path.glob("cdrstream-*"))


@pytest.mark.timeout(180)
def test_ctrl_c_in_the_midst_of_calls_stops_everything(tmp_path):
    with demo(tmp_path) as process:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if "callers call" in line:
                break
        assert processes_naming(str(tmp_path)), told
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, told + rest
    assert not processes_naming(str(tmp_path))
    assert not list(tmp_path.glob("cdrstream-*"))
