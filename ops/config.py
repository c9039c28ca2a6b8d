"""The configuration file: every section, its settings, their defaults and limits.

Owns the names that operators write and their translation into the settings classes of `callstate`,
`cdc` and `stream_app`. Refuses to know where a value came from: that is `ops.config_sources`.

One file serves every command; a machine that only reads needs only its own server's part, so that
what a command cannot do without is checked where it is asked for (`server`, `sink_dsn`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from callstate.config import ResolutionConfig, TimeCorrection
from ops.errors import ConfigError
from ops.redaction import Dsn, why_no_dsn

SERVER_NAME = re.compile(r"[a-z0-9_-]{1,40}")


def _not_a_bool(value: object) -> object:
    """`true` is no number, though Python says that it is 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  pydantic collects ValueErrors
    return value


def _readable(dsn: Dsn) -> Dsn:
    wrong = why_no_dsn(dsn.get_secret_value())
    if wrong:
        raise ValueError(f"must be 'key=value ...' or a postgresql:// URI: the value {wrong}")
    return dsn


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]{1,63}", name):
        raise ValueError("must be 1 to 63 of a-z, 0-9 and _")
    return name


Whole = Annotated[int, BeforeValidator(_not_a_bool)]
Seconds = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]
ServerDsn = Annotated[Dsn, AfterValidator(_readable)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Text = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A table of the file: frozen, and every name in it known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Librdkafka(Section):
    """Properties of librdkafka that are the installation's, not ours; names with underscores."""

    client_id: Text | None = Field(
        default=None, description="name of this client in the broker's logs"
    )
    client_rack: Text | None = Field(
        default=None, description="rack, to read from the nearest replica"
    )
    broker_address_family: Literal["any", "v4", "v6"] | None = Field(
        default=None, description="IP version"
    )
    socket_timeout_ms: Whole | None = Field(
        default=None, ge=10, le=300_000, description="of a request"
    )
    socket_keepalive_enable: bool | None = Field(default=None, description="TCP keepalives")
    reconnect_backoff_max_ms: Whole | None = Field(
        default=None, ge=0, le=3_600_000, description="ceiling"
    )
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] | None = Field(
        default=None, description="how to talk to the broker"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] | None = Field(
        default=None, description="how to log in"
    )
    sasl_username: Text | None = Field(default=None, description="user")
    sasl_password: SecretStr | None = Field(default=None, description="its password")
    sasl_kerberos_service_name: Text | None = Field(
        default=None, description="the broker's principal"
    )
    sasl_kerberos_principal: Text | None = Field(
        default=None, description="this client's principal"
    )
    sasl_kerberos_keytab: Text | None = Field(default=None, description="file with its key")
    ssl_ca_location: Text | None = Field(
        default=None,
        description="file of the certificate authorities to trust (alias `ssl_ca_file`)",
    )
    ssl_certificate_location: Text | None = Field(
        default=None, description="this client's certificate"
    )
    ssl_key_location: Text | None = Field(default=None, description="its private key")
    ssl_key_password: SecretStr | None = Field(
        default=None, description="password of the private key"
    )
    ssl_cipher_suites: Text | None = Field(default=None, description="allowed ciphers")
    ssl_crl_location: Text | None = Field(default=None, description="certificate revocation list")
    ssl_endpoint_identification_algorithm: Literal["none", "https"] | None = Field(
        default=None, description="whether the certificate must name the broker's host"
    )
    enable_ssl_certificate_verification: bool | None = Field(
        default=None, description="whether the broker's certificate is checked"
    )


class Kafka(Librdkafka):
    """The broker and the topics."""

    bootstrap_servers: Text = Field(
        default="127.0.0.1:9092", description="`host:port`, comma separated"
    )
    partitions: Whole = Field(
        default=8, ge=1, le=1_000, description="of the event topic; fixed when it is created"
    )
    replication_factor: Whole = Field(
        default=-1,
        ge=-1,
        le=32_767,
        description="of the topics that provision creates; -1: the broker's",
    )
    topic_prefix: Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{0,100}$")] = Field(
        default="sipx.", description="what the name of every topic begins with"
    )
    retention_days: Seconds = Field(
        default=35, gt=0, le=36_500, description="how far back CDRs can be rebuilt from the topic"
    )

    @model_validator(mode="before")
    @classmethod
    def _aliases(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        for alias, name in KAFKA_ALIASES.items():
            if alias in values:
                if name in values:
                    raise ValueError(f"{alias} and {name} are the same setting: give one of them")
                values = {**values, name: values[alias]}
                del values[alias]
        return values

    @model_validator(mode="after")
    def _login_is_whole(self) -> Self:
        wants_sasl = (self.security_protocol or "").startswith("sasl")
        if wants_sasl and self.sasl_mechanism is None:
            raise ValueError("sasl_mechanism must be set where security_protocol is sasl_...")
        if self.sasl_mechanism is not None and not wants_sasl:
            raise ValueError(
                "security_protocol must be sasl_plaintext or sasl_ssl where sasl_mechanism is set"
            )
        return self

    def topic(self, name: str) -> str:
        """The whole name of a topic: `topic("cdrs")` is `sipx.cdrs`."""
        return self.topic_prefix + name

    @property
    def events_topic(self) -> str:
        """Events, heartbeats and gaps, keyed by call-id."""
        return self.topic("call-state-events")

    def client_properties(self) -> dict[str, str | int | bool]:
        """The properties that every librdkafka client gets, secrets in the clear."""
        properties: dict[str, str | int | bool] = {"bootstrap.servers": self.bootstrap_servers}
        for name in Librdkafka.model_fields:
            value = getattr(self, name)
            if value is not None:
                plain = value.get_secret_value() if isinstance(value, SecretStr) else value
                properties[name.replace("_", ".")] = plain
        return properties


KAFKA_ALIASES = {"ssl_ca_file": "ssl_ca_location", "sasl_mechanisms": "sasl_mechanism"}


class Server(Section):
    """One PostgreSQL that proxies write to."""

    dsn: ServerDsn = Field(description="how the reader connects; needs LOGIN and REPLICATION")
    slot: Identifier | None = Field(
        default=None, description="replication slot; default `cdrstream_NAME`"
    )
    publication: Identifier = Field(
        default="cdrstream", description="publication of the two tables"
    )


class Sink(Section):
    """The SIPXCDR that holds the CDRs."""

    dsn: ServerDsn | None = Field(default=None, description="how the worker connects to it")


class Clock(Section):
    """How the servers' clocks are measured."""

    reference_dsn: ServerDsn | None = Field(
        default=None, description="whose clock is the CDRs' timescale; default: the sink's"
    )
    probe_interval_seconds: Seconds = Field(
        default=10.0, ge=0.1, le=3_600, description="how often a reader measures its server's clock"
    )


class Resolution(Section):
    """The rules' limits, in seconds of event time; a timer <= 0 is off."""

    servers: tuple[Text, ...] | None = Field(
        default=None,
        description="names that the watermark waits for; default: those of `[[servers]]`",
    )
    reference: Text | None = Field(
        default=None,
        description="server whose clock is the timescale where no probe has stamped events",
    )
    allowed_lateness_seconds: Seconds = Field(
        default=5.0,
        ge=0,
        le=86_400,
        description="how far the watermark stays behind the slowest server",
    )
    idle_after_seconds: Seconds | Literal["never"] = Field(
        default=60.0,
        description="a server this far behind the others' progress is set aside; or `never`",
    )
    max_ringing_seconds: Seconds = Field(
        default=120.0, description="an unanswered call ends after this"
    )
    max_call_seconds: Seconds = Field(
        default=28_800.0, description="a call without an end is closed"
    )
    failed_wait_seconds: Seconds = Field(
        default=180.0, description="how long a failure waits for a retry"
    )
    grace_seconds: Seconds = Field(
        default=0.5, ge=0, le=3_600, description="after a call's last arrival"
    )
    late_horizon_seconds: Seconds = Field(
        default=3_600.0,
        ge=0,
        le=31_536_000,
        description="how long a closed call is kept for late events",
    )
    call_events_max: Whole = Field(
        default=20_000, ge=100, le=1_000_000, description="kept of one call"
    )
    skew_warning_seconds: Seconds = Field(
        default=0.5, ge=0, le=86_400, description="a clock is reported"
    )
    time_correction: TimeCorrection = Field(
        default=TimeCorrection.AUTO,
        description="`auto`: where an offset exceeds its error; or `off`",
    )


class Log(Section):
    """What is logged, to standard error."""

    level: Literal["debug", "info", "warning", "error", "critical"] = Field(
        default="info", description="least severity that is logged"
    )
    format: Literal["auto", "text", "json"] = Field(
        default="auto", description="`auto`: text on a terminal, else JSON"
    )


class Config(BaseSettings):
    """The whole file. `servers` is a table by name here; in the file it is `[[servers]]`."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    kafka: Kafka = Kafka()
    servers: dict[str, Server] = Field(default_factory=dict)
    sink: Sink = Sink()
    clock: Clock = Clock()
    resolution: Resolution = Resolution()
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
