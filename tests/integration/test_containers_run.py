"""What compose.yaml starts, started without containers: the same commands, roles and passwords.

Hosts and ports are this machine's; everything else is as the file has it.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from ruamel.yaml import YAML

from ops.stack import ServerSpec, Stack, ports
from tests.cli_kit import ROOT, until

pytestmark = pytest.mark.timeout(600)

PASSWORD = "cdrstream"
STOP_SECONDS = 10


def services() -> dict[str, dict[str, Any]]:
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", (ROOT / "compose.yaml").read_text())
    found: dict[str, dict[str, Any]] = YAML(typ="safe").load(text)["services"]
    return found


class Containers:
    """Runs what a service of compose.yaml runs."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self._services = services()
        self._folder = folder
        self._hosts = {
            f"server-{server.name}": psycopg.conninfo.conninfo_to_dict(server.dsn)
            for server in stack.servers
        }
        self._config = folder / "cdrstream.toml"
        text = (ROOT / "docker" / "cdrstream.toml").read_text()
        self._config.write_text(text.replace("kafka:9092", stack.broker.bootstrap_servers))
        self._ports = {
            f"CDRSTREAM_{name}__METRICS_LISTEN": f"0.0.0.0:{ports.pick()}"
            for name in ("READER", "WORKER", "DASHBOARD")
        }

    def here(self, text: str) -> str:
        """With this machine's hosts and ports."""
        for name, where in self._hosts.items():
            text = text.replace(f"host={name}", f"host={where['host']} port={where['port']}")
        return text

    def environment(self, name: str) -> dict[str, str]:
        told = self._services[name]["environment"]
        own = {key: self.here(value) for key, value in told.items() if value is not None}
        return {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self._folder / "tmp"),
            "CDRSTREAM_CONFIG": str(self._config),
            "CDRSTREAM_DASHBOARD__LISTEN": "0.0.0.0:0",
            **self._ports,
            **own,
        }

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """In an empty folder, as a container's `/tmp` is."""
        folder = self._folder / "tmp"
        folder.mkdir(exist_ok=True)
        command = [self.here(word) for word in self._services[name]["command"]]
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "ops.cli", *command],
                cwd=folder, env=self.environment(name), stdout=log, stderr=log,
            )  # fmt: skip

    def log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()

    def healthy(self, name: str) -> bool:
        """By the service's own health check."""
        _, program, *arguments = self._services[name]["healthcheck"]["test"]
        assert program == "cdrstream"
        told = subprocess.run(
            [sys.executable, "-m", "ops.cli", *arguments],
            cwd=self._folder, env=self.environment(name), capture_output=True, check=False,
        )  # fmt: skip
        return told.returncode == 0

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[bytes]]:
        """Ended as an engine ends it; it has to obey in time."""
        process = self.start(name)
        try:
            yield process
            assert process.poll() is None, self.log(name)
            process.terminate()
            assert process.wait(STOP_SECONDS) == 0, self.log(name)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def test_everything_comes_up_as_compose_has_it(tmp_path: Path) -> None:
    specs = [ServerSpec(name, password=PASSWORD) for name in ("a", "b", "c")]
    with Stack(specs) as stack:
        containers = Containers(stack, tmp_path)
        assert containers.start("provision").wait(300) == 0, containers.log("provision")
        assert "FAILED" not in containers.log("provision")
        names = ("reader-a", "worker", "dashboard")
        with ExitStack() as running:
            for name in names:
                running.enter_context(containers.running(name))
            for name in names:
                until(lambda name=name: containers.healthy(name))
            running.enter_context(containers.running("traffic"))
            with stack["a"].connect() as a:
                until(lambda: a.execute("SELECT FROM call_state_events LIMIT 5").rowcount == 5)
                roles = "SELECT usename::text FROM pg_stat_activity WHERE usename LIKE 'cdr%'"
                # roles of least right do the work
                until(lambda: {"cdr_reader", "cdr_writer"} <= {row[0] for row in a.execute(roles)})
                progress = "SELECT FROM sink_progress WHERE next_offset > 0"
                until(lambda: a.execute(progress).rowcount)
            url = re.search(r"dashboard: http://0.0.0.0:(\d+)/", containers.log("dashboard"))
            assert url is not None
            with socket.create_connection(("127.0.0.1", int(url[1])), 60) as page:
                page.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert b" 401 " in page.recv(4096).split(b"\r\n")[0], "the pages want a login"
            began = time.monotonic()
        assert time.monotonic() - began < STOP_SECONDS * 4
        left = [path for path in (tmp_path / "tmp").rglob("*") if path.is_file()]
        assert left == [], "nothing is written where a container cannot write"
