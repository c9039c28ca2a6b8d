"""The command as a user runs it: a process of its own, with a configuration file.

Owns the configuration that speaks to a local stack, and the processes. Refuses to expect anything.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ops.stack import PostgresServer, Stack

ROOT = Path(__file__).resolve().parents[1]
STOP_SECONDS = 60.0  # that services end in time is shown where it is asked for


def environment() -> dict[str, str]:
    """The tester's own, without settings of theirs."""
    own = {name: value for name, value in os.environ.items() if not _is_a_setting(name)}
    return {**own, "PYTHONPATH": str(ROOT)}


def _is_a_setting(name: str) -> bool:
    return name == "CALLRESOLVER_CONFIG" or (name.startswith("CDRSTREAM_") and "CACHE" not in name)


def write_config(path: Path, stack: Stack, servers: Sequence[PostgresServer]) -> Path:
    """A file with least-privilege roles, a topic prefix of its own and 2 partitions."""
    lines = [
        "[kafka]",
        f"bootstrap_servers = {json.dumps(stack.broker.bootstrap_servers)}",
        "partitions = 2",
        f'topic_prefix = "{path.stem}."',
    ]
    for server in servers:
        dsn = server.dsn_for(user="cdr_reader")
        lines += ["[[servers]]", f'name = "{server.name}"', f"dsn = {json.dumps(dsn)}"]
    lines += ["[sink]", f"dsn = {json.dumps(stack.sink.dsn_for(user='cdr_writer'))}"]
    lines += ["[worker]", f'group_id = "{path.stem}"']
    path.write_text("\n".join(lines) + "\n")
    return path


def admins(servers: Sequence[PostgresServer]) -> list[str]:
    """`--admin-dsn` for each server."""
    return [f"--admin-dsn={server.name}={server.dsn}" for server in servers]


def cdrstream(
    *arguments: str,
    config: Path | None = None,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, in a folder and with variables besides the usual."""
    return subprocess.run(
        _command(arguments, config),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=cwd,
        env={**environment(), **(environ or {})},
    )


@contextmanager
def service(
    *arguments: str,
    config: Path,
    log: Path,
    cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """A service that is ended by SIGTERM at the end of the block, by SIGKILL if it must be."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            _command(arguments, config),
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**environment(), **(environ or {})},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def until(condition: Callable[[], object], timeout_seconds: float = 120.0) -> None:
    """Waits for a condition; what it says last is in the failure."""
    deadline = time.monotonic() + timeout_seconds
    while not (told := condition()):
        assert time.monotonic() < deadline, f"still {told!r} after {timeout_seconds:g} s"
        time.sleep(0.1)


def _command(arguments: tuple[str, ...], config: Path | None) -> list[str]:
    options = [] if config is None else ["--config", str(config)]
    return [sys.executable, "-m", "ops.cli", *arguments, *options]
