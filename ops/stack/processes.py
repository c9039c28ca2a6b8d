"""One server process of the local stack, seen from its owner.

Owns starting it under a keeper, its first answer, its signals, and knowing that it has ended; and
running the tool that prepares its folder. Refuses to know what the server is.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.stack.accounts import Account
from ops.stack.errors import PortTakenError, StackError

_KEEPER: Final = Path(__file__).with_name("keeper.py")
_REPORT_SECONDS: Final = 30.0  # for a keeper to start, and to end what is left of a tree
_POLL_SECONDS: Final = 0.02
# What PostgreSQL and Kafka log where another program has their port.
_PORT_TAKEN: Final = ("Address already in use", "Socket server failed to bind")


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and how it is ended when its owner dies.

    Attributes:
        argv: Absolute path of the program, and its arguments.
        env: The whole environment.
        cwd: Folder to run in.
        log: File that its output is appended to.
        account: User to run as; None is the owner's own.
        orphan_signal: First request to end, when the owner is gone.
        orphan_patience_seconds: How long it is waited for before SIGKILL.
        remove: Folder that is removed when the owner is gone.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    log: Path
    account: Account | None = None
    orphan_signal: signal.Signals = signal.SIGTERM
    orphan_patience_seconds: float = 3.0
    remove: Path | None = None


class KeptProcess:
    """A running server and its keeper; ends with its owner."""

    def __init__(self, program: Program) -> None:
        spec = {
            "argv": list(program.argv),
            "env": dict(program.env),
            "cwd": str(program.cwd),
            "log": str(program.log),
            "uid": program.account.uid if program.account else None,
            "gid": program.account.gid if program.account else None,
            "owner": os.getpid(),
            "orphan_signal": int(program.orphan_signal),
            "orphan_patience_seconds": program.orphan_patience_seconds,
            "remove": str(program.remove) if program.remove else None,
        }
        self._log = program.log
        self._log_start = program.log.stat().st_size if program.log.exists() else 0
        # A session of its own: Ctrl-C in a terminal reaches the owner alone, which ends the rest.
        told = os.memfd_create("keeper", os.MFD_CLOEXEC)
        try:
            os.write(told, json.dumps(spec).encode())
            os.lseek(told, 0, os.SEEK_SET)
            self._keeper = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", str(_KEEPER)),
                    *(str(told), f"owner={os.getpid()}", str(program.log)),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
                pass_fds=(told,),
            )
        finally:
            os.close(told)
        self._lock = threading.Lock()
        self._paused: list[int] = []
        try:
            self.pid = self._first_report()
        except BaseException:
            self._let_go()
            raise

    @property
    def alive(self) -> bool:
        """Whether the server, or anything that it started, still runs."""
        if self._keeper.poll() is None:
            return True
        self._close()
        return False

    def demand_answer(
        self, what: str, port: int, answers: Callable[[], bool], timeout_seconds: float
    ) -> None:
        """Waits until the server answers for the first time.

        Args:
            what: Its name in the error.
            port: Where it listens.
            answers: Whether it answers now.
            timeout_seconds: How long it may take.

        Raises:
            PortTakenError: Another program has its port.
            StackError: It ended, with its last words, or did not answer in time; it is gone.
        """
        if wait_until(lambda: not self.alive or answers(), timeout_seconds):
            if self.alive:
                return
        else:
            self.kill()
        words = self._log.read_bytes()[self._log_start :].decode(errors="replace")
        if any(taken in words for taken in _PORT_TAKEN):
            raise PortTakenError(port)
        raise StackError(f"{what} did not start: {self.last_words()}", f"its log is {self._log}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the server's first process, if it lives."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, timeout_seconds: float) -> bool:
        """Waits until the server and all it started are gone; False when time is up."""
        try:
            self._keeper.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return False
        self._close()
        return True

    def stop(self, number: signal.Signals, timeout_seconds: float) -> bool:
        """Asks with a signal, then kills; True when the signal sufficed."""
        self.resume()
        self.send(number)
        if self.wait(timeout_seconds):
            return True
        self.kill()
        return False

    def kill(self) -> None:
        """SIGKILL to the first process; its keeper ends what is left. Returns when all are gone."""
        self.send(signal.SIGKILL)
        if not self.wait(_REPORT_SECONDS):
            raise StackError(
                f"process {self.pid} does not end, not even by SIGKILL", f"its log is {self._log}"
            )

    def pause(self) -> None:
        """SIGSTOP to the whole tree, so that connections stay open and silent."""
        with self._lock:
            stopped: set[int] = set()
            while fresh := [pid for pid in _tree(self.pid) if pid not in stopped]:
                for pid in fresh:  # the first process first: it then starts no other
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
                    stopped.add(pid)
            self._paused = list(stopped)

    def resume(self) -> None:
        """SIGCONT to all that `pause` stopped."""
        with self._lock:
            for pid in self._paused:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self._paused = []

    def last_words(self, lines: int = 5) -> str:
        """The end of its log, in one line."""
        with contextlib.suppress(OSError):
            text = self._log.read_text(errors="replace").splitlines()
            return " | ".join(line.strip() for line in text[-lines:] if line.strip())
        return ""

    def _first_report(self) -> int:
        stdout = self._keeper.stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], _REPORT_SECONDS)
        words = stdout.readline().split() if ready else []
        if len(words) != 2 or words[0] != b"pid":
            raise StackError(
                "the keeper of a server did not start", f"try again; the log is {self._log}"
            )
        return int(words[1])

    def _let_go(self) -> None:
        assert self._keeper.stdin is not None
        self._keeper.stdin.close()
        self._keeper.wait(_REPORT_SECONDS)
        self._close()

    def _close(self) -> None:
        for pipe in (self._keeper.stdin, self._keeper.stdout):
            if pipe is not None and not pipe.closed:
                pipe.close()


def run_to_end(
    argv: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    account: Account | None,
    timeout_seconds: float,
) -> str:
    """Runs a program that ends by itself; what it said last where it failed, else nothing.

    Args:
        argv: Absolute path of the program, and its arguments.
        env: The whole environment.
        cwd: Folder to run in.
        account: User to run as; None is the owner's own.
        timeout_seconds: How long it may take.

    Raises:
        subprocess.TimeoutExpired: It took longer, and was killed.
    """
    done = subprocess.run(
        argv,
        env=env,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_seconds,
        check=False,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=[] if account else None,
    )
    if done.returncode == 0:
        return ""
    return " | ".join(done.stdout.strip().splitlines()[-3:]) or f"exit code {done.returncode}"


def began_at(pid: int) -> float:
    """When a process that lives began, in seconds since 1970, to a hundredth of one."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    since_boot = (int(fields[19]) + 0.5) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot


def wait_until(condition: Callable[[], bool], timeout_seconds: float) -> bool:
    """Asks until the answer is yes (True) or time is up (False)."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        if condition():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _tree(root: int) -> list[int]:
    """A process and all its descendants, parents before children."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text()
                parent = int(stat.rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    tree = [root]
    for pid in tree:
        tree.extend(children.get(pid, []))
    return tree
