"""Runs one server as its child, and ends it when the owner of the stack is gone, for any reason.

A program of its own (`python -I -S keeper.py FD OWNER LOG`), standard library only. What it keeps
is read from the file descriptor, because everybody on the machine can read a command line, and an
environment may hold secrets; OWNER and LOG only tell people whose it is. The owner holds the other
end of the keeper's standard input; the end of that pipe, or of the owner's process, is the order to
end the server. The kernel's parent-death signal alone would not do: it is tied to the *thread* that
started the child, and cleared when the child changes its user. Here it only covers the death of the
keeper itself, which has one thread, and is asked for after the change of user.

The keeper adopts what its child leaves behind (`PR_SET_CHILD_SUBREAPER`): PostgreSQL's backends
each lead a session of their own, so that no process group holds them. When the child has ended, by
itself or not, the keeper ends the rest of the tree before it reports: a server that its keeper
calls dead holds no port and no lock any more.

Protocol: `pid N` and at last `exit STATUS` on standard output (STATUS as `os.waitpid` gives it).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_OWNER_CHECK_SECONDS = 1.0  # where the kernel has no pidfd
_EXEC_FAILED = 127


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _become(spec: dict[str, Any], keeper_pid: int) -> None:
    """In the child: log, user, death signal, program. Does not return."""
    log = os.open(spec["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if spec["uid"] is not None:
        os.fchown(log, spec["uid"], spec["gid"])
        os.setgroups([])
        os.setgid(spec["gid"])
        os.setuid(spec["uid"])
    os.umask(0o077)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != keeper_pid:  # it died before the line above
        os._exit(_EXEC_FAILED)
    os.chdir(spec["cwd"])
    os.execve(spec["argv"][0], spec["argv"], spec["env"])  # noqa: S606  no shell is the point


def _start(spec: dict[str, Any]) -> int:
    keeper_pid = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(spec, keeper_pid)
    except OSError as error:
        os.write(2, f"cannot run {spec['argv'][0]}: {error}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _children() -> list[int]:
    """Pids of our children, adopted ones too."""
    me = os.getpid()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                stat = (entry / "stat").read_text()
                if int(stat.rpartition(")")[2].split()[1]) == me:
                    found.append(int(entry.name))
    return found


def _end_the_rest() -> None:
    """Kills what the server left behind, generation after generation, until nothing is left."""
    while True:
        for pid in _children():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _reap(child: int) -> int | None:
    """Collects the dead; the server's wait status once it is among them."""
    status = None
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            status = code


def _end(child: int, number: int, patience_seconds: float) -> int:
    """Asks the server to end, then insists; its wait status."""
    for each in (number, signal.SIGCONT):  # one that was stopped could not hear the first
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, each)
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        status = _reap(child)
        if status is not None:
            return status
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    while (status := _reap(child)) is None:
        time.sleep(0.01)
    return status


def _owner_fd(owner: int) -> int | None:
    """Becomes readable when the owner ends; None where the kernel cannot tell."""
    try:
        return os.pidfd_open(owner)
    except (AttributeError, OSError):
        return None


def _watch(child: int, owner: int, wakeup: int) -> int | None:
    """Waits for the server's end (its status) or for the owner's (None)."""
    owner_fd = _owner_fd(owner)
    sources = [0, wakeup] + ([owner_fd] if owner_fd is not None else [])
    timeout = None if owner_fd is not None else _OWNER_CHECK_SECONDS
    while True:
        status = _reap(child)
        if status is not None:
            return status
        if os.getppid() != owner:
            return None
        ready, _, _ = select.select(sources, [], [], timeout)
        if 0 in ready and not os.read(0, 64):
            return None
        if owner_fd in ready:
            return None
        if wakeup in ready and signal.SIGTERM in os.read(wakeup, 64):
            return None


def main() -> None:
    """Keeps one server."""
    with os.fdopen(int(sys.argv[1])) as told:
        spec = json.load(told)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    wakeup, wakeup_write = os.pipe()
    for end in (wakeup, wakeup_write):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    for number in (signal.SIGINT, signal.SIGHUP):  # a terminal's: the owner decides, not its keys
        signal.signal(number, signal.SIG_IGN)
    child = _start(spec)
    os.write(1, f"pid {child}\n".encode())
    status = _watch(child, spec["owner"], wakeup)
    orphaned = status is None
    if status is None:
        status = _end(child, spec["orphan_signal"], spec["orphan_patience_seconds"])
    _end_the_rest()
    if orphaned and spec["remove"]:
        # every keeper of the stack does this; the last one finds nothing that still writes there
        shutil.rmtree(spec["remove"], ignore_errors=True)
    with contextlib.suppress(OSError):  # the owner may be gone
        os.write(1, f"exit {status}\n".encode())


if __name__ == "__main__":
    main()
