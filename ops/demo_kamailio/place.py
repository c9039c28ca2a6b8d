"""The installation behind the proxies: servers, broker, configuration, and what they can be asked.

Owns where everything is and its provisioning. Refuses to know the proxies.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg

from ops.demo.facts import SinkWatch, unread_bytes
from ops.demo.plan import PARTITIONS
from ops.demo.watch import EVENTS_TOPIC
from ops.demo_kamailio.plan import CLOCKS, REFERENCE, config_text
from ops.demo_kamailio.proxy import EXAMPLE
from ops.simulation.script import US
from ops.stack import Stack


@dataclass(slots=True)
class Place:
    """What runs, and where.

    Attributes:
        folder: Configuration and logs.
        config: The file that readers and worker read.
        dsns: Per server the superuser's connection.
        sink: The database of the CDRs, to be asked.
        keep_folder: The logs are wanted.
    """

    folder: Path
    config: Path
    dsns: dict[str, str]
    sink: SinkWatch
    keep_folder: bool = False

    def provision(self) -> None:
        """Tables, roles, publications, slots and topics; and what proxies need to write rows.

        Raises:
            OpsError: Something could not be made; `provision.log` says what.
        """
        from ops.config_sources import load  # noqa: PLC0415  pydantic is slow to load
        from ops.provision import run  # noqa: PLC0415

        with (self.folder / "provision.log").open("w") as log:
            run(
                load(self.config).config,
                [f"{name}={dsn}" for name, dsn in self.dsns.items()],
                servers=None,
                print_sql=False,
                echo=lambda line: log.write(f"{line}\n"),
            )
        for dsn in self.dsns.values():
            let_proxies_write(dsn)

    def not_ready(self) -> str:
        """What is missing before calls may begin; empty when nothing is."""
        slots = unread_bytes(self.dsns)
        idle = [name for name in self.dsns if not slots.get(name, (False, 0))[0]]
        if idle:
            return f"readers of {', '.join(idle)} to stream"
        sink = self.sink.look()
        if sink is None or sink.behind:
            behind = PARTITIONS if sink is None else len(sink.behind)
            return f"a first watermark in {behind} of {PARTITIONS} partitions"
        return ""

    def not_past(self, time_us: int) -> str:
        """What is missing before the watermark has passed a moment of the reference's clock."""
        sink = self.sink.look()
        if sink is None or sink.watermark_us is None:
            return "the sink's watermark"
        left_us = time_us - sink.watermark_us
        return f"the watermark, {left_us / US:.1f} s to go" if left_us > 0 else ""


@contextmanager
def settled(servers: Stack) -> Iterator[Place]:
    """A folder and the configuration for servers that run; it stays when something fails."""
    folder = Path(tempfile.mkdtemp(prefix="cdrstream-kamailio-"))
    config = folder / "cdrstream.toml"
    readers = {name: servers[name].dsn_for(user="cdr_reader") for name in CLOCKS}
    sink_dsn = servers[REFERENCE].dsn_for(user="cdr_writer")
    config.write_text(config_text(servers.broker.bootstrap_servers, readers, sink_dsn))
    place = Place(
        folder,
        config,
        {name: servers[name].dsn for name in CLOCKS},
        SinkWatch(servers[REFERENCE].dsn, EVENTS_TOPIC, PARTITIONS),
    )
    try:
        yield place
    except Exception:
        place.keep_folder = True
        raise
    finally:
        place.sink.close()
        if not place.keep_folder:
            shutil.rmtree(folder, ignore_errors=True)


def let_proxies_write(dsn: str) -> None:
    """The role and the function that a proxy's rows need."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute((EXAMPLE / "cse.sql").read_bytes())
