"""Whatever becomes of the owner or the keeper, what they started ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.stack.processes import KeptProcess, Program

pytestmark = pytest.mark.timeout(300)

# A server that has a child in a session of its own, as PostgreSQL's backends are, and says so.
TREE = (
    "import os, sys, time\n"
    "if os.fork() == 0:\n"
    "    os.setsid()\n"
    "    open(sys.argv[1], 'w').write(str(os.getpid()))\n"
    "time.sleep(600)\n"
)
# The same, deaf to SIGTERM.
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TREE
# An owner that leaves its ends of all pipes to a child that lives on.
OWNER = (
    "import json, os, sys, time\n"
    "from pathlib import Path\n"
    "from ops.stack.processes import KeptProcess, Program\n"
    "spec = json.loads(sys.argv[1])\n"
    "path = Path(spec['folder'])\n"
    "program = Program(spec['argv'], dict(os.environ), path, path / 'log', remove=path,\n"
    "                  orphan_patience_seconds=0.5)\n"
    "kept = KeptProcess(program)\n"
    "child = os.fork() if spec['forks'] else 1\n"
    "if child == 0:\n"
    "    time.sleep(300)\n"
    "    os._exit(0)\n"
    "print(kept.pid, kept._keeper.pid, child, flush=True)\n"
    "time.sleep(600)\n"
)


def gone(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):  # the latter while it is being read
        return True
    return text.rpartition(")")[2].split()[0] == "Z"


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def tree(tmp_path: Path, code: str = TREE) -> tuple[list[str], Callable[[], int]]:
    """A program with a child, and how to learn that child's pid."""
    note = tmp_path / "grandchild"

    def grandchild() -> int:
        until(lambda: note.exists() and note.read_text() != "", "the child starts")
        return int(note.read_text())

    return [sys.executable, "-c", code, str(note)], grandchild


def keep(tmp_path: Path, argv: list[str], **more: object) -> KeptProcess:
    program = Program(argv, dict(os.environ), tmp_path, tmp_path / "log", **more)  # type: ignore[arg-type]
    return KeptProcess(program)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], list[int]]]]:
    """Starts an owner in a process of its own: it, and the pids of server, keeper, forked child."""
    owners: list[subprocess.Popen[str]] = []

    def start(argv: list[str], forks: bool = False) -> tuple[subprocess.Popen[str], list[int]]:
        folder = tmp_path / "stack"
        folder.mkdir()
        spec = json.dumps({"argv": argv, "folder": str(folder), "forks": forks})
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, spec],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        owners.append(process)
        assert process.stdout is not None
        return process, [int(word) for word in process.stdout.readline().split()]

    yield start
    for process in owners:
        process.kill()
        process.communicate(timeout=120)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_tree_ends_with_its_owner(tmp_path, owner, number) -> None:
    argv, grandchild = tree(tmp_path)
    process, (server, keeper, _) = owner(argv)
    deep = grandchild()
    process.send_signal(number)
    until(lambda: gone(server) and gone(deep) and gone(keeper), "all end")
    until(lambda: not (tmp_path / "stack").exists(), "the folder goes too")


def test_the_tree_ends_though_a_fork_of_the_owner_holds_its_pipe(tmp_path, owner) -> None:
    argv, grandchild = tree(tmp_path)
    process, (server, keeper, fork) = owner(argv, forks=True)
    deep = grandchild()
    process.kill()
    until(lambda: gone(server) and gone(deep) and gone(keeper), "all end")
    assert not gone(fork)
    os.kill(fork, signal.SIGKILL)


def test_a_deaf_server_is_killed_with_its_owner(tmp_path, owner) -> None:
    argv, grandchild = tree(tmp_path, DEAF)
    process, (server, keeper, _) = owner(argv)
    deep = grandchild()
    process.kill()
    until(lambda: gone(server) and gone(deep) and gone(keeper), "all end")


def test_a_server_ends_with_its_keeper(tmp_path, owner) -> None:
    _process, (server, keeper, _) = owner([sys.executable, "-c", "import time; time.sleep(600)"])
    os.kill(keeper, signal.SIGKILL)
    until(lambda: gone(server), "it ends")


def test_a_frozen_tree_ends_too(tmp_path) -> None:
    argv, grandchild = tree(tmp_path)
    kept = keep(tmp_path, argv)
    deep = grandchild()
    kept.pause()
    # The signal is on its way when `pause` returns, and so is the end when `kill` does.
    until(lambda: Path(f"/proc/{deep}/stat").read_text().rpartition(")")[2].split()[0] == "T", "")
    kept.kill()
    until(lambda: gone(kept.pid) and gone(deep), "all end")
    assert not kept.alive


def test_resume_wakes_the_whole_tree(tmp_path) -> None:
    argv, grandchild = tree(tmp_path)
    kept = keep(tmp_path, argv)
    deep = grandchild()
    kept.pause()
    kept.resume()
    until(
        lambda: all(
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"
            for pid in (kept.pid, deep)
        ),
        "both run again",
    )
    assert kept.stop(signal.SIGTERM, 120)


def test_what_a_server_leaves_behind_ends_with_it(tmp_path) -> None:
    argv, grandchild = tree(tmp_path)
    kept = keep(tmp_path, argv)
    deep = grandchild()
    os.kill(kept.pid, signal.SIGTERM)
    assert kept.wait(120)
    assert gone(deep)


def test_a_program_that_is_not_there_says_so_in_its_log(tmp_path) -> None:
    kept = keep(tmp_path, ["/nowhere/postgres"])
    assert kept.wait(120)
    assert "cannot run /nowhere/postgres" in kept.last_words()


def test_no_command_line_tells_the_environment(tmp_path: Path) -> None:
    secret = "hush-31c8"
    argv, grandchild = tree(tmp_path)
    kept = KeptProcess(Program(argv, {"PGPASSWORD": secret}, tmp_path, tmp_path / "log"))
    try:
        grandchild()
        for pid in (kept.pid, kept._keeper.pid):
            assert secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert secret.encode() in Path(f"/proc/{kept.pid}/environ").read_bytes()
    finally:
        kept.kill()
