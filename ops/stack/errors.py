"""What can go wrong while the local stack starts or stops; each with one line of advice.

Owns the class of those errors. Refuses to know who prints them (`ops.failures`).
"""

from __future__ import annotations

from ops.errors import OpsError


class StackError(OpsError):
    """A part of the local stack cannot be started, stopped or found."""


class PortTakenError(StackError):
    """Another program listens where a part of the stack was told to."""

    def __init__(self, port: int) -> None:
        super().__init__(
            f"port {port} on 127.0.0.1 is taken by another program",
            f"find it with `ss -ltnp 'sport = :{port}'` and stop it, or choose another port",
        )
        self.port = port
