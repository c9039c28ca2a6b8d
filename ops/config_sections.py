"""The sections of the configuration file: their settings, defaults and limits.

Owns the names that operators write, but for those of `[kafka]` (`ops.config_kafka`). Refuses to
know where a value came from (`ops.config_sources`) and what it is made of it (`ops.config`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from callstate.config import TimeCorrection
from ops.config_values import Identifier, Listen, Seconds, Section, ServerDsn, Text, Whole

MetricsListen = Annotated[
    Listen,
    Field(description="HOST:PORT of `/metrics`, `/healthz`, `/readyz`; empty: not served"),
]


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
    metrics_listen: MetricsListen = ""


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
    metrics_listen: MetricsListen = ""


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
    metrics_listen: MetricsListen = ""
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
