"""The command `health`: asks a service of this machine, or container, whether it is well.

Owns where to ask: the service's own `metrics_listen`. Refuses to judge; the service does, from a
thread of its own (`ops.metrics_http`). An image then needs no other program for its health checks.
"""

from __future__ import annotations

import http.client
from typing import Final, Literal

from ops.config import Config
from ops.errors import ConfigError, OpsError
from ops.listening import split_listen
from ops.visible import visible

Service = Literal["reader", "worker", "dashboard"]
_ANSWER_SECONDS: Final = 5.0
_ANSWER_BYTES: Final = 500
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  asked, not bound


def check(config: Config, service: Service, *, ready: bool) -> str:
    """What to say of a service that is well.

    Args:
        config: Says where the service answers.
        service: Which one.
        ready: Whether it has to do its work, too, and not only to live.

    Raises:
        ConfigError: It answers nowhere.
        OpsError: It is not well, or does not answer.
    """
    listen = getattr(config, service).metrics_listen
    if not listen:
        raise ConfigError(
            f"{service}.metrics_listen is not set: the {service} answers nowhere",
            'set it, for example to "127.0.0.1:9108"; each process of a machine needs its own port',
        )
    host, port = split_listen(listen)
    if port == 0:
        raise ConfigError(
            f"{service}.metrics_listen = {listen!r}: nobody else knows a port that is taken freely",
            "give it a port of its own",
        )
    host = _ANYWHERE.get(host, host)
    path = "/readyz" if ready else "/healthz"
    connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        status, said = answer.status, answer.read(_ANSWER_BYTES).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        raise OpsError(
            f"the {service} does not answer at {host}:{port}: {error}",
            "is it running, and with the same configuration?",
        ) from error
    finally:
        connection.close()
    if status != http.client.OK:
        why = visible(said.strip().removeprefix("no").removeprefix(": "))
        raise OpsError(
            f"the {service} {'does not do its work' if ready else 'hangs'} ({path}: {status})"
            + (f": {why}" if why else ""),
            "its log says why; `cdrstream status` says who holds it up",
        )
    return f"{service}: {'ready' if ready else 'alive'}"
