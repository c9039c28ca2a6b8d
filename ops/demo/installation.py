"""The installation that the demo runs on: three servers with wrong clocks, a broker, a folder.

Owns where everything is and how somebody else connects to it. The folder with configuration and
logs goes with the demo when all went well, and stays when something failed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ops.demo.plan import CLOCKS, REFERENCE, config_text
from ops.simulation.script import US
from ops.stack import Stack

_READER_ROLE: Final = "cdr_reader"
_WRITER_ROLE: Final = "cdr_writer"


@dataclass(slots=True)
class Installation:
    """What runs, and where.

    Attributes:
        folder: Configuration and logs.
        config: The file that every command reads.
        bootstrap: The broker.
        dsns: Per server the superuser's connection: the proxies', and the demo's own questions.
        started_us: When each server's clock was set, true time.
        keep_folder: The logs are wanted.
        dashboard_url: Where the pages are, if they are served.
    """

    folder: Path
    config: Path
    bootstrap: str
    dsns: Mapping[str, str]
    started_us: Mapping[str, int]
    keep_folder: bool = field(default=False)
    dashboard_url: str = ""

    def provision(self) -> None:
        """Tables, roles with their rights, publications, slots and topics.

        Raises:
            OpsError: Something could not be made; `provision.log` says what.
        """
        from ops.config_sources import load  # noqa: PLC0415  pydantic is slow to load
        from ops.provision import run  # noqa: PLC0415

        admins = [f"{name}={dsn}" for name, dsn in self.dsns.items()]
        with (self.folder / "provision.log").open("w") as log:
            run(
                load(self.config).config,
                admins,
                servers=None,
                print_sql=False,
                echo=lambda line: log.write(f"{line}\n"),
            )

    def how_to_connect(self) -> list[str]:
        """For people who want to look for themselves."""
        return [
            "",
            "Everything goes on running.",
            *(
                f"  server {name} (clock {CLOCKS[name].described}):  psql '{dsn}'"
                for name, dsn in self.dsns.items()
            ),
            f"  the CDRs are in server {REFERENCE}, in table cdrs and view view_cdrs",
            *([f"  dashboard:  {self.dashboard_url}"] if self.dashboard_url else []),
            f"  Kafka:  {self.bootstrap}",
            f"  logs:  {self.folder}",
            f"  cdrstream explain CALL-ID --config {self.config}",
            f"  cdrstream status --config {self.config}",
            f"  cdrstream doctor --config {self.config}",
        ]


@contextmanager
def installed(say: Callable[[str], None]) -> Iterator[Installation]:
    """Starts servers and broker; everything is gone at the end.

    Raises:
        StackError: Something that is needed is missing or does not start.
    """
    clocks = {name: clock.faketime for name, clock in CLOCKS.items() if clock.faketime}
    told = ", ".join(f"{name} {clock.described}" for name, clock in CLOCKS.items())
    say(f"starting {len(CLOCKS)} PostgreSQL servers (clocks: {told}) and a Kafka broker")
    with Stack(len(CLOCKS), clocks=clocks) as stack:
        folder = Path(tempfile.mkdtemp(prefix="cdrstream-demo-"))
        config = folder / "cdrstream.toml"
        config.write_text(
            config_text(
                stack.broker.bootstrap_servers,
                {name: stack[name].dsn_for(user=_READER_ROLE) for name in CLOCKS},
                stack[REFERENCE].dsn_for(user=_WRITER_ROLE),
            )
        )
        place = Installation(
            folder=folder,
            config=config,
            bootstrap=stack.broker.bootstrap_servers,
            dsns={name: stack[name].dsn for name in CLOCKS},
            started_us={name: round((stack[name].started_at or 0) * US) for name in CLOCKS},
        )
        try:
            yield place
        except Exception:
            place.keep_folder = True
            raise
        finally:
            if not place.keep_folder:
                shutil.rmtree(folder, ignore_errors=True)
