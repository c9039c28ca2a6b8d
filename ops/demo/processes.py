"""The readers and workers of the demo: real processes, each with a log of its own.

Owns starting, killing and stopping them, so that nothing is left behind whatever happens. Refuses
to know what they do.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, Final

from ops.errors import OpsError

STOP_SECONDS: Final = 12.0  # services finish what they hold within 10 s
_LOG_TAIL_LINES: Final = 15


class Child:
    """One `cdrstream` process."""

    def __init__(self, name: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._file: IO[bytes] = self.log.open("ab")
        command = [*_dies_with_us(), sys.executable, "-m", "ops.cli", *arguments]
        # a session of its own: Ctrl-C reaches the demo alone, which then stops what it started
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL to the whole session: no farewell."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._file.close()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    def finish(self, deadline: float) -> None:
        """Waits for the end until `deadline` (monotonic), then kills."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._file.close()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_TAIL_LINES:])

    def _signal(self, number: signal.Signals) -> None:
        if self.alive:
            os.killpg(self.pid, number)


class Children:
    """All processes of the demo, by name; a replacement takes a new name."""

    def __init__(self, config: Path, folder: Path) -> None:
        self._config = config
        self._folder = folder
        self._children: dict[str, Child] = {}

    def start(self, name: str, *arguments: str) -> Child:
        """Starts `cdrstream ARGUMENTS --config ...` under a name."""
        child = Child(name, [*arguments, "--config", str(self._config)], self._folder)
        self._children[name] = child
        return child

    def kill(self, name: str) -> int:
        """Kills one for good; its process id."""
        child = self._children.pop(name)
        child.kill()
        return child.pid

    def names(self) -> list[str]:
        """Those that should be running."""
        return list(self._children)

    def check(self) -> None:
        """All that should run do run.

        Raises:
            OpsError: One ended by itself; with the last lines of its log.
        """
        for child in self._children.values():
            if not child.alive:
                raise OpsError(
                    f"{child.name} ended by itself; its last words were:\n{child.last_words()}",
                    f"the whole log is {child.log}",
                )

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that do not go; returns when all are gone."""
        for child in self._children.values():
            child.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            child.finish(deadline)
        self._children.clear()


def _dies_with_us() -> list[str]:
    """Prefix that ends a child when the demo itself is killed (util-linux; else none)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
