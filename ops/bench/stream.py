"""The worker's figures beside their targets: `python -m ops.bench.stream`, or `make bench-stream`.

Owns which parts there are, their order and the table. Each part is measured in a module of its own,
on a real broker and a real PostgreSQL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ops.bench.parts import Part, arguments, run_parts
from ops.bench.stream_backlog import one_worker, two_workers
from ops.bench.stream_bed import Line
from ops.bench.stream_live import latency, takeover
from ops.bench.stream_open import open_calls
from ops.stack import Stack


def _backlog(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    with Stack(1) as stack:
        yield from one_worker(
            stack,
            folder,
            calls=given.calls,
            faust_calls=0 if given.no_faust else given.faust_calls,
            runs=given.runs,
            profile=given.profile,
        )


def _two_workers(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    with Stack(1) as stack:
        yield from two_workers(stack, folder, calls=given.calls, runs=given.runs)


def _latency(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    for lateness in (5.0, 0.5):
        yield from latency(folder, rate=given.rate, seconds=given.seconds, lateness=lateness)


def _takeover(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    with Stack(1) as stack:
        yield from takeover(stack, folder, calls=given.takeover_calls)


def _open_calls(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    with Stack(1) as stack:
        yield from open_calls(stack, folder, calls=given.open_calls, backlog_calls=given.calls)


PARTS: Final[dict[str, Part]] = {
    "backlog": _backlog,
    "latency": _latency,
    "takeover": _takeover,
    "two-workers": _two_workers,
    "open-calls": _open_calls,
}


def main() -> int:
    """Runs the parts that are asked for and prints one table."""
    run_parts(PARTS, _arguments())
    return 0


def _arguments() -> argparse.Namespace:
    asked = arguments("Figures of the stream app's worker.", PARTS)
    asked.add_argument("--calls", type=int, default=40_000, help="calls of the backlog")
    asked.add_argument("--faust-calls", type=int, default=8_000, help="calls of Faust's backlog")
    asked.add_argument("--runs", type=int, default=3, help="of each backlog; the median is told")
    asked.add_argument("--no-faust", action="store_true", help="leave the ordinary agent out")
    asked.add_argument("--rate", type=float, default=1_000.0, help="events a second, for latency")
    asked.add_argument("--seconds", type=float, default=40.0, help="of traffic, for latency")
    asked.add_argument(
        "--takeover-calls", type=int, default=100_000, help="open calls of the worker that dies"
    )
    asked.add_argument(
        "--open-calls", type=int, default=1_000_000, help="calls in progress, for open-calls"
    )
    asked.add_argument("--profile", type=Path, help="write cProfile's figures of a worker here")
    return asked.parse_args()


if __name__ == "__main__":
    sys.exit(main())
