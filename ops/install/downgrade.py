"""The command `downgrade`: the way back to an installation as it was before ours.

Owns the order (servers first, so that no log is kept for nobody, then the database of the CDRs)
and the question before it. Refuses to know the statements: `cdc.withdraw` and
`stream_app.downgrade` do. Nothing in Kafka is touched. Running it again goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import psycopg
import typer

from ops.config import Config, reader_settings
from ops.dsn import with_options
from ops.errors import ConfigError, OpsError, UsageError
from ops.provision import (
    DONE,
    SINK,
    THERE,
    Line,
    looker_role,
    read_admins,
    sink_admin,
    step_done,
    writer_role,
)
from ops.purge import purge_dsn

_LOCK_TIMEOUT: Final = "-c lock_timeout=15s"
_NOTHING: Final = "nothing of ours"


def run(
    config: Config,
    admin_dsns: Sequence[str],
    *,
    drop: bool,
    yes: bool,
    echo: Callable[[str], Any],
) -> None:
    """Takes ours off all servers and out of the database of the CDRs.

    Raises:
        ConfigError: The CDRs are in a schema of our own: then there is nothing to go back from.
        UsageError: Nobody can be asked and nobody said yes, or a DSN cannot be read.
        OpsError: Something could not be done; the lines before say what and why.
    """
    if config.sink.schema_name != "public":
        schema = config.sink.schema_name
        raise ConfigError(
            f"sink.schema is {schema!r}: the old resolver's tables were never touched",
            f"stop ours; DROP SCHEMA {schema} CASCADE; and drop slots and publications by hand",
        )
    admins = read_admins(config, admin_dsns)
    if not yes:
        _ask(config, drop=drop)
    steps: list[tuple[str, Callable[[], Iterator[Line]]]] = [
        (f"server {name}", _server_step(config, name, admins)) for name in config.servers
    ]
    if config.sink.dsn is not None:
        steps.append((SINK, lambda: _sink(config, sink_admin(config, admins), drop=drop)))
    failed = [what for what, step in steps if not step_done(what, step, echo)]
    if failed:
        raise OpsError(
            f"could not go back on {', '.join(failed)}", "mend that and run it again: it goes on"
        )


def _ask(config: Config, *, drop: bool) -> None:
    what = "drops the reasons of all CDRs" if drop else "moves our tables aside"
    question = f"This drops the slots of {', '.join(config.servers)} and {what}; CDRs stay. Go on?"
    if not sys.stdin.isatty():
        raise UsageError("nobody can be asked here", "say --yes")
    if not typer.confirm(question, default=False, err=True):
        raise OpsError("nothing was done")


def _server_step(
    config: Config, name: str, admins: Mapping[str, str]
) -> Callable[[], Iterator[Line]]:
    own = config.server(name).dsn.get_secret_value()

    def step() -> Iterator[Line]:
        from cdc.withdraw import withdraw  # noqa: PLC0415  on demand

        admin_dsn = with_options(admins.get(name) or own, _LOCK_TIMEOUT)
        done = withdraw(admin_dsn, reader_settings(config, name), purge_dsn(config, name))
        yield from ((DONE, f"server {name}: {what}") for what in done)
        if not done:
            yield THERE, f"server {name}: {_NOTHING}"

    return step


def _sink(config: Config, admin_dsn: str, *, drop: bool) -> Iterator[Line]:
    from stream_app.downgrade import downgrade  # noqa: PLC0415  not on readers' machines

    admin_dsn = with_options(admin_dsn, _LOCK_TIMEOUT)
    with psycopg.connect(admin_dsn, autocommit=True, connect_timeout=10) as connection:
        writer, looker = writer_role(config), looker_role(config)
        done = downgrade(connection, writer, looker=looker, drop=drop)
    yield from ((DONE, f"sink: {what}") for what in done)
    if not done:
        yield THERE, f"sink: {_NOTHING}"
