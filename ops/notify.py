"""Tells the service manager how a service is: ready, alive, about to end (`sd_notify(3)`).

Owns the datagrams and the thread that sends them; does nothing where no manager asks to be told
(`NOTIFY_SOCKET`). Refuses to judge what ready and alive mean: functions say, the same that answer
`/readyz` and `/healthz`.

A service that waits for a broker or a server is alive and not ready. While it is starting its time
to start is extended as long as it lives, so that one that hangs is ended and one that waits is not.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
EXTEND_SECONDS: Final = 30
_SEND_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a service is; asked from another thread, so they only look."""

    alive: Callable[[], bool]
    ready: Callable[[], bool]
    stopping: Callable[[], bool]


@contextmanager
def supervised(vitals: Vitals, environ: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Tells the manager while the block runs, and that it ends when it ends."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        yield
        return
    teller = Teller(address, vitals, watchdog_seconds(environ))
    thread = threading.Thread(target=teller.run, name="notify", daemon=True)
    thread.start()
    try:
        yield
    finally:
        teller.stop()
        thread.join(_SEND_SECONDS * 2)


def watchdog_seconds(environ: Mapping[str, str]) -> float | None:
    """How often the manager wants to hear that we live; None where it does not ask this process."""
    told = environ.get("WATCHDOG_USEC", "")
    whom = environ.get("WATCHDOG_PID", "")
    if not told.isdecimal() or int(told) == 0 or (whom and whom != str(os.getpid())):
        return None
    return int(told) / 1_000_000


class Teller:
    """Looks at the vitals and sends what is new; `run` is a thread's.

    Args:
        address: A path, or `@` and a name in the abstract namespace.
        vitals: How the service is.
        watchdog: The manager's limit in seconds, if it has one.
    """

    def __init__(self, address: str, vitals: Vitals, watchdog: float | None) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._vitals = vitals
        self._watchdog = watchdog is not None
        # Half of the limit is the manual's advice; it costs nothing to look more often.
        self._look_seconds = LOOK_SECONDS if watchdog is None else min(LOOK_SECONDS, watchdog / 4)
        self._ended = threading.Event()
        self._was_ready = False
        self._was_stopping = False
        self._status = ""

    def stop(self) -> None:
        """Ends `run`, after a last word."""
        self._ended.set()

    def run(self) -> None:
        """Until `stop`."""
        while not self._ended.is_set():
            self.look()
            self._ended.wait(self._look_seconds)
        if not self._was_stopping:
            self._send(["STOPPING=1"])

    def look(self) -> None:
        """Once: what has to be said now."""
        vitals, said = self._vitals, []
        alive, ready, stopping = vitals.alive(), vitals.ready(), vitals.stopping()
        if stopping and not self._was_stopping:
            self._was_stopping = True
            said.append("STOPPING=1")
        elif ready and not self._was_ready:
            self._was_ready = True
            said.append("READY=1")
        if alive and not self._was_ready and not stopping:
            said.append(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1_000_000}")
        if alive and self._watchdog:
            said.append("WATCHDOG=1")
        status = _status(alive=alive, ready=ready, stopping=stopping)
        if status != self._status:
            self._status = status
            said.append(f"STATUS={status}")
        if said:
            self._send(said)

    def _send(self, said: list[str]) -> None:
        # A manager that does not listen must not hold a service up, nor end it.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(_SEND_SECONDS)
            sender.sendto("\n".join(said).encode(), self._address)


def _status(*, alive: bool, ready: bool, stopping: bool) -> str:
    if stopping:
        return "finishes what it holds"
    if not alive:
        return "does not react"
    return "at work" if ready else "waits: the log and `cdrstream status` say what for"
