"""Commands around an installation: their options and what these mean.

Owns names, options and help. Refuses to do the work.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ops.errors import EXIT_FAILED
from ops.invocation import Invocation, command

AdminDsnOption = Annotated[
    list[str] | None,
    typer.Option(
        "--admin-dsn",
        metavar="NAME=DSN",
        help="Administrator's DSN of a server (or of `sink`); default: the configured one.",
    ),
]


class ServiceChoice(StrEnum):
    """The services that can be asked."""

    READER = "reader"
    WORKER = "worker"
    DASHBOARD = "dashboard"


@command
def health(
    invocation: Invocation,
    service: Annotated[
        ServiceChoice, typer.Argument(metavar="SERVICE", help="reader, worker or dashboard.")
    ],
    ready: Annotated[
        bool, typer.Option("--ready", help="Whether it does its work, and not only lives.")
    ] = False,
) -> None:
    """Ask a service of this machine whether it is well: exit code 0, else 1; for health checks."""
    from ops.install.health import check  # noqa: PLC0415

    typer.echo(check(invocation.config, service.value, ready=ready))


@command
def traffic(
    invocation: Invocation,
    dsn: Annotated[
        list[str] | None,
        typer.Option(
            "--dsn", metavar="NAME=DSN", help="Who may write there; default: the configured one."
        ),
    ] = None,
    rate: Annotated[
        float, typer.Option("--rate", min=0.01, max=200, help="Calls started a second.")
    ] = 2.0,
    mix: Annotated[
        str, typer.Option("--mix", help="usual, even, crossing, plain, or SCENARIO=SHARE,...")
    ] = "usual",
    seconds: Annotated[
        float | None, typer.Option("--seconds", help="End after this; default: at SIGTERM.")
    ] = None,
) -> None:
    """Write made-up calls into the configured servers as proxies would, to try things out."""
    from ops.demo.traffic import run  # noqa: PLC0415

    run(invocation, dsn or (), rate=rate, mix=mix, seconds=seconds)


@command
def install_units(
    invocation: Invocation,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Write the files there: /etc/systemd/system."),
    ] = None,
    print_units: Annotated[
        bool, typer.Option("--print", help="Print them; the default without --to.")
    ] = False,
    user: Annotated[
        str, typer.Option("--user", metavar="NAME", help="The account that they run as.")
    ] = "cdrstream",
    program: Annotated[
        str | None,
        typer.Option("--program", metavar="PATH", help="Default: the cdrstream that runs now."),
    ] = None,
) -> None:
    """Write systemd units for readers, workers and dashboard: sandboxed, watched, restarted."""
    from ops.install.units import run  # noqa: PLC0415

    run(invocation, to, also_print=print_units, user=user, program=program)


@command
def downgrade(
    invocation: Invocation,
    admin_dsn: AdminDsnOption = None,
    drop: Annotated[
        bool, typer.Option("--drop", help="Drop our tables; by default they are moved aside.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Go back: slots, publications, rights and our tables leave; every CDR stays."""
    from ops.install.downgrade import run  # noqa: PLC0415

    run(invocation.config, admin_dsn or (), drop=drop, yes=yes, echo=typer.echo)


@command
def acls(
    invocation: Invocation,
    user: Annotated[
        list[str] | None,
        typer.Option(
            "--user",
            metavar="ROLE=NAME",
            help="Of reader, worker, replay, dashboard; default: cdrstream-ROLE.",
        ),
    ] = None,
    give: Annotated[
        bool, typer.Option("--apply", help="Give them, as a user who may; default: print them.")
    ] = False,
    make_users: Annotated[
        Path | None,
        typer.Option(
            "--make-users",
            metavar="DIR",
            help="First make the users that are missing; DIR/NAME.env gets each one's login.",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Compare with what the broker has; exit code 1 if it differs."
        ),
    ] = False,
) -> None:
    """Print, give or check the least rights at the broker that each role needs."""
    from ops.install import acls as rights  # noqa: PLC0415
    from ops.install import broker_users  # noqa: PLC0415

    config, named = invocation.config, rights.users(user or ())
    if make_users is not None:
        for name, made in broker_users.make_users(config, list(named.values()), make_users):
            typer.echo(f"made user {name}: {make_users / name}.env" if made else f"{name} is there")
    if give:
        typer.echo(f"{rights.apply(config, named)} rights are there")
    if check:
        missing, more = rights.differences(config, named)
        for words in missing:
            typer.echo(f"missing  {words}")
        for words in more:
            typer.echo(f"too much  {words}")
        if missing or more:
            raise typer.Exit(EXIT_FAILED)
        typer.echo("the broker gives what is needed, and no more")
    if give or check or make_users is not None:
        return
    for line in rights.script(config, named):
        typer.echo(line)


@command
def test_ca(
    _invocation: Invocation,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where its files go.")],
    host: Annotated[
        list[str],
        typer.Option("--host", metavar="NAME[,NAME]", help="Who gets a certificate; repeatable."),
    ],
) -> None:
    """Make a certificate authority and certificates, to try TLS out; for nothing else."""
    from ops.install.authority import WARNING, issue  # noqa: PLC0415

    for path in issue(folder, host):
        typer.echo(str(path))
    typer.echo(WARNING, err=True)


def add_to(app: typer.Typer) -> None:
    """Makes the commands known to `cdrstream`."""
    app.command("acls")(acls)
    app.command("downgrade")(downgrade)
    app.command("health")(health)
    app.command("install-units")(install_units)
    app.command("test-ca")(test_ca)
    app.command("traffic")(traffic)
