"""Runs a command and pauses all of its processes together, again and again, for some seconds.

`make test-paused` runs the tests so: a host that is migrated, or that somebody else uses up, does
no less. What fails then and not otherwise waits too short, or was never right.

Processes are known by a mark in their environment and by their parents; those that a test has
stopped itself stay stopped. The command's exit code is ours.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

MARK: Final = "PAUSED_TOGETHER_BY"  # no CDRSTREAM_…: those are settings, and this is none
_LOOKS: Final = 3  # whoever was being started meanwhile is found by the next
_STOPPED: Final = "TtZ"


class Process(NamedTuple):
    """What `/proc` says of one; see proc_pid_stat(5)."""

    state: str
    parent: int
    marked: bool


def processes(mark: str) -> dict[int, Process]:
    """All that run now, by pid."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            state, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            marked = f"{MARK}={mark}".encode() in (folder / "environ").read_bytes()
        except OSError:  # it has ended, or is somebody else's
            continue
        found[int(folder.name)] = Process(state, int(parent), marked)
    return found


def ours(known: dict[int, Process]) -> set[int]:
    """Those with the mark, and whom they started."""
    family = {pid for pid, process in known.items() if process.marked}
    while more := {pid for pid, process in known.items() if process.parent in family} - family:
        family |= more
    return family


def pause(mark: str, seconds: float) -> int:
    """Stops all of them for so long; how many there were."""
    held: list[int] = []
    try:
        for _ in range(_LOOKS):
            known = processes(mark)
            for pid in ours(known):
                if pid not in held and known[pid].state not in _STOPPED and _sent(pid, stop=True):
                    held.append(pid)
        time.sleep(seconds)
    finally:
        for pid in reversed(held):
            _sent(pid, stop=False)
    return len(held)


def _sent(pid: int, *, stop: bool) -> bool:
    try:
        os.kill(pid, signal.SIGSTOP if stop else signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    """Runs it; the command's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--every", type=float, default=12.0, help="seconds, on average")
    parser.add_argument("--longest", type=float, default=4.0, help="seconds of a pause")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    rng, mark = random.Random(asked.seed), str(os.getpid())  # noqa: S311  no secret
    command = subprocess.Popen(asked.command, env={**os.environ, MARK: mark})
    pauses = 0
    try:
        while True:
            try:
                code = command.wait(rng.expovariate(1 / asked.every))
            except subprocess.TimeoutExpired:
                pause(mark, rng.uniform(asked.longest / 8, asked.longest))
                pauses += 1
                continue
            sys.stderr.write(f"{pauses} pauses\n")
            return code
    finally:
        if command.poll() is None:
            command.send_signal(signal.SIGINT)
            command.wait()


if __name__ == "__main__":
    sys.exit(main())
