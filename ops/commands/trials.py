"""Commands to try things out on this machine: a local stack, the demo, made-up traffic.

Owns names, options and help. Refuses to do the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ops.invocation import Invocation, command

stack_app = typer.Typer(
    help="A local stack: PostgreSQL servers and a Kafka broker on loopback.", no_args_is_help=True
)

FolderOption = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        metavar="DIR",
        help="Where its configuration and log are. Default: .cdrstream-stack",
        show_default=False,
    ),
]


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
