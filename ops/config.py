"""The configuration file as a whole, and what each part of the program is given of it.

Owns the translation into the settings classes of `callstate`, `cdc` and `stream_app`. Refuses to
know where a value came from: that is `ops.config_sources`.

One file serves every command; a machine that only reads needs only its own server's part, so that
what a command cannot do without is checked where it is asked for (`server`, `sink_dsn`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from callstate.config import ResolutionConfig
from ops.config_kafka import Kafka
from ops.config_sections import (
    Clock,
    Dashboard,
    Log,
    Reader,
    Replay,
    Resolution,
    Retention,
    Server,
    Sink,
    Worker,
)
from ops.errors import ConfigError

if TYPE_CHECKING:
    from cdc.settings import ReaderSettings
    from stream_app.settings import WorkerSettings


class Config(BaseSettings):
    """The whole file. `servers` is a table by name here; in the file it is `[[servers]]`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kafka: Kafka = Kafka()
    servers: dict[str, Server] = Field(default_factory=dict)
    sink: Sink = Sink()
    clock: Clock = Clock()
    resolution: Resolution = Resolution()
    reader: Reader = Reader()
    worker: Worker = Worker()
    retention: Retention = Retention()
    replay: Replay = Replay()
    dashboard: Dashboard = Dashboard()
    log: Log = Log()

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        reference = self.resolution.reference
        names = self.server_names
        if reference is not None and names and reference not in names:
            raise ValueError(
                f"resolution.reference = {reference!r}: must be one of {', '.join(names)}"
            )
        return self

    @property
    def server_names(self) -> tuple[str, ...]:
        """Names of the servers that the watermark waits for."""
        if self.resolution.servers is not None:
            return self.resolution.servers
        return tuple(self.servers)

    def server(self, name: str) -> Server:
        """One server's part; an unknown name is bad usage."""
        if name not in self.servers:
            known = ", ".join(self.servers) or "none"
            raise ConfigError(
                f"servers: there is no server {name!r}; configured: {known}",
                "add a [[servers]] table with that name and its dsn to the file",
            )
        return self.servers[name]

    def sink_dsn(self) -> str:
        """The sink's connection string, in the clear."""
        if self.sink.dsn is None:
            raise ConfigError(
                "sink.dsn is not set: this command needs the database that holds the CDRs",
                'add [sink] with dsn = "host=... dbname=SIPXCDR user=..." to the file',
            )
        return self.sink.dsn.get_secret_value()

    def reference_dsn(self) -> str | None:
        """The clock reference's connection string, in the clear; None where nobody holds one."""
        dsn = self.clock.reference_dsn or self.sink.dsn
        return None if dsn is None else dsn.get_secret_value()


def resolution_config(config: Config) -> ResolutionConfig:
    """The rules' settings as the domain takes them."""
    section = config.resolution
    idle = section.idle_after_seconds
    values = section.model_dump(exclude={"servers", "idle_after_seconds"})
    return ResolutionConfig(
        servers=config.server_names,
        idle_after_seconds=None if idle == "never" or idle <= 0 else idle,
        **values,
    )


def reader_settings(config: Config, server_name: str) -> ReaderSettings:
    """One server's reader as `cdc` takes it.

    Raises:
        ConfigError: There is no such server.
    """
    from cdc.settings import ReaderSettings, StartMode, TopicNames  # noqa: PLC0415  on demand
    from ops.dsn import same_host  # noqa: PLC0415  libpq is slow to load

    server = config.server(server_name)
    kafka, section = config.kafka, config.reader
    dsn = server.dsn.get_secret_value()
    reference_dsn = config.reference_dsn()
    return ReaderSettings(
        server=server_name,
        dsn=dsn,
        kafka=kafka.client_properties(),
        reference_dsn=reference_dsn,
        reference=reference_dsn is not None and same_host(dsn, reference_dsn),
        topics=TopicNames(
            events=kafka.events_topic,
            observers=kafka.topic("observer-state-events"),
            positions=kafka.topic("reader-positions"),
            status=kafka.topic("status"),
        ),
        partitions=kafka.partitions,
        replication_factor=kafka.replication_factor,
        topic_retention_days=kafka.retention_days,
        slot=server.slot or "",
        publication=server.publication,
        probe_seconds=config.clock.probe_interval_seconds,
        start_mode=StartMode(section.start_mode),
        **section.model_dump(exclude={"start_mode", "metrics_listen"}),
    )


def worker_settings(config: Config) -> WorkerSettings:
    """A worker as `stream_app` takes it.

    Raises:
        ConfigError: The sink is not configured, or two settings contradict each other.
    """
    from stream_app.errors import SettingsError  # noqa: PLC0415  on demand
    from stream_app.settings import WorkerSettings, default_worker_id  # noqa: PLC0415

    kafka, section = config.kafka, config.worker
    properties = kafka.client_properties()
    try:
        return WorkerSettings(
            bootstrap_servers=str(properties.pop("bootstrap.servers")),
            sink_dsn=config.sink_dsn(),
            sink_schema=config.sink.schema_name,
            kafka=properties,
            resolution=resolution_config(config),
            events_topic=kafka.events_topic,
            references_topic=kafka.topic("call-references"),
            status_topic=kafka.topic("status"),
            cdrs_topic=kafka.topic("cdrs") if section.cdr_stream else "",
            partitions=kafka.partitions,
            replication_factor=kafka.replication_factor,
            topic_retention_days=kafka.retention_days,
            worker_id=section.id or default_worker_id(),
            retention_days=config.retention.cdr_days if config.retention.enabled else 0.0,
            **section.model_dump(exclude={"id", "cdr_stream", "metrics_listen"}),
        )
    except SettingsError as error:
        raise ConfigError(f"worker: {error}", error.advice) from error
