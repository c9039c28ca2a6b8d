"""The command `cdrstream`: which commands there are, and in what order help tells of them.

Owns the program's own options and exit codes. Refuses to know what a command's options mean: the
modules of `ops.commands`, `ops.install.cli` and `ops.replay.cli` do, each for its own. Every
command imports what it needs when it runs, so that help is quick and `resolve` needs neither broker
nor stream framework.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted.
"""

from __future__ import annotations

from typing import Annotated

import typer

from ops.commands import files, questions, service, trials
from ops.install import cli as install_commands
from ops.invocation import ConfigOption, DebugOption, Invocation, SetOption
from ops.replay import cli as replay_commands

app = typer.Typer(
    name="cdrstream",
    help="SIP call state events from many PostgreSQL servers, through Kafka, to call detail "
    "records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage or configuration.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415

        typer.echo(f"cdrstream {version('cdrstream')}")
        raise typer.Exit


@app.callback()
def before(
    context: typer.Context,
    config_file: ConfigOption = None,
    overrides: SetOption = None,
    debug: DebugOption = False,
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """SIP call state events from PostgreSQL, through Kafka, to call detail records."""
    context.obj = Invocation(config_file, tuple(overrides or ()), debug)


for _run in (
    service.provision,
    service.reader,
    service.worker,
    files.ingest,
    files.resolve,
    questions.explain,
    service.purge,
    questions.active,
    questions.status,
    files.export,
    service.dashboard,
    questions.doctor,
    questions.compare_old,
    trials.demo,
    trials.simulate,
):
    app.command()(_run)
app.add_typer(questions.config_app, name="config")
app.add_typer(trials.stack_app, name="stack")
replay_commands.add_to(app)
install_commands.add_to(app)


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()
