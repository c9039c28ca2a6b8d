"""One Kamailio: its own few lines of configuration, its start and its end.

Owns the process. What it does is in `examples/kamailio`, as an operator would have it.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final

import psycopg

from ops.demo.interrupts import held_back
from ops.errors import OpsError
from ops.stack import faketime
from ops.stack.debian import Sip
from ops.stack.ports import HOST
from ops.stack.processes import KeptProcess, Program, wait_until

EXAMPLE: Final = Path(__file__).resolve().parents[2] / "examples" / "kamailio"
REFUSED: Final = "call state event refused"  # what cse.cfg logs of a row that cannot be written
_READY_SECONDS: Final = 90.0
_STOP_SECONDS: Final = 5.0
_MEMORY_MB: Final = "32"


class Proxy:
    """A Kamailio on a loopback port that stays the same over restarts.

    Args:
        name: Name of the server whose PostgreSQL it writes to.
        sip: The programs.
        folder: Its own, for configuration and log.
        port: Where it listens.
        peer_port: Where the other proxy listens.
        database_port: Where its PostgreSQL listens.
        dsn: How its rows are looked at.
        clock: A wrong clock, as its PostgreSQL has it.
        queue_rows: How many rows may wait; None is what `cse.cfg` says.
    """

    def __init__(
        self,
        name: str,
        sip: Sip,
        folder: Path,
        *,
        port: int,
        peer_port: int,
        database_port: int,
        dsn: str,
        clock: str | None = None,
        queue_rows: int | None = None,
    ) -> None:
        self.name = name
        self.port = port
        self.log = folder / "kamailio.log"
        self._dsn = dsn
        self._process: KeptProcess | None = None
        config = folder / "local.cfg"
        listen, peer, database = (f"{HOST}:{n}" for n in (port, peer_port, database_port))
        config.write_text(local_config(listen, peer, database, queue_rows))
        env = {**os.environ, **sip.env, "TZ": "UTC"}
        if clock is not None:
            env |= faketime.environment(faketime.Clock.parse(clock), None)
        argv = (str(sip.kamailio), "-DD", "-E", "-m", _MEMORY_MB, "-L", str(sip.modules))
        self._program = Program(
            argv=(*argv, "-Y", str(folder), "-w", str(folder), "-f", str(config)),
            env=env,
            cwd=folder,
            log=self.log,
        )

    def start(self) -> None:
        """Returns when its first row, which says that it started, has reached its database.

        Raises:
            OpsError: It ended, or no row came.
        """
        before = self.rows("SELECT count(*) FROM observer_state_events")
        process = self.launch()
        ready = wait_until(
            lambda: (
                not process.alive
                or self.rows("SELECT count(*) FROM observer_state_events") > before
            ),
            _READY_SECONDS,
        )
        if not ready or not process.alive:
            raise OpsError(
                f"proxy {self.name} did not start: {process.last_words()}",
                f"its log is {self.log}",
            )

    def launch(self) -> KeptProcess:
        """Starts it and waits for nothing: its database may be away."""
        with held_back():
            self._process = KeptProcess(self._program)
        return self._process

    def kill(self) -> int:
        """SIGKILL: what is in its memory is gone. Its process id."""
        assert self._process is not None
        self._process.kill()
        return self._process.pid

    def stop(self) -> None:
        """Asks it to end, and returns when it is gone."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM, _STOP_SECONDS)

    def rows(self, query: str) -> int:
        """One number out of its database."""
        with psycopg.connect(self._dsn, autocommit=True, connect_timeout=5) as connection:
            row = connection.execute(query.encode()).fetchone()
        return int(row[0]) if row else 0

    def refused_rows(self) -> list[str]:
        """Rows that the database would not take."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return [line for line in text.splitlines() if REFUSED in line]


def local_config(listen: str, peer: str, database: str, queue_rows: int | None = None) -> str:
    """What differs from one proxy to the next; addresses are `host:port`."""
    names = {
        "CSE_OBSERVER": listen,
        "CSE_DB_URL": f"postgres://kamailio:@{database}/SIPXCDR",
        "LISTEN": listen,
        "PEER": peer,
        **({} if queue_rows is None else {"CSE_QUEUE_ROWS": str(queue_rows)}),
    }
    lines = ["#!KAMAILIO", *(f'#!substdef "!{name}!{value}!g"' for name, value in names.items())]
    return "\n".join([*lines, f'include_file "{EXAMPLE / "kamailio.cfg"}"']) + "\n"
