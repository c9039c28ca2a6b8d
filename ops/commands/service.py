"""Commands that set an installation up, run its services and keep it in bounds.

Owns names, options and help. Refuses to do the work.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ops.install.cli import AdminDsnOption
from ops.invocation import Invocation, command

ServerOption = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="NAME", help="Only this server; may be given several times."),
]


@command
def provision(
    invocation: Invocation,
    admin_dsn: AdminDsnOption = None,
    server: ServerOption = None,
    print_sql: Annotated[
        bool, typer.Option("--print-sql", help="Print the SQL for doing it by hand; do nothing.")
    ] = False,
    purge: Annotated[
        bool,
        typer.Option("--purge", help="Also give the right to delete old events on the servers."),
    ] = False,
) -> None:
    """Create what is missing: topics, schema, roles, publications, slots. Safe to run again."""
    from ops import spoken_passwords  # noqa: PLC0415
    from ops.provision import run  # noqa: PLC0415

    if notice := spoken_passwords.in_admin_dsns(admin_dsn or ()):
        typer.echo(notice, err=True)
    run(
        invocation.config,
        admin_dsn or (),
        servers=server,
        print_sql=print_sql,
        echo=typer.echo,
        purge=purge,
    )


@command
def reader(
    invocation: Invocation,
    server: ServerOption = None,
    from_now: Annotated[
        bool,
        typer.Option(
            "--from-now", help="At the very first start leave out the rows that are there already."
        ),
    ] = False,
) -> None:
    """Read the servers' call state events into Kafka, until SIGTERM."""
    from ops.services import run_reader  # noqa: PLC0415

    run_reader(invocation, server, from_now=from_now)


@command
def worker(invocation: Invocation) -> None:
    """Make CDRs of the events in Kafka and write them to the sink, until SIGTERM."""
    from ops.services import run_worker  # noqa: PLC0415

    run_worker(invocation)


@command
def dashboard(
    invocation: Invocation,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Default: dashboard.listen."),
    ] = None,
    hash_password: Annotated[
        bool,
        typer.Option("--hash-password", help="Ask for a password, print its hash, and end."),
    ] = False,
) -> None:
    """Serve the pages: who is late, why a call waits, what was lost. Loopback by default."""
    from ops.dashboard.command import print_hash, run  # noqa: PLC0415

    if hash_password:
        print_hash()
        return
    run(invocation, listen)


@command
def purge(
    invocation: Invocation,
    servers: Annotated[
        bool,
        typer.Option("--servers", help="The servers' events that their readers have confirmed."),
    ] = False,
) -> None:
    """Delete what is older than its retention: CDRs in the sink, or events on the servers."""
    from ops.purge import run  # noqa: PLC0415

    run(invocation.config, servers=servers)
