"""The readers and workers of the demo: real processes, each with a log of its own.

Owns which run, killing one in the midst, and stopping all, so that nothing is left behind whatever
happens (each has a keeper that ends it when the demo itself dies). Refuses to know what they do.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import ops
from ops.demo.interrupts import held_back
from ops.errors import OpsError
from ops.stack.processes import KeptProcess, Program

STOP_SECONDS: Final = 12.0  # services finish what they hold within 10 s
_LOG_TAIL_LINES: Final = 8
_SOURCE: Final = Path(ops.__file__).resolve().parents[1]
_COMMAND: Final = (sys.executable, "-m", "ops.cli")


class Children:
    """All processes of the demo, by name; a replacement takes a new name.

    Args:
        config: The configuration file that every command reads.
        folder: Where the logs go.
        config_of: The file of each command by its arguments, where they have files of their own.
    """

    def __init__(
        self, config: Path, folder: Path, config_of: Callable[..., Path] | None = None
    ) -> None:
        self._config_of = config_of or (lambda *_: config)
        self.folder = folder
        self._running: dict[str, KeptProcess] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Starts `cdrstream ARGUMENTS --config ...` under a name."""
        program = Program(
            argv=(*_COMMAND, *arguments, "--config", str(self._config_of(*arguments))),
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            cwd=_SOURCE,
            log=self.log(name),
        )
        with held_back():
            self._running[name] = KeptProcess(program)

    def log(self, name: str) -> Path:
        """Where a process writes to."""
        return self.folder / f"{name}.log"

    def kill(self, name: str) -> int:
        """SIGKILL: no farewell. Its process id."""
        process = self._running.pop(name)
        process.kill()
        return process.pid

    def names(self) -> list[str]:
        """Those that should be running."""
        return list(self._running)

    def check(self) -> None:
        """All that should run do run.

        Raises:
            OpsError: One ended by itself; with the last lines of its log.
        """
        for name, process in self._running.items():
            if not process.alive:
                raise OpsError(
                    f"{name} ended by itself: {process.last_words(_LOG_TAIL_LINES)}",
                    f"the whole log is {self.log(name)}",
                )

    def stop(self) -> None:
        """SIGTERM to all at once, SIGKILL to those that do not go; returns when all are gone."""
        for process in self._running.values():
            process.send(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            if not process.wait(max(0.1, deadline - time.monotonic())):
                process.kill()
        self._running.clear()
