"""What the process that serves the pages is given: plain values, handed over from who checked them.

Owns their form on the way from one program to the next. Refuses to read files: `command` has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from callstate.config import ResolutionConfig, TimeCorrection
from ops.monitor.watched import Watched

if TYPE_CHECKING:
    from ops.config import Config

Privacy = Literal["full", "masked", "none"]


@dataclass(frozen=True, slots=True)
class Door:
    """Who may look, and how they come in; see `[dashboard]` of the configuration."""

    password_hash: str | None = field(default=None, repr=False)
    trusted_proxy_header: str | None = None
    tls_certificate: str | None = None
    tls_key: str | None = None
    tls_by_proxy: bool = False
    hosts: tuple[str, ...] = ()

    @property
    def is_encrypted(self) -> bool:
        """Whether browsers come by HTTPS."""
        return bool(self.tls_certificate or self.tls_by_proxy)


@dataclass(frozen=True, slots=True)
class Serving:
    """All of it.

    Attributes:
        watched: Broker, sink and servers.
        resolution: The rules, for calls that have no CDR yet.
        cdrs_topic: Where revisions are told; empty where they are not.
        door: Who may look.
        host: Of the address that is listened on.
        privacy: How much of people's addresses is shown.
        clients_max: Live connections at once.
        metrics_listen: HOST:PORT; empty: not served.
        log_level: As the configuration has it.
        log_format: The same.
        debug: Whether a failure shows its trace.
    """

    watched: Watched
    resolution: ResolutionConfig
    cdrs_topic: str
    door: Door
    host: str
    privacy: Privacy
    clients_max: int
    metrics_listen: str
    log_level: str
    log_format: Literal["auto", "text", "json"]
    debug: bool

    @classmethod
    def of(cls, config: Config, host: str, *, debug: bool) -> Self:
        """Out of a configuration whose address was found safe.

        Raises:
            ConfigError: The sink is not configured.
        """
        from ops.config import resolution_config  # noqa: PLC0415  who serves has none

        section = config.dashboard
        hashed = section.password_hash
        return cls(
            watched=Watched.of(config),
            resolution=resolution_config(config),
            cdrs_topic=config.kafka.topic("cdrs") if config.worker.cdr_stream else "",
            door=Door(
                password_hash=None if hashed is None else hashed.get_secret_value(),
                trusted_proxy_header=section.trusted_proxy_header,
                tls_certificate=section.tls_certificate,
                tls_key=section.tls_key,
                tls_by_proxy=section.tls_by_proxy,
                hosts=section.hosts,
            ),
            host=host,
            privacy=section.privacy,
            clients_max=section.clients_max,
            metrics_listen=section.metrics_listen,
            log_level=config.log.level,
            log_format=config.log.format,
            debug=debug,
        )

    def to_bytes(self) -> bytes:
        """For the next program; secrets are in it."""
        own = {
            **{name: getattr(self, name) for name in _PLAIN},
            "watched": self.watched.to_json(),
            "resolution": asdict(self.resolution),
            "door": asdict(self.door),
        }
        return json.dumps(own).encode()

    @classmethod
    def from_bytes(cls, told: bytes) -> Self:
        """Reads what `to_bytes` wrote."""
        own: Mapping[str, Any] = json.loads(told)
        rules, door = own["resolution"], own["door"]
        return cls(
            **{
                **own,
                "watched": Watched.from_json(own["watched"]),
                "resolution": ResolutionConfig(
                    **{
                        **rules,
                        "servers": tuple(rules["servers"]),
                        "time_correction": TimeCorrection(rules["time_correction"]),
                    }
                ),
                "door": Door(**{**door, "hosts": tuple(door["hosts"])}),
            }
        )


_PLAIN = (
    *("cdrs_topic", "host", "privacy", "clients_max", "metrics_listen"),
    *("log_level", "log_format", "debug"),
)
