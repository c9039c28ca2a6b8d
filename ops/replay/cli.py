"""The commands `replay ...` and `export-events`: their options and what these mean.

Owns names, options and help. Refuses to do the work: `ops.replay.command`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ops.invocation import Invocation, command

replay_app = typer.Typer(
    help="Make the CDRs of a range again from its events, and show or apply what is different.",
)

FromOption = Annotated[
    str | None, typer.Option("--from", metavar="TIME", help="Start of the range, ISO 8601, UTC.")
]
ToOption = Annotated[
    str | None, typer.Option("--to", metavar="TIME", help="End of the range, not in it.")
]
SourceOption = Annotated[
    str | None,
    typer.Option("--source", metavar="FOLDER", help="Read an export instead of the topic."),
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", metavar="N", help="Processes. Default: replay.workers."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
IdArgument = Annotated[int, typer.Argument(metavar="ID", help="Number of the replay.")]


@command
def _replay(
    invocation: Invocation,
    from_text: FromOption = None,
    to_text: ToOption = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="NAME", help="Compare only calls that it saw."),
    ] = None,
    calls: Annotated[
        str | None,
        typer.Option("--calls", metavar="FILE", help="Only these Call-IDs, one a line."),
    ] = None,
    source: SourceOption = None,
    from_servers: Annotated[
        bool,
        typer.Option("--from-servers", help="Read the servers' own tables: the topic is lost."),
    ] = False,
    workers: WorkersOption = None,
    resume: Annotated[
        int | None,
        typer.Option("--resume", metavar="ID", help="Go on with one that was interrupted."),
    ] = None,
    diff: Annotated[
        str | None,
        typer.Option("--diff", metavar="FILE", help="Write each change as a line of JSON."),
    ] = None,
    _dry_run: Annotated[
        bool, typer.Option("--dry-run", help="As always: only `replay apply` changes CDRs.")
    ] = True,
    as_json: JsonOption = False,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where anything differs.")
    ] = False,
) -> None:
    """Make the CDRs of a range again beside the service, and show what is different."""
    from ops.replay.command import run_replay  # noqa: PLC0415

    run_replay(
        invocation,
        from_text=from_text,
        to_text=to_text,
        server=server,
        calls=calls,
        source=source,
        from_servers=from_servers,
        workers=workers,
        resume=resume,
        diff=diff,
        as_json=as_json,
        exit_code=exit_code,
    )


@replay_app.command("apply")
@command
def replay_apply(
    invocation: Invocation,
    replay_id: IdArgument,
    accept_missing: Annotated[
        bool,
        typer.Option("--accept-missing", help="Though records of the range are gone."),
    ] = False,
    yes: YesOption = False,
) -> None:
    """Put a replay's records in the place of the service's; what they replace is kept."""
    from ops.replay.command import run_apply  # noqa: PLC0415

    run_apply(invocation, replay_id, accept_missing=accept_missing, is_sure=yes)


@replay_app.command("undo")
@command
def replay_undo(invocation: Invocation, replay_id: IdArgument, yes: YesOption = False) -> None:
    """Put back what an applied replay has replaced."""
    from ops.replay.command import run_undo  # noqa: PLC0415

    run_undo(invocation, replay_id, is_sure=yes)


@replay_app.command("list")
@command
def replay_list(invocation: Invocation, as_json: JsonOption = False) -> None:
    """List all replays, the newest first."""
    from ops.replay.showing import run_list  # noqa: PLC0415

    run_list(invocation, as_json=as_json)


@replay_app.command("show")
@command
def replay_show(
    invocation: Invocation,
    replay_id: IdArgument,
    changes: Annotated[bool, typer.Option("--changes", help="Every change.")] = False,
    call: Annotated[
        str | None,
        typer.Option("--call", metavar="CALL-ID", help="One call, old against new, explained."),
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", metavar="KIND", help="Only changes of this kind.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show a replay's result, its changes, or one call explained old against new."""
    from ops.replay.showing import run_show  # noqa: PLC0415

    run_show(invocation, replay_id, changes=changes, call_id=call, kind=kind, as_json=as_json)


@replay_app.command("verify")
@command
def replay_verify(
    invocation: Invocation,
    from_text: FromOption = None,
    to_text: ToOption = None,
    source: SourceOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the digests of a range's CDRs and of their replay; exit with 1 where they differ."""
    from ops.replay.command import run_verify  # noqa: PLC0415

    run_verify(
        invocation,
        from_text=from_text,
        to_text=to_text,
        source=source,
        workers=workers,
        as_json=as_json,
    )


@replay_app.command("drop")
@command
def replay_drop(invocation: Invocation, replay_id: IdArgument) -> None:
    """Remove a replay's shadow tables."""
    from ops.replay.command import run_drop  # noqa: PLC0415

    run_drop(invocation, replay_id)


@command
def export_events(
    invocation: Invocation,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Must be empty or new.")],
    from_text: FromOption = None,
    to_text: ToOption = None,
) -> None:
    """Write the events of a range into compressed files, with a manifest and checksums."""
    from ops.replay.command import run_export  # noqa: PLC0415

    run_export(invocation, from_text=from_text, to_text=to_text, out=out)


def _unless_subcommand(run: Callable[..., None]) -> Callable[..., None]:
    """`replay --from ...` is a command, `replay apply` another: one of them runs."""

    def callback(context: typer.Context, **options: Any) -> None:
        if context.invoked_subcommand is None:
            run(context=context, **options)
            return
        given = [name for name in options if _is_given(context, name)]
        own = [name for name in given if name not in _COMMON]
        if own:
            raise typer.BadParameter(f"belongs behind `replay {context.invoked_subcommand}`")
        before = context.obj or Invocation()
        context.obj = Invocation(
            options["config_file"] or before.config_file,
            (*before.overrides, *(options["overrides"] or ())),
            options["debug"] or before.debug,
        )

    callback.__signature__ = inspect.signature(run)  # type: ignore[attr-defined]
    callback.__annotations__ = run.__annotations__
    callback.__doc__ = run.__doc__
    return callback


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_COMMON: Final = ("config_file", "overrides", "debug")


def add_to(app: typer.Typer) -> None:
    """Makes the commands known to `cdrstream`."""
    replay_app.callback(invoke_without_command=True)(_unless_subcommand(_replay))
    app.add_typer(replay_app, name="replay")
    app.command("export-events")(export_events)
