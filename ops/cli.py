"""The command `cdrstream`: which commands there are and what their options mean.

Owns names, options and help. Refuses to do the work: every command imports what it needs when it
runs, so that help is quick and `resolve` needs neither broker nor stream framework.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ops.install import cli as install_commands
from ops.install.cli import AdminDsnOption
from ops.invocation import ConfigOption, DebugOption, Invocation, SetOption, command
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
config_app = typer.Typer(help="The configuration: what is in effect.", no_args_is_help=True)
stack_app = typer.Typer(
    help="A local stack: PostgreSQL servers and a Kafka broker on loopback.", no_args_is_help=True
)
app.add_typer(config_app, name="config")
app.add_typer(stack_app, name="stack")

ServerOption = Annotated[
    list[str] | None,
    typer.Option("--server", metavar="NAME", help="Only this server; may be given several times."),
]
FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Where its configuration and log are. Default: .cdrstream-stack",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as one JSON object.")]


class TimeCorrectionChoice(StrEnum):
    """Values of --time-correction."""

    AUTO = "auto"
    OFF = "off"


class FormatChoice(StrEnum):
    """Values of --format."""

    JSONL = "jsonl"
    CSV = "csv"


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


@app.command()
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


@app.command()
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


@app.command()
@command
def worker(invocation: Invocation) -> None:
    """Make CDRs of the events in Kafka and write them to the sink, until SIGTERM."""
    from ops.services import run_worker  # noqa: PLC0415

    run_worker(invocation)


@app.command()
@command
def ingest(
    invocation: Invocation,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="JSON Lines of rows or envelopes, PostgreSQL's CSV with a header or COPY text of "
            "the table, a plain dump; - for standard input.",
        ),
    ],
    server: Annotated[str, typer.Option("--server", metavar="NAME", help="Whose rows they are.")],
    form: Annotated[str, typer.Option("--format", help="auto, jsonl, csv or copy.")] = "auto",
    columns: Annotated[
        str | None,
        typer.Option("--columns", metavar="A,B,...", help="Of COPY text. Default: the table's."),
    ] = None,
    offset_ms: Annotated[
        float | None,
        typer.Option(
            "--offset-ms",
            help="How far the server's clock was ahead of the reference's; default: not known.",
        ),
    ] = None,
    error_ms: Annotated[
        float, typer.Option("--error-ms", help="With --offset-ms: give or take.")
    ] = 0.0,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 on any bad row.")] = False,
) -> None:
    """Put call state events from files onto the topic. Safe to run again with the same files."""
    from ops.ingest_command import run_ingest  # noqa: PLC0415

    run_ingest(
        invocation,
        files,
        server=server,
        form=form,
        columns=columns,
        offset_ms=offset_ms,
        error_ms=error_ms,
        strict=strict,
    )


@app.command()
@command
def resolve(
    invocation: Invocation,
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="A folder with rows.NAME.jsonl files, a JSON Lines file of rows or envelopes, "
            "or - for standard input.",
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option("--reference", metavar="SERVER", help="Whose clock tells the time."),
    ] = None,
    time_correction: Annotated[
        TimeCorrectionChoice | None,
        typer.Option("--time-correction", help="Whether times are corrected by clock offsets."),
    ] = None,
    form: Annotated[FormatChoice, typer.Option("--format", help="Of the CDRs.")] = (
        FormatChoice.JSONL
    ),
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="CDRs; - is stdout.")] = "-",
    provenance: Annotated[
        str | None,
        typer.Option("--provenance", metavar="FILE", help="Why each CDR says what it says."),
    ] = None,
    dead_letters: Annotated[
        str | None,
        typer.Option("--dead-letters", metavar="FILE", help="Rows that no CDR can be made of."),
    ] = None,
) -> None:
    """Make CDRs of files: no broker, no database."""
    from ops.offline import run_resolve  # noqa: PLC0415

    run_resolve(
        invocation,
        inputs,
        reference=reference,
        time_correction=None if time_correction is None else time_correction.value,
        form=form.value,
        out=out,
        provenance=provenance,
        dead_letters=dead_letters,
    )


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
@command
def export(
    invocation: Invocation,
    since: Annotated[
        str, typer.Option("--from", metavar="TIME", help="CDRs that began then or later; ISO 8601.")
    ],
    until: Annotated[str, typer.Option("--to", metavar="TIME", help="And before this.")],
    form: Annotated[FormatChoice, typer.Option("--format", help="Of the CDRs.")] = FormatChoice.CSV,
    out: Annotated[str, typer.Option("--out", metavar="FILE", help="Where to; - is stdout.")] = "-",
    every_column: Annotated[
        bool, typer.Option("--all-columns", help="All columns of `cdrs`, not the usual eight.")
    ] = False,
    raw: Annotated[
        bool,
        typer.Option("--raw", help="CSV cells as they are: not safe to open in a spreadsheet."),
    ] = False,
) -> None:
    """Write the CDRs of a range of time as CSV or JSON Lines."""
    from ops.export import run  # noqa: PLC0415

    run(
        invocation.config,
        since=since,
        until=until,
        form=form.value,
        out=out,
        every_column=every_column,
        raw=raw,
    )


@app.command()
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


@app.command()
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


@app.command("compare-old")
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


@stack_app.command("up")
@command
def stack_up(
    _invocation: Invocation,
    servers: Annotated[
        int, typer.Option("--servers", min=1, max=20, help="How many PostgreSQL servers.")
    ] = 2,
    folder: FolderOption = None,
    foreground: Annotated[
        bool, typer.Option("--foreground", help="Hold it until Ctrl-C, and end it then.")
    ] = False,
) -> None:
    """Start a local stack and print how to connect to it."""
    from ops.local import stack_up as start  # noqa: PLC0415

    start(servers, folder, foreground=foreground)


@stack_app.command("down")
@command
def stack_down(_invocation: Invocation, folder: FolderOption = None) -> None:
    """Stop the local stack and remove its data."""
    from ops.local import stack_down as stop  # noqa: PLC0415

    stop(folder)


@app.command()
@command
def demo(
    _invocation: Invocation,
    keep: Annotated[bool, typer.Option("--keep", help="Leave it running at the end.")] = False,
    calls: Annotated[
        int, typer.Option("--calls", min=1, max=100_000, help="How many calls to make.")
    ] = 300,
    seed: Annotated[int, typer.Option("--seed", help="Of the traffic.")] = 1,
    secure: Annotated[
        bool, typer.Option("--secure", help="TLS, passwords and the least rights everywhere.")
    ] = False,
) -> None:
    """Run the whole system on this machine with real traffic and faults, and check every CDR."""
    from ops.demo import run  # noqa: PLC0415

    code = run(keep=keep, calls=calls, seed=seed, secure=secure)
    raise typer.Exit(code or 0)


@app.command()
@command
def simulate(
    _invocation: Invocation,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where to write it.")],
    seed: Annotated[int, typer.Option("--seed", help="Decides what the rest leaves open.")] = 1,
    calls: Annotated[int, typer.Option("--calls", help="Calls; transfers add more.")] = 400,
    servers: Annotated[int, typer.Option("--servers", help="Server 0 is the reference.")] = 3,
    rate: Annotated[float, typer.Option("--rate", help="Calls started a second.")] = 2.0,
    start: Annotated[
        str, typer.Option("--start", metavar="TIME", help="When it begins, ISO 8601.")
    ] = "2024-03-04T09:00:00Z",
    skew_ms: Annotated[float, typer.Option("--skew-ms", help="How far clocks may be off.")] = 0.0,
    drift_ppm: Annotated[float, typer.Option("--drift-ppm", help="How fast they may drift.")] = 0.0,
    step_ms: Annotated[
        float, typer.Option("--step-ms", help="By how much the last server's clock is set, once.")
    ] = 0.0,
    step_at: Annotated[
        float, typer.Option("--step-at", help="When, in seconds after the beginning.")
    ] = 60.0,
    jitter_ms: Annotated[
        float, typer.Option("--jitter-ms", help="Mean time for a proxy to notice a message.")
    ] = 2.0,
    absent: Annotated[
        str, typer.Option("--absent", help="Absent values: empty, null, or mixed by server.")
    ] = "empty",
    redeliver: Annotated[
        float, typer.Option("--redeliver", help="Share of rows that come twice.")
    ] = 0.01,
    retransmit: Annotated[
        float, typer.Option("--retransmit", help="Share of BYE and REFER that are sent twice.")
    ] = 0.01,
    mix: Annotated[
        str, typer.Option("--mix", help="usual, even, crossing, plain, or SCENARIO=SHARE,...")
    ] = "usual",
    talk_mean: Annotated[float, typer.Option("--talk-mean", help="Mean seconds of talk.")] = 90.0,
) -> None:
    """Write made-up call traffic of several servers, and the truth about it, into a folder."""
    from ops.simulation.command import SimulateOptions, run  # noqa: PLC0415

    options = SimulateOptions(
        seed=seed,
        calls=calls,
        servers=servers,
        rate=rate,
        start=start,
        skew_ms=skew_ms,
        drift_ppm=drift_ppm,
        step_ms=step_ms,
        step_at=step_at,
        jitter_ms=jitter_ms,
        absent=absent,
        redeliver=redeliver,
        retransmit=retransmit,
        mix=mix,
        talk_mean=talk_mean,
    )
    run(out, options)


replay_commands.add_to(app)
install_commands.add_to(app)


def main() -> None:
    """Entry point of the command."""
    app()


if __name__ == "__main__":
    main()
