"""What is watched: broker, sink and servers as plain values, out of the configuration or from JSON.

Owns what whoever looks at the system has to know of it. Brings no pydantic along, so that a process
that only looks is small; the configuration has been checked by who made this of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

from ops.monitor.facts import Rules

if TYPE_CHECKING:
    from ops.config import Config


@dataclass(frozen=True, slots=True)
class Broker:
    """Kafka, for clients. The properties hold its secrets in the clear."""

    properties: Mapping[str, str | int | bool] = field(repr=False)
    topic_prefix: str
    partitions: int

    def topic(self, name: str) -> str:
        """The whole name of a topic."""
        return self.topic_prefix + name

    @property
    def events_topic(self) -> str:
        """Events, heartbeats and gaps."""
        return self.topic("call-state-events")

    def client_properties(self) -> dict[str, str | int | bool]:
        """What every client gets."""
        return dict(self.properties)


@dataclass(frozen=True, slots=True)
class Watched:
    """Everybody who is asked.

    Attributes:
        broker: Kafka.
        sink_dsn: The database of the CDRs, by the role that looks.
        sink_schema: Where its tables are.
        server_dsns: The servers whose slots are looked at; none where that is switched off.
        rules: What judging depends on.
        sink_is_reference: Whether the sink's clock is the timescale.
    """

    broker: Broker
    sink_dsn: str = field(repr=False)
    sink_schema: str
    server_dsns: Mapping[str, str] = field(repr=False)
    rules: Rules
    sink_is_reference: bool

    @classmethod
    def of(cls, config: Config) -> Self:
        """Out of a configuration.

        Raises:
            ConfigError: The sink is not configured.
        """
        kafka, own = config.kafka, config.dashboard.dsn
        watched = config.servers if config.dashboard.slots else {}
        return cls(
            broker=Broker(kafka.client_properties(), kafka.topic_prefix, kafka.partitions),
            sink_dsn=config.sink_dsn() if own is None else own.get_secret_value(),
            sink_schema=config.sink.schema_name,
            server_dsns={name: one.dsn.get_secret_value() for name, one in watched.items()},
            rules=rules_of(config),
            # Ages are told on the reference's scale, which the sink's own clock is unless said
            # otherwise.
            sink_is_reference=config.clock.reference_dsn is None,
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-able; secrets are in it."""
        return asdict(self)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """Reads what `to_json` wrote."""
        rules = told["rules"]
        return cls(
            **{
                **told,
                "broker": Broker(**told["broker"]),
                "rules": Rules(**{**rules, "servers": tuple(rules["servers"])}),
            }
        )


def rules_of(config: Config) -> Rules:
    """What judging depends on."""
    section = config.resolution
    idle = section.idle_after_seconds
    return Rules(
        servers=config.server_names,
        partitions=config.kafka.partitions,
        lateness_seconds=section.allowed_lateness_seconds,
        heartbeat_seconds=config.reader.heartbeat_seconds,
        idle_after_seconds=None if idle == "never" or idle <= 0 else float(idle),
        skew_warning_seconds=section.skew_warning_seconds,
        slots={name: slot_name(name, server.slot) for name, server in config.servers.items()},
    )


def slot_name(server: str, told: str | None) -> str:
    """What the reader calls its slot where it is told nothing else."""
    return told or "cdrstream_" + re.sub(r"[^a-z0-9_]", "_", server.lower())[:53]
