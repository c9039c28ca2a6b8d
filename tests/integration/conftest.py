"""The servers of the integration tests: one stack a run, and things of their own for each test.

A service that does not start fails the run. `stack` is shared, so a test breaks only what it made:
databases by `database`, topics by `topic`, and by `extra_server` servers to stop, kill, freeze, or
give a wrong clock.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ops.stack import PostgresServer, ServerSpec, Stack

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def stack() -> Iterator[Stack]:
    """Three servers `a`, `b`, `c` with right clocks, and a broker; for the whole run."""
    with Stack(3) as running:
        yield running


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
