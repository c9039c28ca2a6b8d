"""One PostgreSQL server of the local stack.

Owns its data folder, settings, start, stop, and the ways a test breaks it. Refuses to know the
schema inside: `cdrstream provision` makes that.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from ops.stack import faketime, ports
from ops.stack.accounts import Account
from ops.stack.binaries import Binaries
from ops.stack.errors import PortTakenError, StackError
from ops.stack.part import Part
from ops.stack.processes import Program, began_at, run_to_end
from ops.stack.security import HBA, Certificate

DATABASE: Final = "SIPXCDR"
SUPERUSER: Final = "postgres"
_START_SECONDS: Final = 60.0
_INITDB_SECONDS: Final = 120.0
_SOCKET_PATH_MAX: Final = 90  # the kernel's limit is 107, with the socket's own name
_PORT_TRIES: Final = 5
_STOP_SIGNALS: Final = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
StopMode = Literal["smart", "fast", "immediate"]

# No fsync: the data does not outlive the stack. No files in /dev/shm: they would outlive a SIGKILL.
_SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": ports.HOST,
    "wal_level": "logical",
    "max_wal_senders": "60",
    "max_replication_slots": "60",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "dynamic_shared_memory_type": "mmap",
    "fsync": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What a server shall be.

    Attributes:
        name: Its name, `[a-z0-9_-]`.
        clock: Wrong clock such as `-5.5s` or `+0.7s x1.00005`; None is the machine's.
        steppable: Whether `set_clock` works while it runs (see `ops.stack.faketime` for the price).
        version: Major version, `system`, `embedded`, or None for the best there is.
        port: Loopback port; None picks a free one.
        settings: `postgresql.conf` settings that go before the defaults.
        password: The superuser's; with one, connections need SCRAM, without, none (`trust`).
        certificate: With one (and a password), nobody gets in without TLS.
    """

    name: str
    clock: str | None = None
    steppable: bool = False
    version: str | None = None
    port: int | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    password: str | None = field(default=None, repr=False)
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9_-]{1,40}", self.name):
            raise StackError(f"server name {self.name!r} is not allowed", "use a-z, 0-9, _ and -")
        if self.clock is not None:
            faketime.Clock.parse(self.clock)
        if self.certificate is not None and self.password is None:
            raise StackError(
                f"server {self.name} has a certificate, and everybody may come in",
                "give it a password too",
            )


class PostgresServer(Part):
    """A server with the database `SIPXCDR`; its port stays the same over restarts."""

    def __init__(
        self, spec: ServerSpec, binaries: Binaries, stack_folder: Path, account: Account | None
    ) -> None:
        super().__init__(f"PostgreSQL server {spec.name}")
        self.spec = spec
        self.name = spec.name
        self.major = binaries.major
        self.folder = stack_folder / spec.name
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.clock = faketime.Clock.parse(spec.clock) if spec.clock else None
        self.started_at: float | None = None
        self._binaries = binaries
        self._stack_folder = stack_folder
        self._account = account
        self._port = spec.port

    @property
    def port(self) -> int:
        """Loopback port it listens on."""
        if self._port is None:
            raise StackError(f"server {self.name} has no port before it is started")
        return self._port

    @property
    def dsn(self) -> str:
        """The superuser's connection to `SIPXCDR`."""
        return self.dsn_for()

    @property
    def clock_offset_seconds(self) -> float:
        """How far its clock is ahead of the machine's now; 0.0 for a clock that is right."""
        if self.clock is None or self.started_at is None:
            return 0.0
        return self.clock.offset_at(time.time() - self.started_at)

    def dsn_for(self, database: str = DATABASE, user: str = SUPERUSER, **more: Any) -> str:
        """A connection string, with libpq parameters by name."""
        if user == SUPERUSER and self.spec.password is not None:
            more.setdefault("password", self.spec.password)
        if self.spec.certificate is not None:
            more.setdefault("sslmode", "verify-full")
            more.setdefault("sslrootcert", str(self.spec.certificate.authority))
        where: dict[str, Any] = {"host": ports.HOST, "port": self.port, "dbname": database}
        return make_conninfo("", **{**where, "user": user, **more})

    def connect(self, database: str = DATABASE, **more: Any) -> psycopg.Connection[Any]:
        """The superuser's connection, autocommit."""
        return psycopg.connect(
            self.dsn_for(database), autocommit=True, **{"connect_timeout": 10, **more}
        )

    def create_database(self, name: str, encoding: str = "UTF8") -> None:
        """An empty database, in the C locale, which goes with every encoding."""
        with self.connect(SUPERUSER) as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING {} LOCALE 'C'").format(
                    sql.Identifier(name), sql.Literal(encoding)
                )
            )

    def drop_database(self, name: str) -> None:
        """Drops a database and its replication slots, whoever is connected."""
        with self.connect(SUPERUSER) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(active_pid, 60000) FROM pg_replication_slots"
                " WHERE database = %s AND active",
                [name],
            )
            connection.execute(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
                " WHERE database = %s",
                [name],
            )
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
            )

    def create(self) -> None:
        """Makes the data folder; once, before the first start."""
        self.folder.mkdir(mode=0o700)
        if self._account:
            _give(self.folder, self._account)
        self._initdb()
        settings = {
            **_SETTINGS,
            "cluster_name": self.name,
            **self._encrypted(),
            **self.spec.settings,
        }
        lines = [f"{name} = {_quoted(value)}" for name, value in settings.items()]
        with (self.data / "postgresql.conf").open("a") as file:
            file.write("\n# cdrstream's local stack\n" + "\n".join(lines) + "\n")

    def start(self) -> None:
        """Starts it and waits until it takes connections.

        Raises:
            PortTakenError: Another program has its port.
            StackError: It did not start; with its last words.
        """
        if self.alive:
            return
        if self._port is not None:
            ports.demand(self._port)
            self._start_on(self._port)
        else:
            self._start_anywhere()
        self._ensure_database()

    def stop(self, mode: StopMode = "fast", timeout_seconds: float = 15.0) -> bool:
        """Shuts it down; True when it did not have to be killed."""
        if self._process is None:
            return True
        return self._process.stop(_STOP_SIGNALS[mode], timeout_seconds)

    def restart(self, mode: StopMode = "fast") -> None:
        """Stops and starts it, on the same port; a drifting clock begins anew at its offset."""
        self.stop(mode)
        self.start()

    def begin_end(self) -> None:
        """Asks for the quickest end without waiting, for a stack that goes down as a whole."""
        if self._process is not None:
            self._process.resume()
            self._process.send(signal.SIGQUIT)

    def set_clock(self, clock: str) -> None:
        """Steps the clock while the server runs; a rate counts from the start of the server.

        Raises:
            StackError: It was not made `steppable`.
        """
        if not self.spec.steppable:
            raise StackError(
                f"the clock of server {self.name} cannot be stepped",
                'make it so: ServerSpec(..., clock="+0s", steppable=True)',
            )
        self.clock = faketime.Clock.parse(clock)
        faketime.write_step(self._step_file, self.clock)

    @property
    def _step_file(self) -> Path:
        return self._stack_folder / f"{self.name}.clock"

    def _initdb(self) -> None:
        command = [self._binaries.program("initdb"), "-D", str(self.data), "-U", SUPERUSER]
        command += ["--no-sync", "--locale=C", "--encoding=UTF8"]
        if self.spec.password is None:
            command += ["--auth=trust"]
        else:
            secret = self.folder / "superuser"
            self._write(secret, self.spec.password + "\n")
            command += ["--auth=scram-sha-256", f"--pwfile={secret}"]
        words = run_to_end(
            command, self._plain_environment(), self.folder, self._account, _INITDB_SECONDS
        )
        (self.folder / "superuser").unlink(missing_ok=True)
        if words:
            raise StackError(
                f"initdb failed for server {self.name}: {words}", "is the disk full, or read-only?"
            )

    def _encrypted(self) -> dict[str, str]:
        """Settings for TLS, their files written; none where it is not asked for."""
        certificate = self.spec.certificate
        if certificate is None:
            return {}
        self._write(self.data / "server.pem", certificate.chain.read_text())
        self._write(self.data / "server.key", certificate.key.read_text())
        self._write(self.data / "pg_hba.conf", HBA)
        return {"ssl": "on", "ssl_cert_file": "server.pem", "ssl_key_file": "server.key"}

    def _write(self, path: Path, text: str) -> None:
        """A file that the server alone may read."""
        path.touch(mode=0o600)
        if self._account:
            _give(path, self._account)
        path.write_text(text)

    def _start_anywhere(self) -> None:
        for attempt in range(_PORT_TRIES):
            self._port = ports.pick()
            try:
                self._start_on(self._port)
            except PortTakenError:
                self._port = None
                if attempt == _PORT_TRIES - 1:
                    raise
            else:
                return

    def _start_on(self, port: int) -> None:
        sockets = str(self._stack_folder / "s")
        if len(sockets) > _SOCKET_PATH_MAX:
            sockets = ""
        argv = [self._binaries.program("postgres"), "-D", str(self.data), "-p", str(port)]
        argv += ["-c", f"unix_socket_directories={sockets}"]
        self.started_at = time.time()
        program = Program(
            argv=argv,
            env=self._environment(),
            cwd=self.folder,
            log=self.log,
            account=self._account,
            orphan_signal=signal.SIGQUIT,
            remove=self._stack_folder,
        )
        self._run(program, port, self._answers, _START_SECONDS)
        # A drift counts from then: a keeper that is slow to start is no part of it.
        self.started_at = max(self.started_at, began_at(self.pid))

    def _answers(self) -> bool:
        """Whether it takes connections; it, and not a stranger on its port."""
        try:
            with self.connect(SUPERUSER, connect_timeout=3) as connection:
                row = connection.execute("SHOW data_directory").fetchone()
        except psycopg.Error:
            return False
        return row is not None and row[0] == str(self.data)

    def _ensure_database(self) -> None:
        with self.connect(SUPERUSER) as connection:
            there = connection.execute(
                "SELECT 1 FROM pg_database WHERE datname = %s", [DATABASE]
            ).fetchone()
        if there is None:
            self.create_database(DATABASE)

    def _environment(self) -> dict[str, str]:
        env = self._plain_environment()
        if self.clock is not None:
            step_file = self._step_file if self.spec.steppable else None
            env |= faketime.environment(self.clock, step_file)
        return env

    def _plain_environment(self) -> dict[str, str]:
        return {"PATH": "/usr/bin:/bin", "HOME": str(self.folder), "LC_ALL": "C", "TZ": "UTC"}


def _give(path: Path, account: Account) -> None:
    os.chown(path, account.uid, account.gid)


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
