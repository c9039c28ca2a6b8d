"""Free loopback ports for servers that keep theirs over a restart.

Owns the choice. The ports lie below the range from which the kernel gives ports to outgoing
connections (32768 and up on Linux), or a connection of anyone could sit on the port of a server
that is down for a moment.
"""

from __future__ import annotations

import random
import socket
from typing import Final

from ops.stack.errors import PortTakenError, StackError

HOST: Final = "127.0.0.1"
_RANGE: Final = range(20_000, 32_000)
_TRIES: Final = 200


def is_free(port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def demand(port: int) -> None:
    """Raises `PortTakenError` when another program listens on `port`."""
    if not is_free(port):
        raise PortTakenError(port)


def pick(taken: set[int] | frozenset[int] = frozenset()) -> int:
    """A port that is free and not in `taken`.

    Two stacks may pick the same one at the same moment: who loses finds out when its server cannot
    bind, and picks again.
    """
    chooser = random.SystemRandom()
    for _ in range(_TRIES):
        port = chooser.choice(_RANGE)
        if port not in taken and is_free(port):
            return port
    raise StackError("no free port on 127.0.0.1 below 32000", "end programs that listen there")


def listening(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((HOST, port)) == 0
