"""Commands that read or write files: rows into the topic, CDRs out of rows or of the sink.

Owns names, options and help. Refuses to do the work.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from callstate.config import TimeCorrection
from ops.invocation import Invocation, command


class FormatChoice(StrEnum):
    """Values of --format."""

    JSONL = "jsonl"
    CSV = "csv"


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
        TimeCorrection | None,
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
        time_correction=time_correction,
        form=form.value,
        out=out,
        provenance=provenance,
        dead_letters=dead_letters,
    )


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
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="Exit with 1 where CDRs may be missing yet.")
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
        exit_code=exit_code,
    )
