"""What servers and broker of the local stack have in common: the ways they are broken from outside.

Owns the process that runs now, if any. Refuses to know how it is started and asked to end.
"""

from __future__ import annotations

from collections.abc import Callable

from ops.stack.errors import StackError
from ops.stack.processes import KeptProcess, Program


class Part:
    """One server, running or not; its port stays the same over restarts.

    Args:
        what: Its name in errors.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._process: KeptProcess | None = None

    @property
    def pid(self) -> int:
        """Process id of its first process.

        Raises:
            StackError: It does not run.
        """
        return self._running().pid

    @property
    def alive(self) -> bool:
        """Whether any process of it runs."""
        return self._process is not None and self._process.alive

    def kill(self) -> None:
        """SIGKILL to all its processes, as if the machine had crashed."""
        if self._process is not None:
            self._process.kill()

    def pause(self) -> None:
        """Freezes all its processes; connections stay open and silent.

        Raises:
            StackError: It does not run.
        """
        self._running().pause()

    def resume(self) -> None:
        """Ends a pause.

        Raises:
            StackError: It does not run.
        """
        self._running().resume()

    def _run(
        self, program: Program, port: int, answers: Callable[[], bool], timeout_seconds: float
    ) -> None:
        """Starts `program`; `KeptProcess.demand_answer` says what can go wrong."""
        self._process = KeptProcess(program)
        self._process.demand_answer(self._what, port, answers, timeout_seconds)

    def _running(self) -> KeptProcess:
        if self._process is None or not self._process.alive:
            raise StackError(f"{self._what} does not run", "start it first")
        return self._process
