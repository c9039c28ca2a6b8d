"""What the chaos happens to: three servers with wrong clocks, a sink, a broker, and every link.

Owns where everything is. Clients reach servers, sink and broker through proxies that can be cut;
the traffic's writers and the watcher, who are no part of the system, reach them directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ops.demo.plan import limits_lines
from ops.stack import ServerSpec, Stack, ports
from ops.stack.kafka import BrokerSpec, Listener
from tests.cli_kit import cdrstream
from tests.proxy import Proxy

CLOCKS_SECONDS: Mapping[str, float] = {"a": 0.3, "b": -5.5, "c": 2.7}
SINK = "sink"
BROKER = "broker"
PARTITIONS = 6


@dataclass(frozen=True, slots=True)
class Place:
    """Everything that a fault can hit, and how to look at it."""

    stack: Stack
    folder: Path
    config: Path
    links: Mapping[str, Proxy]

    @property
    def dsns(self) -> dict[str, str]:
        """The servers that proxies write to, directly."""
        return {name: self.stack[name].dsn for name in CLOCKS_SECONDS}

    @property
    def sink_dsn(self) -> str:
        """The database of the CDRs, directly."""
        return self.stack[SINK].dsn


@contextmanager
def installed(folder: Path, state_store: str) -> Iterator[Place]:
    """Started and provisioned; all of it is gone at the end."""
    with ExitStack() as parts:
        broker_link = parts.enter_context(Proxy(ports.pick()).running())
        second = Listener(advertised_port=broker_link.port, port=broker_link.target)
        specs = [ServerSpec(name, clock=f"{offset:+}s") for name, offset in CLOCKS_SECONDS.items()]
        stack = parts.enter_context(
            Stack([*specs, ServerSpec(SINK)], broker=BrokerSpec(second=second), sink=SINK)
        )
        links = {BROKER: broker_link}
        for name in (*CLOCKS_SECONDS, SINK):
            links[name] = parts.enter_context(Proxy(stack[name].port).running())
        config = folder / "chaos.toml"
        config.write_text(_config(stack, links, state_store))
        admins = [f"--admin-dsn={name}={stack[name].dsn}" for name in (*CLOCKS_SECONDS, SINK)]
        done = cdrstream("provision", *admins, config=config)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Place(stack, folder, config, links)


def _config(stack: Stack, links: Mapping[str, Proxy], state_store: str) -> str:
    lines = ["[kafka]", f'bootstrap_servers = "{stack.broker.second_bootstrap_servers}"']
    lines += [f"partitions = {PARTITIONS}"]
    for name in CLOCKS_SECONDS:
        dsn = stack[name].dsn_for(user="cdr_reader", port=links[name].port)
        lines += ["[[servers]]", f'name = "{name}"', f'dsn = "{dsn}"']
    dsn = stack[SINK].dsn_for(user="cdr_writer", port=links[SINK].port)
    lines += ["[sink]", f'dsn = "{dsn}"']
    lines += ["[clock]", "probe_interval_seconds = 2"]
    lines += ["[reader]", "silence_seconds = 5"]
    lines += ["[worker]", "session_timeout_seconds = 6", f'state_store = "{state_store}"']
    lines += limits_lines()
    return "\n".join(lines) + "\n"
