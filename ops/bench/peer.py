"""Debezium on the same server and broker, through a kit that measures it: `--peer PATH`.

Owns what the kit is given (a database of its own, the broker, the same rows, rate and runs) and its
figures beside ours. Refuses to know how Debezium is run: the kit is a program that takes
`--pg DSN --bootstrap HOST:PORT --workdir DIR --repeat N [--tuned]` with `--rows N`, or with
`--live --rate N --seconds N`, and prints one JSON object with the medians of its runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from ops.bench.bed import Bed
from ops.stack.java import java

# The kit drops rows in its database, and makes the table by itself.
_DATABASE: Final = "peer"


class PeerFailed(Exception):
    """The kit ended with an error, or printed no figures."""


def measure_peer(
    bed: Bed, kit: Path, rows: int, runs: int, seconds: int, rate: int, parts: frozenset[str]
) -> dict[str, dict[str, Any]]:
    """Runs the kit, tuned, on the bed's server and broker.

    Args:
        bed: The server and broker that our reader was measured on.
        kit: The kit's program.
        rows: Of the backlog.
        runs: Of each kind.
        seconds: How long the steady rate goes on.
        rate: Rows a second of it.
        parts: `backlog`, `delays` or both.

    Returns:
        The kit's medians by part.

    Raises:
        PeerFailed: With the kit's last words.
    """
    wanted = {
        "backlog": ["--rows", str(rows)],
        "delays": ["--live", "--rate", str(rate), "--seconds", str(seconds)],
    }
    found: dict[str, dict[str, Any]] = {}
    bed.server.create_database(_DATABASE)
    try:
        with tempfile.TemporaryDirectory(prefix="cdrstream-peer-") as folder:
            for part, arguments in wanted.items():
                if part in parts:
                    command = [sys.executable, str(kit), "--pg", bed.server.dsn_for(_DATABASE)]
                    command += ["--bootstrap", bed.stack.broker.bootstrap_servers]
                    command += ["--workdir", folder, "--tuned", "--repeat", str(runs)]
                    found[part] = _run([*command, *arguments])
    finally:
        bed.server.drop_database(_DATABASE)
    return found


def _run(command: list[str]) -> dict[str, Any]:
    """One JSON object from the kit; what it says meanwhile goes to standard error."""
    paths = f"{java().parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env={**os.environ, "PATH": paths}
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        raise PeerFailed(f"{command[1]} ended with code {done.returncode}: its words are above")
    try:
        told: dict[str, Any] = json.loads(lines[-1])
    except ValueError as error:
        raise PeerFailed(f"{command[1]} printed no figures: {lines[-1][:200]!r}") from error
    return told


def beside(
    ours: Mapping[str, float], theirs: Mapping[str, Mapping[str, Any]], rate: int
) -> list[tuple[str, str, str]]:
    """Lines of the table: the peer's figures, and ours as a share or multiple of them.

    Args:
        ours: Medians by the names that `ops.bench.reader` gives them; what was not measured is
            left out, and so is its line.
        theirs: Of `measure_peer`.
        rate: Rows a second of the steady rate.
    """
    lines: list[tuple[str, str, str]] = []
    for part, figures in theirs.items():
        name = f"{figures.get('peer', 'peer')} {figures.get('version', '')}".strip() + ", tuned"
        # Its CPU is told by rows; at a steady rate ours is a share of a core.
        shares = {**figures, "cpu_share": figures["cpu_s_per_100k"] * rate / 100_000}
        for told, our_name, what, form, target in _LINES[part]:
            value = shares[told]
            lines.append((f"{name}: {what}", format(value, form), ""))
            if our_name in ours and value:
                times = format(ours[our_name] / value, ".2f")
                lines.append((f"ours / {name}: {what}", times, target))
        lost = figures.get("ids_missing", figures.get("missing", 0))
        if lost:
            lines.append((f"{name}: rows missing", f"{lost:.0f}", ""))
    return lines


# The kit's name, ours, words, form, target of ours / theirs.
_LINES: Final[Mapping[str, tuple[tuple[str, str, str, str, str], ...]]] = {
    "backlog": (
        ("rows_per_s", "rows_a_second", "backlog, rows/s into Kafka", ",.0f", ">= 2"),
        ("cpu_s_per_100k", "cpu_s_per_100k", "CPU s per 100,000 rows", ".2f", ""),
        ("rss_mb", "memory_mb", "memory peak, MB", ".0f", ""),
    ),
    "delays": (
        ("commit_to_consumer_p50_ms", "p50_ms", "commit to readable, p50 ms", ".1f", ""),
        ("commit_to_consumer_p99_ms", "p99_ms", "commit to readable, p99 ms", ".1f", ""),
        ("cpu_share", "cpu_share", "CPU at the steady rate, share of a core", ".3f", "<= 0.25"),
    ),
}
