"""The installation that the demo runs on: three servers with wrong clocks, a broker, a folder.

Owns where everything is and how somebody else connects to it; `secure` is what a closed one has
besides. The folder with configuration and
logs goes with the demo when all went well, and stays when something failed.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ops.demo.plan import CLOCKS, READER_ROLE, REFERENCE, WRITER_ROLE, config_text
from ops.simulation.script import US
from ops.stack import Stack

if TYPE_CHECKING:
    from ops.demo.secure import Secrets


@dataclass(slots=True)
class Installation:
    """What runs, and where.

    Attributes:
        folder: Configuration and logs.
        config: The file that every command reads, or the administrator's where each role has one.
        bootstrap: The broker.
        dsns: Per server the superuser's connection: the proxies', and the demo's own questions.
        started_us: When each server's clock was set, true time.
        kafka: Properties of librdkafka with which the demo itself gets into a closed broker.
        shown: The connections as they are printed, where they have passwords.
        secrets: Of a closed installation.
        files: Its roles' configurations, by name.
        keep_folder: The logs are wanted.
        dashboard_url: Where the pages are, if they are served.
    """

    folder: Path
    config: Path
    bootstrap: str
    dsns: Mapping[str, str] = field(repr=False)
    started_us: Mapping[str, int]
    kafka: Mapping[str, str] = field(default_factory=dict, repr=False)
    shown: Mapping[str, str] = field(default_factory=dict)
    secrets: Secrets | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    keep_folder: bool = field(default=False)
    dashboard_url: str = ""

    def config_of(self, *arguments: str) -> Path:
        """The file that a command reads: its role's own, where there is one."""
        name = f"reader-{arguments[-1]}" if arguments[0] == "reader" else arguments[0]
        return self.files.get(name, self.config)

    def provision(self) -> None:
        """Tables, roles with their rights, publications, slots and topics.

        Raises:
            OpsError: Something could not be made; `provision.log` says what.
        """
        from ops.config_sources import load  # noqa: PLC0415  pydantic is slow to load
        from ops.install import acls  # noqa: PLC0415
        from ops.provision import run  # noqa: PLC0415

        admins = [f"{name}={dsn}" for name, dsn in self.dsns.items()]
        config = load(self.config).config
        with (self.folder / "provision.log").open("w") as log:
            run(
                config,
                admins,
                servers=None,
                print_sql=False,
                echo=lambda line: log.write(f"{line}\n"),
            )
        if self.secrets is not None:
            acls.apply(config, acls.users(()))

    def how_to_connect(self) -> list[str]:
        """For people who want to look for themselves."""
        return [
            "",
            "Everything goes on running.",
            *(
                f"  server {name} (clock {CLOCKS[name].described}):  psql '{dsn}'"
                for name, dsn in (self.shown or self.dsns).items()
            ),
            f"  the CDRs are in server {REFERENCE}, in table cdrs and view view_cdrs",
            *([f"  dashboard:  {self.dashboard_url}"] if self.dashboard_url else []),
            *([] if self.secrets is None else [f"  its password:  {self.folder}/pages.password"]),
            f"  Kafka:  {self.bootstrap}",
            f"  logs:  {self.folder}",
            f"  cdrstream explain CALL-ID --config {self.config_of('dashboard')}",
            f"  cdrstream status --config {self.config_of('dashboard')}",
            f"  cdrstream doctor --config {self.config}",
        ]


@contextmanager
def installed(say: Callable[[str], None], *, secure: bool = False) -> Iterator[Installation]:
    """Starts servers and broker; everything is gone at the end.

    Args:
        say: Takes remarks.
        secure: TLS, passwords and the least rights everywhere.

    Raises:
        StackError: Something that is needed is missing or does not start.
    """
    told = ", ".join(f"{name} {clock.described}" for name, clock in CLOCKS.items())
    folder = Path(tempfile.mkdtemp(prefix="cdrstream-demo-"))
    place: Installation | None = None
    try:
        say(f"starting {len(CLOCKS)} PostgreSQL servers (clocks: {told}) and a Kafka broker")
        with _closed(folder) if secure else _open(folder) as place:
            yield place
    except Exception:
        if place is not None:
            place.keep_folder = True
        raise
    finally:
        if place is None or not place.keep_folder:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _open(folder: Path) -> Iterator[Installation]:
    clocks = {name: clock.faketime for name, clock in CLOCKS.items() if clock.faketime}
    with Stack(len(CLOCKS), clocks=clocks) as stack:
        config = folder / "cdrstream.toml"
        config.write_text(
            config_text(
                stack.broker.bootstrap_servers,
                {name: stack[name].dsn_for(user=READER_ROLE) for name in CLOCKS},
                stack[REFERENCE].dsn_for(user=WRITER_ROLE),
            )
        )
        yield Installation(
            folder=folder,
            config=config,
            bootstrap=stack.broker.bootstrap_servers,
            dsns={name: stack[name].dsn for name in CLOCKS},
            started_us=_started(stack),
        )


@contextmanager
def _closed(folder: Path) -> Iterator[Installation]:
    from ops.demo.secure import Secrets  # noqa: PLC0415  on demand

    made = Secrets.make(folder)
    with Stack(made.servers(), broker=made.broker()) as stack:
        files = made.write_files(stack)
        yield Installation(
            folder=folder,
            config=files["admin"],
            bootstrap=stack.broker.bootstrap_servers,
            dsns={name: stack[name].dsn for name in CLOCKS},
            started_us=_started(stack),
            kafka=stack.broker.client_properties("cdrstream-dashboard"),
            shown=made.shown(stack),
            secrets=made,
            files=files,
        )


def _started(stack: Stack) -> dict[str, int]:
    return {name: round((stack[name].started_at or 0) * US) for name in CLOCKS}
