"""The servers of the integration tests: two stacks a run, and things of their own for each test.

A service that does not start fails the run. `stack` is shared, so a test breaks only what it made:
databases by `database` or `make_bed`, topics by `topic`, servers by `extra_server` or `servers`.
Modules that kill or freeze server `a` and the broker ask for `rough_stack`, and leave both running.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from ops.stack import PostgresServer, ServerSpec, Stack, ports
from ops.stack.kafka import BrokerSpec, Listener
from tests.proxy import Proxy
from tests.reader_kit import Bed

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Three servers `a`, `b`, `c` with right clocks, and a broker; for the whole run."""
    with Stack(3, broker=BrokerSpec(short_lived=True)) as running:
        yield running


@pytest.fixture(scope="session")
def broker_proxy() -> Iterator[Proxy]:
    """In front of the second listener of `rough_stack`'s broker."""
    with Proxy(ports.pick()).running() as proxy:
        yield proxy


@pytest.fixture(scope="session")
def rough_stack(broker_proxy: Proxy) -> Iterator[Stack]:
    """One server `a` and a broker with a proxy before it, to be killed and frozen."""
    second = Listener(advertised_port=broker_proxy.port, port=broker_proxy.target)
    # Short, so that a test need not wait half a minute to be dropped.
    server = ServerSpec("a", settings={"tcp_user_timeout": "5000"})
    with Stack([server], broker=BrokerSpec(second=second, short_lived=True)) as running:
        yield running


@pytest.fixture(scope="module")
def servers(stack: Stack) -> Iterator[Callable[[Sequence[ServerSpec]], None]]:
    """Adds servers of the module's own to `stack`, started side by side. Gone after the module."""
    made: list[str] = []

    def add(specs: Sequence[ServerSpec]) -> None:
        made.extend(spec.name for spec in specs)
        stack.add_servers(specs)

    yield add
    for name in made:
        stack.remove_server(name)


@pytest.fixture
def make_bed(stack: Stack) -> Iterator[Callable[..., Bed]]:
    """Makes beds for readers by the arguments of `Bed`. Gone after the test."""
    with ExitStack() as beds:

        def make(*arguments: Any, provision: bool = True, **more: Any) -> Bed:
            bed = Bed(stack, *arguments, **more)
            beds.callback(bed.close)
            if provision:
                bed.provision()
            return bed

        yield make


@pytest.fixture
def bed(make_bed: Callable[..., Bed]) -> Bed:
    """A bed on server `a`, with its publication."""
    return make_bed()


@pytest.fixture
def unique() -> str:
    """A name that no other test of this run has: `t1`, `t2`, ..."""
    return f"t{next(_numbers)}"


@pytest.fixture
def database(stack: Stack, unique: str) -> Iterator[Callable[..., str]]:
    """Makes an empty database on a server of the stack; its DSN. Gone after the test."""
    made: list[tuple[PostgresServer, str]] = []

    def make(server: str = "a", encoding: str = "UTF8") -> str:
        name = f"{unique}_{len(made)}"
        stack[server].create_database(name, encoding)
        made.append((stack[server], name))
        return stack[server].dsn_for(name)

    yield make
    for server, name in made:
        server.drop_database(name)


@pytest.fixture
def topic(stack: Stack, unique: str) -> Iterator[Callable[..., str]]:
    """Makes a topic; its name. Gone after the test."""
    made: list[str] = []

    def make(suffix: str = "events", partitions: int = 4, **config: str) -> str:
        name = f"{unique}.{suffix}"
        stack.broker.create_topic(name, partitions, **config)
        made.append(name)
        return name

    yield make
    admin = stack.broker.admin()
    if made:
        for future in admin.delete_topics(made).values():
            future.result(30)


@pytest.fixture
def extra_server(stack: Stack, unique: str) -> Iterator[Callable[..., PostgresServer]]:
    """Starts a server of the test's own, by the settings of `ServerSpec`. Gone after the test."""
    made: list[str] = []

    def make(**spec: Any) -> PostgresServer:
        name = f"{unique}-{len(made)}"
        made.append(name)
        return stack.add_server(ServerSpec(name, **spec))

    yield make
    for name in made:
        stack.remove_server(name)
