"""Commands that tell something and change nothing.

Owns names, options and help. Refuses to do the work.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands.service import ServerOption
from ops.invocation import Invocation, command

config_app = typer.Typer(help="The configuration: what is in effect.", no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="The same as one JSON object.")]


@command
def status(
    invocation: Invocation,
    server: Annotated[
        str | None, typer.Argument(metavar="[SERVER]", help="Only this one, in more detail.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 when something needs an operator.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Print who is late, who holds it up, and what to do; needs broker and sink only."""
    from ops.status_command import run  # noqa: PLC0415

    run(invocation.config, server, watch=watch, check=check, as_json=as_json)


@command
def active(
    invocation: Invocation,
    name: Annotated[
        str | None, typer.Option("--name", metavar="USER", help="Only this user's calls.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the calls in progress."""
    from ops.active import run  # noqa: PLC0415

    run(invocation.config, name, as_json=as_json)


@command
def explain(
    invocation: Invocation,
    call_id: Annotated[str, typer.Argument(metavar="CALL-ID", help="The call's Call-ID, exactly.")],
    from_rows: Annotated[
        list[str] | None,
        typer.Option(
            "--from-rows",
            metavar="INPUT",
            help="Explain from files, as `resolve` reads them; may be given several times.",
        ),
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="SERVER", help="With --from-rows: whose clock."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Print why a CDR says what it says: events, clocks, legs, rules."""
    from ops.explain_command import run  # noqa: PLC0415

    run(invocation, call_id, from_rows=from_rows, reference=reference, as_json=as_json)


@command
def doctor(
    invocation: Invocation,
    server: ServerOption = None,
    as_json: JsonOption = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail too.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also list what is in order.")
    ] = False,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Instead: does all that was read add up?")
    ] = False,
) -> None:
    """Check configuration, servers, clocks, broker, sink and workers; the verdict is last."""
    if reconcile:
        from ops.doctor.reconcile import run as run_reconcile  # noqa: PLC0415

        run_reconcile(invocation.config)
        return
    from ops.doctor.command import run  # noqa: PLC0415

    run(invocation, servers=server, as_json=as_json, strict=strict, verbose=verbose)


@command
def compare_old(
    invocation: Invocation,
    old_schema: Annotated[
        str, typer.Option("--old-schema", metavar="NAME", help="Where the old resolver's cdrs is.")
    ] = "public",
    begin: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="TIME", help="Calls that began then or later; default: our first."
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="TIME", help="Calls that ended before; default: all that are final."
        ),
    ] = None,
    tolerance_ms: Annotated[
        float, typer.Option("--tolerance-ms", min=0, help="Times no further apart are the same.")
    ] = 1.0,
    diff: Annotated[
        str | None,
        typer.Option("--diff", metavar="FILE", help="Each differing call, as JSON Lines; -."),
    ] = None,
    as_json: JsonOption = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where anything differs.")
    ] = False,
) -> None:
    """Compare an old resolver's CDRs with ours, where ours are in a schema of their own."""
    from ops.compare_old.command import run  # noqa: PLC0415

    run(
        invocation.config,
        old_schema=old_schema,
        begin=begin,
        end=end,
        tolerance_ms=tolerance_ms,
        diff=diff,
        as_json=as_json,
        exit_code=exit_code,
    )


@config_app.command("show")
@command
def config_show(invocation: Invocation, as_json: JsonOption = False) -> None:
    """Print the settings in effect and where each came from, secrets hidden."""
    from ops.config_report import as_object, as_text  # noqa: PLC0415

    loaded = invocation.loaded()
    if as_json:
        import json  # noqa: PLC0415

        typer.echo(json.dumps(as_object(loaded), indent=2))
    else:
        typer.echo(as_text(loaded), nl=False)
