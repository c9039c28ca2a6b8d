"""How fast `cdrstream resolve` is, and how much memory it takes a row.

Owns the making of the input (one simulated installation, repeated with other Call-IDs, row ids and
times until it is large enough) and the measuring of whole processes: CPU seconds and peak memory of
a child, wall time beside them.

    python -m ops.bench.resolve --rows 200000 --rows 2000000
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import orjson

from callstate.events import format_time, parse_time_us
from ops.simulation.folder import simulate
from ops.simulation.servers import installation
from ops.simulation.traffic import TrafficSpec

TARGET_ROWS_A_SECOND = 60_000
TARGET_BYTES_A_ROW = 1_228.8  # 1.2 KB
_CALLS = 2_000
_SERVERS = 3
_REPEAT_SECONDS = 1_500


class Measured(NamedTuple):
    """One run of the command on one input."""

    rows: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="how fast `cdrstream resolve` is")
    parser.add_argument("--rows", type=int, action="append", help="least number of rows")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    base = _run([sys.executable, "-c", "import ops.resolve"])
    print(f"{'rows':>10} {'rows/s':>8} {'CPU us/row':>10} {'bytes/row':>9} {'wall s':>7}")
    for rows in options.rows or [200_000]:
        with tempfile.TemporaryDirectory(prefix="cdrstream-bench-") as folder:
            count = make_rows(Path(folder), rows)
            runs = [measure(Path(folder), count) for _ in range(options.repeat)]
        cpu = median(run.cpu_seconds for run in runs)
        memory = median(run.peak_bytes for run in runs) - base.peak_bytes
        print(
            f"{count:>10} {count / cpu:>8.0f} {cpu / count * 1e6:>10.1f} {memory / count:>9.0f} "
            f"{median(run.wall_seconds for run in runs):>7.1f}",
            flush=True,
        )
    print(
        f"targets: >= {TARGET_ROWS_A_SECOND} rows/s of one core, <= {TARGET_BYTES_A_ROW:.0f} bytes"
    )


def make_rows(folder: Path, rows: int) -> int:
    """Writes rows.NAME.jsonl files with at least so many rows; returns how many there are."""
    with tempfile.TemporaryDirectory(prefix="cdrstream-bench-") as once:
        spec = TrafficSpec(
            seed=7,
            calls=_CALLS,
            servers=installation(_SERVERS, skew_ms=500.0, drift_ppm=20.0, seed=7),
        )
        simulate(Path(once), spec)
        files = {
            path.name: [orjson.loads(line) for line in path.open("rb")]
            for path in sorted(Path(once).glob("rows.*.jsonl"))
        }
    repeats = -(-rows // sum(map(len, files.values())))
    written = 0
    for name, told in files.items():
        with (folder / name).open("wb") as stream:
            for row in _repeated(told, repeats):
                stream.write(orjson.dumps(row) + b"\n")
                written += 1
    return written


def _repeated(rows: list[dict[str, Any]], repeats: int) -> Iterator[dict[str, Any]]:
    ids = max(row["id"] for row in rows)
    times = [parse_time_us(row["event_time"]) for row in rows]
    for number in range(repeats):
        shift_us = number * _REPEAT_SECONDS * 1_000_000
        for row, time_us in zip(rows, times, strict=True):
            again = dict(row)
            again["id"] += number * ids
            again["call_id"] = f"{number}-{row['call_id']}"
            again["event_time"] = format_time(time_us + shift_us)
            if row.get("reference"):
                named = (f"{number}-{item.strip()}" for item in row["reference"].split(","))
                again["reference"] = ",".join(named)
            yield again


def measure(folder: Path, rows: int) -> Measured:
    """One run of the command in a process of its own."""
    out = folder / "cdrs.jsonl"
    command = [sys.executable, "-m", "ops.cli", "resolve", str(folder), "--out", str(out)]
    return _run(command)._replace(rows=rows)


def _run(command: list[str]) -> Measured:
    began = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(json.dumps({"command": command, "exit": process.returncode}))
    return Measured(
        0,
        time.perf_counter() - began,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1_024,
    )


if __name__ == "__main__":
    main()
