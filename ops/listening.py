"""`HOST:PORT` as operators write it.

Owns its reading. Refuses to bind.
"""

from __future__ import annotations

from ops.errors import ConfigError


def split_listen(listen: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT`, brackets around IPv6 taken off.

    Raises:
        ConfigError: It is written otherwise.
    """
    host, colon, port = listen.rpartition(":")
    if not (host and colon and port.isdecimal() and int(port) < 65_536):
        raise ConfigError(f"listen = {listen!r}: must be HOST:PORT", "for example 127.0.0.1:9108")
    return host.strip("[]"), int(port)
