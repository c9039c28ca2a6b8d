"""Reader and worker as systemd runs them: ready when they are, watched, told when they end."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.stack import Stack
from tests.cli_kit import admins, cdrstream, service, write_config

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with Stack(1) as stack:
        path = write_config(tmp_path_factory.mktemp("sd") / "sd.toml", stack, stack.servers[:1])
        told = cdrstream("provision", *admins(stack.servers[:1]), config=path)
        assert told.returncode == 0, told.stdout + told.stderr
        yield path


@pytest.mark.parametrize("command", ["reader", "worker", "dashboard"])
def test_ready_watched_and_ended(
    config: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = tmp_path / "notify"
    monkeypatch.setenv("NOTIFY_SOCKET", str(address))
    monkeypatch.setenv("WATCHDOG_USEC", "2000000")
    monkeypatch.setenv("CDRSTREAM_DASHBOARD__LISTEN", "127.0.0.1:0")
    log = tmp_path / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(address))
        manager.settimeout(60)
        said: list[str] = []

        def until(word: str) -> None:
            while word not in said:
                try:
                    said.extend(manager.recv(4096).decode().splitlines())
                except TimeoutError:
                    raise AssertionError(f"no {word}; {said}\n{log.read_text()}") from None

        with service(*command.split(), config=config, log=log) as process:
            until("READY=1")
            assert "STOPPING=1" not in said
            said.clear()
            until("WATCHDOG=1")
            process.terminate()
            began = time.monotonic()
            until("STOPPING=1")
            assert process.wait(60) == 0, log.read_text()
            assert time.monotonic() - began < 10
