"""The broker of the local stack: one Apache Kafka in KRaft mode, its own controller.

Owns its configuration, start, stop, and the ways a test breaks it. Refuses to know topics.
"""

from __future__ import annotations

import base64
import os
import signal
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ops.stack import ports
from ops.stack.accounts import Account
from ops.stack.errors import PortTakenError, StackError
from ops.stack.part import Part
from ops.stack.processes import Program, run_to_end
from ops.stack.security import BrokerSecurity, argument_file

_START_SECONDS: Final = 90.0
_FORMAT_SECONDS: Final = 120.0
_METADATA_SECONDS: Final = 2.0
_TOPIC_SECONDS: Final = 30.0
_PORT_TRIES: Final = 5
_NODE: Final = 1
_QUICK: Final = "-XX:TieredStopAtLevel=1"  # without the optimising compiler
_JVM: Final = ("-XX:+UseSerialGC", "-XX:-UsePerfData", "-Xshare:auto", "-Djava.awt.headless=true")


@dataclass(frozen=True, slots=True)
class Listener:
    """A second way in, beside the plain one: behind a proxy, or with TLS and passwords.

    Attributes:
        protocol: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
        settings: Its own settings, named without `listener.name....` before them.
        advertised_port: Where clients are sent, if not to where it listens: the proxy's port.
        port: Where it listens; None picks a free one.
    """

    protocol: str = "PLAINTEXT"
    settings: Mapping[str, str] = field(default_factory=dict)
    advertised_port: int | None = None
    port: int | None = None


@dataclass(frozen=True, slots=True)
class BrokerSpec:
    """What the broker shall be.

    Attributes:
        port: Loopback port of its clients; None picks a free one.
        heap_mb: Largest Java heap.
        short_lived: Java compiles once and quickly: a start takes 2.5 s of CPU in the place of 4.3,
            and the broker never gets as fast as it could.
        settings: `server.properties` settings that go before the defaults.
        second: A second listener.
        security: TLS, passwords and rights; without, everybody on this machine may do everything.
    """

    port: int | None = None
    heap_mb: int = 512
    short_lived: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)
    second: Listener | None = None
    security: BrokerSecurity | None = None


class KafkaBroker(Part):
    """A broker on loopback; its port stays the same over restarts."""

    def __init__(
        self,
        spec: BrokerSpec,
        java: Path,
        jars: Path,
        stack_folder: Path,
        account: Account | None,
    ) -> None:
        super().__init__("the broker")
        self.spec = spec
        self.folder = stack_folder / "kafka"
        self.log = self.folder / "kafka.log"
        self.cluster_id = _cluster_id()
        self._java = java
        self._jars = jars
        self._stack_folder = stack_folder
        self._account = account
        self._port = spec.port
        self._controller_port: int | None = None
        self._second_port = spec.second.port if spec.second else None

    @property
    def port(self) -> int:
        """Loopback port of its clients."""
        if self._port is None:
            raise StackError("the broker has no port before it is started")
        return self._port

    @property
    def bootstrap_servers(self) -> str:
        """As clients want it: `host:port`."""
        return f"{ports.HOST}:{self.port}"

    @property
    def second_bootstrap_servers(self) -> str:
        """The same of the second listener."""
        if self.spec.second is None or self._second_port is None:
            raise StackError("the broker has no second listener, or is not started")
        return f"{ports.HOST}:{self.spec.second.advertised_port or self._second_port}"

    def client_properties(self, user: str | None = None) -> dict[str, str]:
        """What a client of librdkafka needs, as a user of the broker: by default its admin."""
        where = {"bootstrap.servers": self.bootstrap_servers}
        security = self.spec.security
        return (
            where
            if security is None
            else where | security.client_properties(user or security.admin)
        )

    def admin(self) -> AdminClient:
        """A client that creates and describes topics; hold it while its futures are not done."""
        # its log would only repeat, on standard error, that a broker being started does not answer
        properties: dict[str, str | int | float | bool] = {
            **self.client_properties(),
            "log_level": 0,
        }
        return AdminClient(properties)

    def create_topic(self, name: str, partitions: int, **config: str) -> None:
        """Makes a topic; `cleanup_policy="compact"` stands for `cleanup.policy`."""
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin = self.admin()
        admin.create_topics([NewTopic(name, partitions, 1, config=settings)])[name].result(
            _TOPIC_SECONDS
        )

    def create(self) -> None:
        """Makes and formats its folder; once, before the first start."""
        self.folder.mkdir(mode=0o700)
        self._write(self.folder / "log4j2.xml", _log4j())
        # ports do not matter to the formatter, but it reads the whole file
        self._write_properties(self._port or 9092, 9093)
        if self._account:
            os.chown(self.folder, self._account.uid, self._account.gid)
        program = ["kafka.tools.StorageTool", "format"]
        program += ["-t", self.cluster_id, "-c", str(self._properties)]
        if self.spec.security is not None:
            program += self.spec.security.first_users()
        arguments = self.folder / "format.args"
        self._write(arguments, argument_file(program))
        # a program this short is over before the optimising compiler has paid: 1.8 s of CPU to 1.1
        command = [*self._command(_QUICK), f"@{arguments}"]
        words = run_to_end(
            command, self._environment(), self.folder, self._account, _FORMAT_SECONDS
        )
        arguments.unlink()
        if words:
            raise StackError(
                f"the broker's folder cannot be formatted: {words}",
                "is the disk full? Else remove the cached jars, so that they are fetched again: "
                f"rm -r '{self._jars}'",
            )

    def start(self) -> None:
        """Starts it and waits until it answers a metadata request.

        Raises:
            PortTakenError: Another program has its port.
            StackError: It did not start; with its last words.
        """
        if self.alive:
            return
        told = self._port
        if told is not None:
            ports.demand(told)
        for attempt in range(_PORT_TRIES):
            if told is None:
                self._port = ports.pick()
            if self._controller_port is None or not ports.is_free(self._controller_port):
                self._controller_port = ports.pick({self.port})
            if self.spec.second is not None and self._second_port is None:
                self._second_port = ports.pick({self.port, self._controller_port})
            try:
                self._start_on(self.port, self._controller_port)
            except PortTakenError:
                if told is None:
                    self._port = None
                if attempt == _PORT_TRIES - 1 or (told is not None and not ports.is_free(told)):
                    raise
            else:
                return

    def stop(self, timeout_seconds: float = 20.0) -> bool:
        """Shuts it down in order; True when it did not have to be killed."""
        return self._process is None or self._process.stop(signal.SIGTERM, timeout_seconds)

    def restart(self) -> None:
        """Stops and starts it, on the same port, with what it held."""
        self.stop()
        self.start()

    def begin_end(self) -> None:
        """Ends it without waiting, for a stack that goes down as a whole and keeps nothing."""
        if self._process is not None:
            self._process.send(signal.SIGKILL)

    @property
    def _haste(self) -> tuple[str, ...]:
        return (_QUICK,) if self.spec.short_lived else ()

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def _start_on(self, port: int, controller_port: int) -> None:
        self._write_properties(port, controller_port)
        program = Program(
            argv=[*self._command(*self._haste), "kafka.Kafka", str(self._properties)],
            env=self._environment(),
            cwd=self.folder,
            log=self.log,
            account=self._account,
            orphan_signal=signal.SIGKILL,
            remove=self._stack_folder,
        )
        self._run(program, port, self._answers, _START_SECONDS)

    def _answers(self) -> bool:
        """Whether it answers; it, and not a stranger on its port."""
        if not ports.listening(self.port):
            return False
        try:
            metadata = self.admin().list_topics(timeout=_METADATA_SECONDS)
        except KafkaException:
            return False
        return bool(metadata.brokers) and metadata.cluster_id == self.cluster_id

    def _command(self, *options: str) -> list[str]:
        return [
            str(self._java),
            f"-Xmx{self.spec.heap_mb}m",
            *_JVM,
            *options,
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.xml'}",
            "-cp",
            f"{self._jars}/*",
        ]

    def _environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C.UTF-8"}

    def _write_properties(self, port: int, controller_port: int) -> None:
        settings = _settings(self.folder, port, controller_port)
        if self.spec.security is not None:
            settings |= self.spec.security.settings()
        settings |= self._second_settings(settings)
        settings |= self.spec.settings
        text = "".join(f"{name}={_escaped(value)}\n" for name, value in settings.items())
        self._write(self._properties, text)

    def _write(self, path: Path, text: str) -> None:
        """A file that the broker alone may read: it may hold passwords."""
        path.touch(mode=0o600)
        if self._account:
            os.chown(path, self._account.uid, self._account.gid)
        path.write_text(text)

    def _second_settings(self, plain: Mapping[str, str]) -> dict[str, str]:
        second, at = self.spec.second, self._second_port
        if second is None or at is None:
            return {}
        shown = second.advertised_port or at
        return {
            "listeners": f"{plain['listeners']},SECOND://{ports.HOST}:{at}",
            "advertised.listeners": f"{plain['advertised.listeners']},SECOND://{ports.HOST}:{shown}",
            "listener.security.protocol.map": (
                f"{plain['listener.security.protocol.map']},SECOND:{second.protocol}"
            ),
            **{f"listener.name.second.{name}": value for name, value in second.settings.items()},
        }


def _settings(folder: Path, port: int, controller_port: int) -> dict[str, str]:
    client, controller = f"{ports.HOST}:{port}", f"{ports.HOST}:{controller_port}"
    return {
        "process.roles": "broker,controller",
        "node.id": str(_NODE),
        "controller.quorum.voters": f"{_NODE}@{controller}",
        "listeners": f"CLIENTS://{client},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENTS://{client}",
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "inter.broker.listener.name": "CLIENTS",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(folder / "data"),
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "4",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "transaction.state.log.num.partitions": "4",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "default.replication.factor": "1",
        # a topic that nobody provisioned is a mistake: one that makes itself would hide it
        "auto.create.topics.enable": "false",
        # a group that starts need not wait for members that may come
        "group.initial.rebalance.delay.ms": "0",
        # a killed broker may register again only when its last session is over: by default 9 s
        "broker.session.timeout.ms": "2500",
        "broker.heartbeat.interval.ms": "500",
        "group.min.session.timeout.ms": "1000",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "num.recovery.threads.per.data.dir": "2",
        "log.cleaner.dedupe.buffer.size": "16777216",
    }


def _log4j() -> str:
    pattern = quoteattr("%d{ISO8601} %-5p %c{1} %m%n")
    return (
        '<Configuration status="WARN"><Appenders><Console name="out">'
        f"<PatternLayout pattern={pattern}/></Console></Appenders><Loggers>"
        '<Logger name="kafka" level="INFO"/><Logger name="org.apache.kafka" level="WARN"/>'
        '<Root level="WARN"><AppenderRef ref="out"/></Root></Loggers></Configuration>\n'
    )


def _cluster_id() -> str:
    while True:
        text = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not text.startswith("-"):  # the formatter would take it for an option
            return text


def _escaped(value: str) -> str:
    """As a Java properties file wants a value."""
    return value.replace("\\", "\\\\").replace("\n", "\\n")
