"""Every setting of one worker, in one frozen value.

Owns names, defaults, limits, and the translation of librdkafka's property names for Faust's client.
Refuses to know where a value came from: `ops.config` reads files and flags.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from callstate.addresses import broker_addresses
from callstate.config import ResolutionConfig
from callstate.topics import RETENTION_DAYS, dead_letter_topic
from stream_app.errors import SettingsError

KafkaValue = str | int | float | bool

DEFAULT_GROUP_ID: Final = "cdrstream"
MEMORY: Final = "memory"
ROCKSDB: Final = "rocksdb"


def default_worker_id() -> str:
    """Tells workers apart in statuses and logs; unique among those that run at one time."""
    return f"{socket.gethostname()}-{os.getpid()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSettings:
    """What one worker needs; every buffer and wait is bounded here.

    Attributes:
        bootstrap_servers: `host:port`, comma separated, as `callstate.addresses` reads it.
        sink_dsn: Connection string of the SIPXCDR that holds the CDRs.
        sink_schema: Schema of `cdrs` and ours in it; another one is shadow mode.
        kafka: Further properties as librdkafka names them, with dots or underscores.
        resolution: The rules' settings.
        events_topic: Topic of events, heartbeats and gaps; names the dead letters' topic too.
        references_topic: Questions and answers between calls; as many partitions as the events'.
        status_topic: Compacted; one record a worker.
        cdrs_topic: Revisions of CDRs as a stream; empty: none.
        partitions: Of the event topic; a topic that has another number is refused.
        replication_factor: Of topics that the worker creates; -1 is the broker's default.
        topic_retention_days: How long such a topic of events keeps them.
        group_id: Consumer group, and first part of the changelog's name.
        worker_id: Name of this worker in statuses, logs and `sink_progress.holder`.
        batch_records_max: Records of one partition that are handed on as one message.
        in_flight_records_max: Records fetched and not yet committed; beyond it fetching pauses.
        linger_seconds: How long finished CDRs may wait for others before they are written.
        progress_interval_seconds: How often the watermark is committed when nothing else is.
        commit_interval_seconds: How often Kafka's group offsets are committed.
        state_store: Where open calls are kept: "memory", or "rocksdb" for millions of them.
        state_directory: Folder of RocksDB's files, for this worker alone; empty: a temporary one.
        decoded_calls_max: Calls kept decoded between batches, of all partitions.
        session_timeout_seconds: After this the broker gives a dead worker's partitions away.
        heartbeat_interval_seconds: How often the worker tells the broker that it lives.
        rebalance_timeout_seconds: How long the group waits for a member to rejoin.
        drain_seconds: How long a revoked partition's work may take to be finished.
        shutdown_seconds: How long SIGTERM may take in all.
        kafka_timeout_seconds: After this without acknowledgement a produced record is retried.
        retry_seconds_max: Ceiling of the back-off while the sink or the broker is away.
        status_interval_seconds: How often the status record is written.
        stall_seconds: Partitions that have lag and do not move for this long end the worker.
        active_interval_seconds: How often the sink is told who is talking now.
        active_listen: `HOST:PORT` where `GET /activecdrs` is answered; empty: nowhere.
        retention_days: CDRs older than this are purged; 0: never.
        retention_interval_seconds: How often a worker looks for them.
    """

    bootstrap_servers: str
    sink_dsn: str = field(repr=False)  # may hold a password
    sink_schema: str = "public"
    kafka: Mapping[str, KafkaValue] = field(default_factory=dict, repr=False)
    resolution: ResolutionConfig = field(default_factory=ResolutionConfig)
    events_topic: str = "sipx.call-state-events"
    references_topic: str = "sipx.call-references"
    status_topic: str = "sipx.status"
    cdrs_topic: str = "sipx.cdrs"
    partitions: int = 8
    replication_factor: int = -1
    topic_retention_days: float = RETENTION_DAYS
    group_id: str = DEFAULT_GROUP_ID
    worker_id: str = field(default_factory=default_worker_id)
    batch_records_max: int = 2_000
    in_flight_records_max: int = 20_000
    linger_seconds: float = 0.1
    progress_interval_seconds: float = 1.0
    commit_interval_seconds: float = 2.0
    state_store: str = MEMORY
    state_directory: str = ""
    decoded_calls_max: int = 20_000
    session_timeout_seconds: float = 8.0
    heartbeat_interval_seconds: float = 1.0
    rebalance_timeout_seconds: float = 10.0
    drain_seconds: float = 4.0
    shutdown_seconds: float = 10.0
    kafka_timeout_seconds: float = 20.0
    retry_seconds_max: float = 5.0
    status_interval_seconds: float = 2.0
    stall_seconds: float = 120.0
    active_interval_seconds: float = 3.0
    active_listen: str = ""
    retention_days: float = 35.0
    retention_interval_seconds: float = 3_600.0

    def __post_init__(self) -> None:
        for name, least, most in _LIMITS:
            value = getattr(self, name)
            if not least <= value <= most:
                raise SettingsError(f"{name} = {value!r}: must be from {least} to {most}")
        for name in ("bootstrap_servers", "sink_dsn", "group_id", "worker_id", "sink_schema"):
            if not getattr(self, name):
                raise SettingsError(f"{name} is empty")
        try:
            broker_addresses(self.bootstrap_servers)
        except ValueError as error:
            raise SettingsError(
                f"bootstrap_servers = {self.bootstrap_servers!r}: {error}"
            ) from None
        if self.state_store not in (MEMORY, ROCKSDB):
            raise SettingsError(f"state_store = {self.state_store!r}: must be memory or rocksdb")
        host, colon, port = self.active_listen.rpartition(":")
        if self.active_listen and not (host and colon and port.isdecimal()):
            raise SettingsError(f"active_listen = {self.active_listen!r}: must be HOST:PORT")

    @property
    def dead_letter_topic(self) -> str:
        """Where records go that nothing can be made of."""
        return dead_letter_topic(self.events_topic)

    @property
    def changelog_topic(self) -> str:
        """Faust's name for the changelog of table `open_calls`."""
        return f"{self.group_id}-open_calls-changelog"

    def librdkafka(self, **own: KafkaValue) -> dict[str, KafkaValue]:
        """Properties for a librdkafka client; `own` (with underscores) go before the settings'."""
        given = {name.replace("_", "."): value for name, value in self.kafka.items()}
        given["bootstrap.servers"] = self.bootstrap_servers
        if "ssl.ca.file" in given:
            given["ssl.ca.location"] = given.pop("ssl.ca.file")
        return {**given, **{name.replace("_", "."): value for name, value in own.items()}}


_LIMITS: Final[tuple[tuple[str, float, float], ...]] = (
    ("partitions", 1, 1_000),
    ("batch_records_max", 1, 100_000),
    ("in_flight_records_max", 1, 1_000_000),
    ("linger_seconds", 0.0, 5.0),
    ("progress_interval_seconds", 0.05, 5.0),
    ("commit_interval_seconds", 0.1, 5.0),
    ("decoded_calls_max", 0, 10_000_000),
    ("session_timeout_seconds", 6.0, 300.0),
    ("heartbeat_interval_seconds", 0.1, 100.0),
    ("rebalance_timeout_seconds", 1.0, 300.0),
    ("drain_seconds", 0.1, 300.0),
    ("shutdown_seconds", 1.0, 300.0),
    ("kafka_timeout_seconds", 1.0, 600.0),
    ("retry_seconds_max", 0.1, 600.0),
    ("status_interval_seconds", 0.1, 60.0),
    ("stall_seconds", 5.0, 3_600.0),
    ("active_interval_seconds", 0.1, 60.0),
    ("retention_days", 0.0, 36_500.0),
    ("retention_interval_seconds", 0.1, 86_400.0),
)


def faust_broker(settings: WorkerSettings) -> list[str]:
    """The bootstrap servers as Faust's `broker` setting wants them."""
    return [f"kafka://{address}" for address in broker_addresses(settings.bootstrap_servers)]


def faust_credentials(settings: WorkerSettings) -> Any:
    """Security settings as Faust's `broker_credentials`; None for a plain connection.

    Raises:
        SettingsError: A protocol or mechanism that aiokafka does not speak.
    """
    import faust  # noqa: PLC0415  only here: importing Faust takes half a second

    given = settings.librdkafka()
    protocol = str(given.get("security.protocol", "plaintext")).lower()
    if protocol == "plaintext":
        return None
    if protocol not in ("ssl", "sasl_plaintext", "sasl_ssl"):
        raise SettingsError(f"security.protocol = {protocol!r}: must be plaintext, ssl or sasl_*")
    context = _ssl_context(given) if protocol.endswith("ssl") else None
    if protocol == "ssl":
        return faust.SSLCredentials(context)
    mechanism = str(given.get("sasl.mechanism", given.get("sasl.mechanisms", "")))
    if mechanism not in ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"):
        raise SettingsError(
            f"sasl.mechanism = {mechanism!r}: must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
        )
    return faust.SASLCredentials(
        username=str(given.get("sasl.username", "")),
        password=str(given.get("sasl.password", "")),
        mechanism=mechanism,
        ssl_context=context,
    )


def _ssl_context(given: Mapping[str, KafkaValue]) -> ssl.SSLContext:
    def path(name: str) -> str | None:
        value = given.get(name)
        return None if value is None else str(value)

    context = ssl.create_default_context(cafile=path("ssl.ca.location"))
    certificate = path("ssl.certificate.location")
    if certificate is not None:
        context.load_cert_chain(certificate, path("ssl.key.location"), path("ssl.key.password"))
    if given.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    if given.get("enable.ssl.certificate.verification") in (False, "false"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
