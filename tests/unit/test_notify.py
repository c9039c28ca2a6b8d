"""What the service manager is told, over a socket as it has one."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.notify import Teller, Vitals, supervised, watchdog_seconds


class Manager:
    """Listens where `NOTIFY_SOCKET` says."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(60)

    def heard(self) -> list[str]:
        return self.socket.recv(4096).decode().splitlines()

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            return not self.socket.recv(4096)
        except BlockingIOError:
            return True


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    unique = f"@cdrstream-test-{os.getpid()}-{time.monotonic_ns()}"
    listening = Manager(str(tmp_path / "notify") if request.param == "path" else unique)
    yield listening
    listening.socket.close()


class Service:
    """A service whose state the test sets."""

    def __init__(self) -> None:
        self.alive, self.ready, self.stopping = True, False, False
        self.vitals = Vitals(lambda: self.alive, lambda: self.ready, lambda: self.stopping)


def test_ready_is_said_once_and_when_it_is_so(manager: Manager) -> None:
    service = Service()
    teller = Teller(manager.address, service.vitals, None)
    teller.look()
    first = manager.heard()
    assert first[0] == "EXTEND_TIMEOUT_USEC=30000000"
    assert first[1].startswith("STATUS=waits")
    service.ready = True
    teller.look()
    assert manager.heard() == ["READY=1", "STATUS=at work"]
    teller.look()
    assert manager.silent(), "nothing is new, and nobody watches"
    service.ready = False
    teller.look()
    manager.socket.settimeout(60)
    assert manager.heard()[0].startswith("STATUS=waits"), "ready is not taken back"


def test_who_hangs_says_nothing_that_keeps_it_alive(manager: Manager) -> None:
    service = Service()
    service.alive = False
    teller = Teller(manager.address, service.vitals, 10.0)
    teller.look()
    assert manager.heard() == ["STATUS=does not react"]
    service.alive = service.ready = True
    teller.look()
    assert manager.heard() == ["READY=1", "WATCHDOG=1", "STATUS=at work"]
    teller.look()
    assert manager.heard() == ["WATCHDOG=1"]


def test_the_end_is_told_once(manager: Manager) -> None:
    service = Service()
    environ = {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "200000"}
    with supervised(service.vitals, environ):
        service.ready = True
        while "READY=1" not in manager.heard():
            pass
        assert manager.heard() == ["WATCHDOG=1"]
        service.stopping = True
        while "STOPPING=1" not in (said := manager.heard()):
            pass
        assert said[-1] == "STATUS=finishes what it holds"
    rest = []
    while not manager.silent():
        rest.append(1)


def test_who_ends_without_a_word_before_says_it_at_the_end(manager: Manager) -> None:
    with supervised(Service().vitals, {"NOTIFY_SOCKET": manager.address}):
        manager.heard()
    assert manager.heard() == ["STOPPING=1"]


@pytest.mark.parametrize("address", ["", "relative", "/nowhere/at/all"])
def test_no_manager_is_no_hindrance(address: str) -> None:
    with supervised(Service().vitals, {"NOTIFY_SOCKET": address}):
        pass


def test_a_manager_that_does_not_read_is_no_hindrance(manager: Manager) -> None:
    service = Service()
    teller = Teller(manager.address, service.vitals, 10.0)
    filled = 0
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.setblocking(False)
        while True:
            try:
                other.sendto(b"x", teller._address)
                filled += 1
            except BlockingIOError:
                break
    assert filled
    began = time.monotonic()
    teller.look()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": str(os.getpid())}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_whether_anybody_watches(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_seconds(environ) == seconds
