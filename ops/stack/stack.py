"""The local stack as a whole: several PostgreSQL servers and a broker in a folder of their own.

Owns the folder, the order of start and stop, and that either everything runs or nothing does.
Refuses to know what the servers are used for.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Self

from ops.stack.accounts import Account, service_account
from ops.stack.binaries import find_binaries
from ops.stack.errors import StackError
from ops.stack.faketime import find_library
from ops.stack.folders import StackFolder
from ops.stack.jars import kafka_jars
from ops.stack.java import java
from ops.stack.kafka import BrokerSpec, KafkaBroker
from ops.stack.postgres import PostgresServer, ServerSpec

_NAMES: Final = "abcdefghijklmnopqrstuvwxyz"
_END_SECONDS: Final = 5.0


class Stack:
    """PostgreSQL servers and a broker, started together and gone together.

    Args:
        servers: How many (named `a`, `b`, ...), or what each shall be.
        clocks: Wrong clocks by server name, where `servers` is a number.
        version: PostgreSQL's major version, where `servers` is a number.
        broker: What the broker shall be; None for none.
        sink: Name of the server that holds the CDRs; by default the first one.
        folder: Where the stack's own folder is made; by default the folder for temporary files.
    """

    def __init__(
        self,
        servers: int | Sequence[ServerSpec] = 1,
        *,
        clocks: Mapping[str, str] | None = None,
        version: str | None = None,
        broker: BrokerSpec | None = BrokerSpec(),  # noqa: B008  frozen
        sink: str | None = None,
        folder: Path | None = None,
    ) -> None:
        self._specs = _specs(servers, clocks or {}, version)
        self._broker_spec = broker
        self._sink = sink
        self._parent = folder
        self._account: Account | None = None
        self._folder: StackFolder | None = None
        self._servers: dict[str, PostgresServer] = {}
        self._broker: KafkaBroker | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __getitem__(self, name: str) -> PostgresServer:
        return self._servers[name]

    @property
    def servers(self) -> list[PostgresServer]:
        """All servers, in the order they were asked for."""
        return list(self._servers.values())

    @property
    def sink(self) -> PostgresServer:
        """The server that holds the CDRs."""
        return self._servers[self._sink] if self._sink else self.servers[0]

    @property
    def broker(self) -> KafkaBroker:
        """The broker.

        Raises:
            StackError: The stack was made without one, or is not started.
        """
        if self._broker is None:
            raise StackError("this stack has no broker")
        return self._broker

    @property
    def folder(self) -> Path:
        """The stack's own folder, with one of each server inside; removed by `stop`."""
        if self._folder is None:
            raise StackError("the stack is not started")
        return self._folder.path

    def start(self) -> None:
        """Starts everything and returns when all of it answers.

        Raises:
            StackError: Something is missing or does not start; nothing is left running then.
        """
        self._account = service_account()
        # what may be missing is looked for before anything is started
        makers = [self._prepare_broker(self._broker_spec)] if self._broker_spec else []
        makers += [self._prepare(spec) for spec in self._specs]
        self._folder = StackFolder(self._parent, self._account)
        try:
            _all(makers)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends everything and removes the folder; what the servers held is gone."""
        parts: list[PostgresServer | KafkaBroker] = [*self._servers.values()]
        if self._broker is not None:
            parts.append(self._broker)
        for part in parts:
            part.begin_end()
        _all([_ender(part) for part in parts])
        self._servers.clear()
        self._broker = None
        if self._folder is not None:
            self._folder.remove()
            self._folder = None

    def add_server(self, spec: ServerSpec) -> PostgresServer:
        """One more server, started.

        Raises:
            StackError: It cannot be started, or its name is taken.
        """
        return self.add_servers([spec])[0]

    def add_servers(self, specs: Sequence[ServerSpec]) -> list[PostgresServer]:
        """More servers, started side by side; all of them or none.

        Raises:
            StackError: One cannot be started, or its name is taken.
        """
        for spec in specs:
            if spec.name in self._servers or self._folder is None:
                raise StackError(
                    f"server {spec.name} cannot be added",
                    "choose a name that is free, and start the stack first",
                )
        try:
            _all([self._prepare(spec) for spec in specs])
        except BaseException:
            for spec in specs:
                self._drop(spec.name)
            raise
        return [self._servers[spec.name] for spec in specs]

    def remove_server(self, name: str) -> None:
        """Ends a server and removes what it held."""
        self._drop(name)

    def _drop(self, name: str) -> None:
        server = self._servers.pop(name, None)
        if server is not None:
            server.begin_end()
            _ender(server)()
            shutil.rmtree(server.folder, ignore_errors=True)

    def _prepare(self, spec: ServerSpec) -> Callable[[], None]:
        binaries = find_binaries(spec.version)
        if spec.clock is not None:
            find_library()

        def make() -> None:
            server = PostgresServer(spec, binaries, self.folder, self._account)
            self._servers[spec.name] = server
            server.create()
            server.start()

        return make

    def _prepare_broker(self, spec: BrokerSpec) -> Callable[[], None]:
        launcher, jars = java(), kafka_jars()

        def make() -> None:
            broker = KafkaBroker(spec, launcher, jars, self.folder, self._account)
            self._broker = broker
            broker.create()
            broker.start()

        return make


def _all(tasks: Sequence[Callable[[], object]]) -> None:
    """Does all of them at once; raises the first error when all have ended."""
    if not tasks:
        return
    with ThreadPoolExecutor(max_workers=len(tasks)) as pool:
        futures = [pool.submit(task) for task in tasks]
    errors = [error for future in futures if (error := future.exception())]
    if errors:
        raise errors[0]


def _ender(part: PostgresServer | KafkaBroker) -> Callable[[], object]:
    if isinstance(part, PostgresServer):
        return lambda: part.stop("immediate", _END_SECONDS)
    return part.kill


def _specs(
    servers: int | Sequence[ServerSpec], clocks: Mapping[str, str], version: str | None
) -> list[ServerSpec]:
    if isinstance(servers, int):
        names = [_NAMES[n] if n < len(_NAMES) else f"s{n}" for n in range(servers)]
        specs = [ServerSpec(name, clock=clocks.get(name), version=version) for name in names]
    else:
        specs = list(servers)
        names = [spec.name for spec in specs]
    unknown = set(clocks) - set(names)
    if unknown or len(set(names)) != len(names) or {"kafka", "s"} & set(names):
        raise StackError(
            f"server names {', '.join(names)} and clocks {', '.join(clocks)} do not fit",
            "every name once, a clock only for a named server, and none called kafka or s",
        )
    return specs
