"""`cdrstream stack up` and `down`: a stack that runs in a terminal until it is told to end.

Owns the folder by which the two find each other, the configuration file written there, and what is
printed. Refuses to parse command lines. The servers' data lies in a folder of the stack's own and
is gone when the stack ends.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

from ops.stack.errors import StackError
from ops.stack.kafka import BrokerSpec
from ops.stack.postgres import PostgresServer
from ops.stack.processes import wait_until
from ops.stack.stack import Stack

DEFAULT_FOLDER: Final = Path(".cdrstream")
_PARTITIONS: Final = 8
_DOWN_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.5


def cli_up(
    folder: Path | None = None,
    servers: int = 3,
    *,
    clocks: Mapping[str, str] | None = None,
    kafka_port: int | None = None,
    version: str | None = None,
    out: TextIO | None = None,
) -> None:
    """Starts a stack, says how to connect, and runs until SIGINT, SIGTERM or `cli_down`.

    Args:
        folder: Where `cdrstream.toml` and what `cli_down` needs are written.
        servers: How many PostgreSQL servers; the first one holds the CDRs.
        clocks: Wrong clocks by server name (`a`, `b`, ...), such as `-5.5s`.
        kafka_port: Port of the broker; None picks a free one.
        version: PostgreSQL's major version; None is the best there is.
        out: Where to print; by default standard output.

    Raises:
        StackError: Something is missing, or a stack runs in that folder already.
    """
    place, say = (folder or DEFAULT_FOLDER).absolute(), out or sys.stdout
    config = place / "cdrstream.toml"
    stack = Stack(servers, clocks=clocks, version=version, broker=BrokerSpec(port=kafka_port))
    with _held(place), suppress(KeyboardInterrupt), _terminates(), stack:
        config.write_text(config_text(stack))
        try:
            say.write(_told(stack, config))
            say.flush()
            _look_after(stack)
        finally:
            config.unlink(missing_ok=True)


def cli_down(folder: Path | None = None, out: TextIO | None = None) -> None:
    """Ends the stack that `cli_up` runs in a folder; returns when it is gone.

    Raises:
        StackError: None runs there, or it does not end.
    """
    place, say = (folder or DEFAULT_FOLDER).absolute(), out or sys.stdout
    lock = place / "stack.lock"
    if _is_free(lock):
        raise StackError(
            f"no stack runs in {place}", "name its folder, or start one: cdrstream stack up"
        )
    owner = int(json.loads(lock.read_text())["pid"])
    os.kill(owner, signal.SIGTERM)
    if not wait_until(lambda: _is_free(lock), _DOWN_SECONDS):
        raise StackError(f"the stack of process {owner} does not end", f"try kill -9 {owner}")
    say.write(f"the stack in {place} has ended\n")


def config_text(stack: Stack) -> str:
    """The configuration file that speaks to a stack, in the form that every command reads."""
    lines = ["# Made by `cdrstream stack up`, for as long as that runs.", "", "[kafka]"]
    lines += [f'bootstrap_servers = "{stack.broker.bootstrap_servers}"']
    lines += [f"partitions = {_PARTITIONS}"]
    for server in stack.servers:
        lines += ["", "[[servers]]", f'name = "{server.name}"', f'dsn = "{server.dsn}"']
    lines += ["", "[sink]", f'dsn = "{stack.sink.dsn}"']
    return "\n".join(lines) + "\n"


def _told(stack: Stack, config: Path) -> str:
    lines = [f"broker    {stack.broker.bootstrap_servers}"]
    lines += [
        f"server {server.name}  psql '{server.dsn}'{_note(server)}" for server in stack.servers
    ]
    lines += [f"config    {config}", f"logs      {stack.folder}"]
    lines += [f"next      cdrstream provision --config '{config}'", "Ctrl-C ends it", ""]
    return "\n".join(lines)


def _note(server: PostgresServer) -> str:
    return f"   (clock {server.clock})" if server.clock else ""


def _look_after(stack: Stack) -> None:
    """Runs until interrupted; a server that ends by itself is told, not hidden."""
    while True:
        time.sleep(_LOOK_SECONDS)
        if not stack.broker.alive:
            raise StackError("the broker ended by itself", f"see {stack.broker.log}")
        for server in stack.servers:
            if not server.alive:
                raise StackError(f"server {server.name} ended by itself", f"see {server.log}")


@contextmanager
def _terminates() -> Iterator[None]:
    """SIGTERM interrupts as Ctrl-C does, at any moment of the start as well."""

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _held(place: Path) -> Iterator[None]:
    """The folder is ours while we live; the kernel takes the lock back when we are killed."""
    place.mkdir(parents=True, exist_ok=True)
    lock = place / "stack.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StackError(
                f"a stack runs in {place} already",
                "end it (cdrstream stack down), or give this one a folder: --folder DIR",
            ) from error
        os.ftruncate(descriptor, 0)
        text = {"pid": os.getpid(), "since": time.time()}
        os.write(descriptor, json.dumps(text).encode())
        yield
    finally:
        os.close(descriptor)


def _is_free(lock: Path) -> bool:
    with suppress(FileNotFoundError):
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
    return True
