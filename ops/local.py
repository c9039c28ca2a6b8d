"""The commands `stack up` and `stack down`: a local stack that outlives its command.

Owns the process in the background and the folder that tells where it is. Refuses to know how
servers are started: `ops.stack` does.

`up` starts itself again as a process of its own, which holds the stack; the stack ends with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import typer

from ops.errors import OpsError

DEFAULT_FOLDER: Final = Path(".cdrstream-stack")
CONFIG_NAME: Final = "cdrstream.toml"
STATE_NAME: Final = "stack.json"
LOG_NAME: Final = "stack.log"
START_SECONDS: Final = 600.0  # the first start downloads the broker
STOP_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1
_LOG_LINES: Final = 5


def stack_up(servers: int, folder: Path | None, *, foreground: bool) -> None:
    """Starts the stack; returns when it answers, or in the foreground when a signal ends it.

    Raises:
        OpsError: It runs already, or does not start.
    """
    folder = (folder or DEFAULT_FOLDER).resolve()
    running = _state(folder)
    if running is not None:
        raise OpsError(
            f"a stack runs already in {folder} (process {running['pid']})",
            "cdrstream stack down   ends it; --folder DIR starts another one",
        )
    folder.mkdir(parents=True, exist_ok=True)
    if foreground:
        _hold(servers, folder)
        return
    state = _start_in_background(servers, folder)
    _tell(folder, state)


def stack_down(folder: Path | None) -> None:
    """Ends the stack of a folder and what it held; one that does not run is no error."""
    folder = (folder or DEFAULT_FOLDER).resolve()
    state = _state(folder)
    if state is None:
        typer.echo(f"no stack runs in {folder}")
        return
    os.kill(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while _state(folder) is not None:
        if time.monotonic() > deadline:
            raise OpsError(
                f"process {state['pid']} did not end within {STOP_SECONDS:g} s",
                f"kill -9 {state['pid']}   ends it, and all that it started",
            )
        time.sleep(_POLL_SECONDS)
    typer.echo(f"the stack in {folder} is gone")


def _hold(servers: int, folder: Path) -> None:
    """Holds the stack until SIGTERM or Ctrl-C."""
    from ops.stack import Stack  # noqa: PLC0415  on demand

    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    state_file = folder / STATE_NAME
    try:
        with Stack(servers) as stack:
            config = _config_of(stack)
            (folder / CONFIG_NAME).write_text(config, encoding="utf-8")
            state = {
                "pid": os.getpid(),
                "started": _started(os.getpid()),
                "broker": stack.broker.bootstrap_servers,
                "servers": {server.spec.name: server.dsn for server in stack.servers},
                "folder": str(stack.folder),
            }
            partial = state_file.with_suffix(".new")
            partial.write_text(json.dumps(state), encoding="utf-8")
            partial.replace(state_file)
            _tell(folder, state)
            ended.wait()
    finally:  # after the stack has ended: who waits for this file waits for all of it
        state_file.unlink(missing_ok=True)


def _start_in_background(servers: int, folder: Path) -> dict[str, Any]:
    log = folder / LOG_NAME
    command = [sys.executable, "-m", "ops.cli", "stack", "up", "--foreground"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--servers", str(servers), "--folder", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        state = _state(folder)
        if state is not None:
            return state
        if process.poll() is not None:
            words = log.read_text(errors="replace").strip().splitlines()[-_LOG_LINES:]
            message = " ".join(line.strip() for line in words).removeprefix("error: ")
            raise OpsError(f"the stack did not start: {message}")
        time.sleep(_POLL_SECONDS)
    process.terminate()
    raise OpsError(f"the stack did not answer within {START_SECONDS:g} s", f"its log is {log}")


def _state(folder: Path) -> dict[str, Any] | None:
    """What the running stack of a folder told; None where none runs."""
    try:
        state: dict[str, Any] = json.loads((folder / STATE_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    # A process id is used again some day; with its start time it is one process for ever.
    return state if _started(state["pid"]) == state["started"] else None


def _started(pid: int) -> str | None:
    """When a process started, in the kernel's ticks (proc(5), field 22); None where it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]


def _config_of(stack: Any) -> str:
    """The configuration file that speaks to the stack, as its superuser."""
    lines = ["# Made by `cdrstream stack up`.", "[kafka]"]
    lines += [f"bootstrap_servers = {json.dumps(stack.broker.bootstrap_servers)}", ""]
    for server in stack.servers:
        lines += ["[[servers]]", f'name = "{server.spec.name}"', f"dsn = {json.dumps(server.dsn)}"]
        lines.append("")
    return "\n".join([*lines, "[sink]", f"dsn = {json.dumps(stack.sink.dsn)}", ""])


def _tell(folder: Path, state: dict[str, Any]) -> None:
    config = folder / CONFIG_NAME
    typer.echo(f"broker    {state['broker']}")
    for name, dsn in state["servers"].items():
        typer.echo(f"server {name}  psql '{dsn}'")
    typer.echo(f"config    {config}")
    typer.echo("next:")
    for arguments in ("provision", "reader", "worker", "doctor"):
        typer.echo(f"  cdrstream {arguments} --config {config}")
    sys.stdout.flush()
