"""The demo as a user runs it: every CDR right in spite of kills and clocks, nothing left over."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path

import pytest

from tests.demo_process import demo, processes_naming

COMMAND = ("ops.cli", "demo")


def folder_in(output: str) -> str:
    told = re.search(r"their logs are in (\S+)", output)
    assert told, output
    return told[1]


@pytest.mark.timeout(900)
def test_every_cdr_is_right_and_nothing_is_left_over() -> None:
    with demo(*COMMAND, "--calls", "150", "--seed", "7") as process:
        output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    assert "KILLED reader-b" in output
    assert "KILLED worker-1" in output
    assert "none wrong, none missing, none twice" in output
    assert "\x1b" not in output
    folder = folder_in(output)
    assert not processes_naming(folder)
    assert not Path(folder).exists()


@pytest.mark.timeout(900)
def test_ctrl_c_stops_everything() -> None:
    with demo(*COMMAND, "--calls", "50") as process:
        assert process.stdout is not None
        output = ""
        deadline = time.monotonic() + 600
        while "their logs are in" not in output and time.monotonic() < deadline:
            line = process.stdout.readline()
            assert line, output
            output += line
        folder = folder_in(output)
        assert processes_naming(folder)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=200)
    assert process.returncode == 130, output + rest
    assert not processes_naming(folder)


@pytest.mark.timeout(900)
def test_the_closed_demo_is_as_right_and_refuses_all_that_it_must() -> None:
    with demo(*COMMAND, "--secure", "--calls", "100", "--seed", "3") as process:
        output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    assert "KILLED worker-1" in output
    assert "none wrong, none missing, none twice" in output
    for where in ("rights at the broker", "rights at PostgreSQL", "ways in"):
        told = re.search(rf"{where}: (\d+) of (\d+) tries refused", output)
        assert told is not None, output
        assert int(told[1]) == int(told[2]) > 10, output
    assert "https://127.0.0.1:" in output
    assert "password=" not in output
    folder = folder_in(output)
    assert not processes_naming(folder)
    assert not Path(folder).exists()
