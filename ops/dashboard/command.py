"""`cdrstream dashboard`: checks what is configured, takes the address, and becomes the server.

Owns that hand-over. Nothing is served before what is configured has been found safe. The server is
a program of its own (`process`) that this one turns into: reading a configuration takes libraries
of 25 MB, which serving does not need. Process id, environment and standard error stay.
"""

from __future__ import annotations

import getpass
import os
import socket
import sys
from pathlib import Path
from typing import Final

import typer

import ops
from ops.dashboard.address import check_address, hash_password
from ops.dashboard.serving import Serving
from ops.errors import ConfigError
from ops.invocation import Invocation

PASSWORD_LEAST: Final = 8
PROGRAM: Final = "ops.dashboard.process"
_BACKLOG: Final = 256


def print_hash() -> None:
    """Asks for a password and prints its hash.

    Raises:
        ConfigError: It is too short.
    """
    if sys.stdin.isatty():
        password = getpass.getpass("Password: ")
    else:
        password = sys.stdin.readline().rstrip("\n")
    if len(password) < PASSWORD_LEAST:
        raise ConfigError("the password is too short", f"{PASSWORD_LEAST} characters at least")
    typer.echo(hash_password(password))


def run(invocation: Invocation, listen: str | None) -> None:
    """Serves until SIGTERM or SIGINT; does not return.

    Raises:
        ConfigError: The address is taken, or not safe with what is configured.
    """
    config = invocation.config
    host, port = check_address(config.dashboard, listen or config.dashboard.listen)
    serving = Serving.of(config, host, debug=invocation.debug)
    sock = bound(host, port)
    sock.set_inheritable(True)
    handed = _anonymous_file(serving.to_bytes())
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(  # noqa: S606  ourselves, with arguments of our own
        sys.executable,
        # -P: what happens to lie in the working directory is no program of ours.
        [sys.executable, "-P", "-m", PROGRAM, str(handed), str(sock.fileno()), *sys.argv[1:]],
        {**os.environ, "PYTHONPATH": _python_path()},
    )


def _python_path() -> str:
    """These sources, behind what this process was told to take first."""
    sources = str(Path(ops.__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), sources)))


def _anonymous_file(content: bytes) -> int:
    """A file without a name, for the next program alone: not even root finds secrets in `ps`."""
    number = os.memfd_create("cdrstream", 0)
    os.set_inheritable(number, True)
    view = memoryview(content)
    while view:
        view = view[os.write(number, view) :]
    os.lseek(number, 0, os.SEEK_SET)
    return number


def bound(host: str, port: int) -> socket.socket:
    """A socket that listens there.

    Raises:
        ConfigError: The address is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"dashboard.listen: {host}:{port}: {error.strerror}",
            "is another one running? --listen 127.0.0.1:0 takes a free port",
        ) from error
    return sock
