"""The sections of the configuration file: their settings, defaults and limits.

Owns the names that operators write. Refuses to know where a value came from
(`ops.config_sources`) and what it is made of it (`ops.config`).
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
from pydantic.fields import FieldInfo

from callstate.addresses import broker_addresses
from callstate.config import TimeCorrection
from ops.redaction import why_no_dsn
from ops.secret_dsn import Dsn

SERVER_NAME = re.compile(r"[a-z0-9_-]{1,40}")


def _not_a_bool(value: object) -> object:
    """`true` is no number, though Python says that it is 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  pydantic collects ValueErrors
    return value


def _in_lower_case(value: object) -> object:
    """Kafka's own tools write some names in capitals, librdkafka in lower case: both are taken."""
    return value.lower() if isinstance(value, str) else value


def _in_capitals(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


def _readable(dsn: Dsn) -> Dsn:
    wrong = why_no_dsn(dsn.get_secret_value())
    if wrong:
        raise ValueError(f"must be 'key=value ...' or a postgresql:// URI: the value {wrong}")
    return dsn


def _brokers(servers: str) -> str:
    broker_addresses(servers)
    return servers


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]{1,63}", name):
        raise ValueError("must be 1 to 63 of a-z, 0-9 and _")
    return name


def _listen(address: str) -> str:
    if address and not re.fullmatch(r"\S+:\d{1,5}", address):
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:9108")
    return address


Whole = Annotated[int, BeforeValidator(_not_a_bool)]
Seconds = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]
ServerDsn = Annotated[Dsn, AfterValidator(_readable)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Text = Annotated[str, Field(min_length=1)]
Listen = Annotated[str, AfterValidator(_listen)]


class Section(BaseModel):
    """A table of the file: frozen, and every name in it known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def settings_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's settings by the names that operators write."""
    return {field.alias or name: field for name, field in section.model_fields.items()}


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
    security_protocol: Annotated[
        Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] | None,
        BeforeValidator(_in_lower_case),
    ] = Field(default=None, description="how to talk to the broker")
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI"] | None,
        BeforeValidator(_in_capitals),
    ] = Field(default=None, description="how to log in")
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

    bootstrap_servers: Annotated[Text, AfterValidator(_brokers)] = Field(
        default="127.0.0.1:9092", description="`host:port`, comma separated; without a port, 9092"
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

    @model_validator(mode="after")
    def _brokers_speak_the_protocol(self) -> Self:
        protocol = self.security_protocol or "plaintext"
        for address in broker_addresses(self.bootstrap_servers):
            if address.protocol not in ("", protocol):  # librdkafka leaves such a broker out
                raise ValueError(
                    f"bootstrap_servers says {address.protocol}://, security_protocol {protocol}:"
                    " they must agree"
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
    purge_dsn: ServerDsn | None = Field(
        default=None,
        description="how `purge --servers` connects; a role of its own may delete and read no call",
    )
    slot: Identifier | None = Field(
        default=None, description="replication slot; default `cdrstream_NAME`"
    )
    publication: Identifier = Field(
        default="cdrstream", description="publication of the two tables"
    )


class Sink(Section):
    """The SIPXCDR that holds the CDRs."""

    dsn: ServerDsn | None = Field(default=None, description="how the worker connects to it")
    schema_name: Identifier = Field(
        default="public", alias="schema", description="schema that holds `cdrs`"
    )


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
        default=7_200.0,
        ge=0,
        le=31_536_000,
        description="how long a closed call is kept for late events",
    )
    reference_horizon_seconds: Seconds = Field(
        default=604_800.0,
        ge=0,
        le=31_536_000,
        description="how long a call that is only named is kept",
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


class Reader(Section):
    """How the readers of this process work; the defaults are right for most."""

    start_mode: Literal["backfill", "now"] = Field(
        default="backfill", description="rows written before the slot existed: read them, or not"
    )
    accept_server_change: bool = Field(
        default=False,
        description="go on, by a new backfill, with a server that was restored or replaced",
    )
    heartbeat_seconds: Seconds = Field(
        default=1.0, ge=0.05, le=60, description="how often a heartbeat goes to every partition"
    )
    probe_rounds: Whole = Field(default=8, ge=1, le=100, description="of one clock measurement")
    status_seconds: Seconds = Field(default=2.0, ge=0.1, le=60, description="own status to Kafka")
    slot_check_seconds: Seconds = Field(
        default=10.0, ge=0.1, le=3_600, description="how often the slot is looked at"
    )
    confirm_seconds: Seconds = Field(
        default=0.5, ge=0.05, le=30, description="at most this long between two words to the server"
    )
    position_seconds: Seconds = Field(
        default=0.5, ge=0.05, le=60, description="how often a moved position is stored"
    )
    connect_seconds: Seconds = Field(default=10.0, ge=1, le=300, description="limit to connect")
    buffer_bytes_max: Whole = Field(
        default=64 * 1024 * 1024,
        ge=1024 * 1024,
        le=16 * 1024**3,
        description="read and not yet acknowledged by Kafka; at the bound reading pauses",
    )
    backfill_rows: Whole = Field(default=2_000, ge=1, le=1_000_000, description="of one FETCH")
    slot_wait_seconds: Seconds = Field(
        default=60.0, ge=1, le=3_600, description="open transactions may block the slot's creation"
    )
    silence_seconds: Seconds = Field(
        default=30.0,
        ge=1,
        le=3_600,
        description="a reader that says nothing for so long loses its slot to a standby",
    )
    slot_warn_seconds: Seconds = Field(
        default=14_400.0,
        ge=0,
        le=2_592_000,
        description="warn when a slot will be lost sooner, at the rate of the last minutes",
    )
    shutdown_seconds: Seconds = Field(
        default=8.0, ge=0.1, le=60, description="limit of waiting for acknowledgements at the end"
    )
    metrics_listen: Listen = Field(
        default="", description="HOST:PORT of `/metrics`, `/healthz`, `/readyz`; empty: not served"
    )


class Worker(Section):
    """How a worker works; the defaults are right for most."""

    group_id: Text = Field(default="cdrstream", description="Kafka consumer group of the workers")
    id: Text | None = Field(default=None, description="name of this worker; default: HOST-PID")
    cdr_stream: bool = Field(default=True, description="revisions of CDRs go to a topic too")
    batch_records_max: Whole = Field(default=2_000, ge=1, le=100_000, description="of one fetch")
    in_flight_records_max: Whole = Field(
        default=20_000, ge=1, le=1_000_000, description="fetched and not committed; then it pauses"
    )
    linger_seconds: Seconds = Field(
        default=0.1, ge=0, le=5, description="how long CDRs may wait for others to be written with"
    )
    progress_interval_seconds: Seconds = Field(
        default=1.0, ge=0.05, le=5, description="how often the watermark is committed when idle"
    )
    commit_interval_seconds: Seconds = Field(
        default=2.0, ge=0.1, le=5, description="how often Kafka's group offsets are committed"
    )
    state_store: Literal["memory", "rocksdb"] = Field(
        default="memory", description="where open calls are kept; RocksDB for millions of them"
    )
    state_directory: str = Field(
        default="", description="folder of RocksDB's files, this worker's alone; empty: temporary"
    )
    decoded_calls_max: Whole = Field(
        default=20_000, ge=0, le=10_000_000, description="calls kept decoded between batches"
    )
    session_timeout_seconds: Seconds = Field(
        default=8.0, ge=6, le=300, description="then a dead worker's partitions are given away"
    )
    heartbeat_interval_seconds: Seconds = Field(
        default=1.0, ge=0.1, le=100, description="to the consumer group"
    )
    rebalance_timeout_seconds: Seconds = Field(
        default=10.0, ge=1, le=300, description="how long the group waits for a worker to rejoin"
    )
    drain_seconds: Seconds = Field(
        default=4.0, ge=0.1, le=300, description="to finish a partition that is taken away"
    )
    shutdown_seconds: Seconds = Field(
        default=10.0, ge=1, le=300, description="limit of an orderly end"
    )
    kafka_timeout_seconds: Seconds = Field(
        default=20.0, ge=1, le=600, description="without acknowledgement a record is retried"
    )
    retry_seconds_max: Seconds = Field(
        default=5.0, ge=0.1, le=600, description="ceiling of the back-off while something is away"
    )
    status_interval_seconds: Seconds = Field(
        default=2.0, ge=0.1, le=60, description="own status to Kafka"
    )
    active_interval_seconds: Seconds = Field(
        default=3.0, ge=0.1, le=60, description="how often the sink is told who is talking now"
    )
    active_listen: str = Field(
        default="", description="HOST:PORT of `GET /activecdrs`; empty: not served"
    )
    stall_seconds: Seconds = Field(
        default=120.0, ge=5, le=3_600, description="no progress in spite of lag ends the worker"
    )
    metrics_listen: Listen = Field(
        default="", description="HOST:PORT of `/metrics`, `/healthz`, `/readyz`; empty: not served"
    )


class Retention(Section):
    """How long things are kept; ages in days."""

    enabled: bool = Field(default=True, description="`false`: nothing is ever purged")
    cdr_days: Seconds = Field(
        default=35.0, gt=0, le=36_500, description="CDRs and the reasons behind them"
    )
    event_days: Seconds = Field(
        default=7.0,
        gt=0,
        le=36_500,
        description="events on the servers: `cdrstream purge --servers`",
    )


class Dashboard(Section):
    """The pages. Beyond loopback they want a login and encryption, and start with nothing less."""

    listen: Listen = Field(default="127.0.0.1:8470", description="HOST:PORT of the pages")
    password_hash: SecretStr | None = Field(
        default=None,
        description="who looks must log in; made by `cdrstream dashboard --hash-password`",
    )
    trusted_proxy_header: Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,64}$")] | None = Field(
        default=None,
        description="a reverse proxy logs people in and names them in this header; none, no page",
    )
    tls_certificate: Text | None = Field(default=None, description="file; with `tls_key`: HTTPS")
    tls_key: Text | None = Field(default=None, description="file of its private key")
    tls_by_proxy: bool = Field(
        default=False, description="a reverse proxy on the way encrypts: plain HTTP is fine here"
    )
    hosts: tuple[Text, ...] = Field(
        default=(), description="further names under which browsers may ask for the pages"
    )
    dsn: ServerDsn | None = Field(
        default=None, description="a role that may only SELECT; default: `sink.dsn`, used read-only"
    )
    privacy: Literal["full", "masked", "none"] = Field(
        default="full", description="addresses of people: shown, their ends hidden, or not shown"
    )
    metrics_listen: Listen = Field(
        default="", description="HOST:PORT of `/metrics`, `/healthz`, `/readyz`; empty: not served"
    )
    slots: bool = Field(
        default=True, description="look at the servers' slots itself, for when a reader is away"
    )
    clients_max: Whole = Field(default=128, ge=1, le=10_000, description="live connections at once")


class Replay(Section):
    """How CDRs are made again; beside the running service, and without hurry."""

    workers: Whole = Field(default=1, ge=1, le=64, description="processes of one replay")
    records_per_second_max: Seconds = Field(
        default=10_000.0,
        ge=0,
        le=10_000_000,
        description="of all its processes; 0: as fast as they can",
    )
    margin_seconds: Seconds = Field(
        default=28_800.0,
        ge=0,
        le=31_536_000,
        description="how long before the range reading begins: calls that began then",
    )
    queue_kbytes_max: Whole = Field(
        default=16_384, ge=1_024, le=4_194_304, description="fetched and not yet read, a process"
    )
    checkpoint_seconds: Seconds = Field(
        default=20.0, ge=1, le=3_600, description="how often a point to go on from is kept"
    )
    metrics_listen: Listen = Field(
        default="", description="HOST:PORT of `/metrics` while a replay runs; empty: not served"
    )
