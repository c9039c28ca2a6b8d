"""Readers and workers as processes under a supervisor, the way an installation runs them.

Owns starting, killing, freezing, and starting again what ended by itself, with the reason that its
log gives. Refuses to know when: `schedule` says.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from ops.stack.processes import KeptProcess, Program
from tests.cli_kit import ROOT, environment

RESTART_SECONDS = 0.5  # what a supervisor waits
STOP_SECONDS = 25.0  # services finish what they hold within 10 s; the machine is busy
CONTEXT_LINES = 40
UNEXPECTED = ("report this as a bug", "run it again with --debug", "Traceback")


@dataclass(slots=True)
class Service:
    """One process that should run, and the one that runs in its place."""

    name: str
    arguments: tuple[str, ...]
    config: Path
    folder: Path
    starts_at: float = 0.0  # monotonic; not before, while it is down on purpose
    frozen: bool = False
    starts: int = 0
    _process: KeptProcess | None = None

    @property
    def log(self) -> Path:
        """Where all its lives write to."""
        return self.folder / f"{self.name}.log"

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.alive

    def start(self) -> None:
        self.starts += 1
        self._process = KeptProcess(
            Program(
                argv=(
                    sys.executable,
                    "-m",
                    "ops.cli",
                    *self.arguments,
                    "--config",
                    self.config_text,
                ),
                env={**environment(), "PYTHONUNBUFFERED": "1"},
                cwd=ROOT,
                log=self.log,
            )
        )

    @property
    def config_text(self) -> str:
        return os.fspath(self.config)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()

    def freeze(self) -> None:
        assert self._process is not None
        self._process.pause()
        self.frozen = True

    def thaw(self) -> None:
        assert self._process is not None
        self._process.resume()
        self.frozen = False

    def ask_to_end(self) -> None:
        assert self._process is not None
        self._process.send(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        assert self._process is not None
        return self._process.wait(seconds)

    def last_words(self) -> str:
        assert self._process is not None
        return self._process.last_words(3)[-300:]

    def unexpected(self) -> list[str]:
        """What no fault of others excuses, each with the lines around it."""
        lines = self.log.read_text("utf-8", "replace").splitlines() if self.log.exists() else []
        return [
            "\n    ".join(line[:300] for line in lines[max(0, number - 2) : number + CONTEXT_LINES])
            for number, told in enumerate(lines)
            if any(sign in told for sign in UNEXPECTED)
        ]


@dataclass(slots=True)
class Services:
    """All that should run."""

    config: Path
    folder: Path
    running: dict[str, Service] = field(default_factory=dict)
    gone: list[Service] = field(default_factory=list)
    fell: list[str] = field(default_factory=list)  # who ended without being told to, and why
    _made: int = 0

    def add_reader(self, server: str) -> Service:
        return self._add(f"reader-{server}", ("reader", "--server", server))

    def add_worker(self) -> Service:
        self._made += 1
        return self._add(f"worker-{self._made}", ("worker",))

    def _add(self, name: str, arguments: tuple[str, ...]) -> Service:
        service = Service(name, arguments, self.config, self.folder)
        self.running[name] = service
        service.start()
        return service

    def remove(self, service: Service) -> None:
        """It is not started again."""
        self.gone.append(self.running.pop(service.name))

    def of(self, kind: str) -> list[Service]:
        """Readers, or workers."""
        return [one for name, one in self.running.items() if name.startswith(kind)]

    def everyone(self) -> list[Service]:
        return [*self.running.values(), *self.gone]

    def supervise(self) -> None:
        """Starts again what has ended."""
        now = time.monotonic()
        for service in self.running.values():
            if service.alive or service.frozen:
                continue
            if not service.starts_at:
                self.fell.append(f"{service.name}: {service.last_words()}")
                service.starts_at = now + RESTART_SECONDS
            if now >= service.starts_at:
                service.starts_at = 0.0
                service.start()

    def stop(self) -> None:
        """Ends all, by force what does not go."""
        for service in self.everyone():
            if service.alive:
                service.thaw()
                service.ask_to_end()
        for service in self.everyone():
            if service.alive and not service.wait(STOP_SECONDS):
                service.kill()
