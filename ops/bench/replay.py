"""Replay's figures beside their targets: `python -m ops.bench.replay`, or `make bench-replay`.

Owns the parts and the table: events a second to a digest and into shadow tables, two processes
beside one, memory by the length of the range, and what a running service feels of a replay beside
it. On a real broker and a real PostgreSQL.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from callstate.events import format_time
from ops.bench.live_calls import LiveCalls
from ops.bench.parts import Part, arguments, run_parts
from ops.bench.replaying import Asked
from ops.bench.stream_bed import Bench, Line, Process, say, wait_until
from ops.bench.stream_live import Seen, all_move, config_for, provisioned
from ops.bench.stream_log import EVENTS_A_CALL
from ops.stack import Stack

_ROOT: Final = Path(__file__).resolve().parents[2]
_DAY_EVENTS: Final = 10_000_000
_DAY_CALLS_A_SECOND: Final = _DAY_EVENTS / EVENTS_A_CALL / 86_400
_TABLE_BYTES_A_CALL: Final = 24  # half full at the least, and the old table while it grows
_WARM_SECONDS: Final = 8.0
_DIGEST_TARGET: Final = 100_000
_SHADOW_TARGET: Final = 60_000
_SCALING_TARGET: Final = 1.7
_MEMORY_TARGET_MB: Final = 300
_LATENCY_TARGET: Final = 1.2


def _measured(bench: Bench, *, workers: int, to_shadow: bool) -> dict[str, float]:
    settings = bench.settings
    asked = Asked(
        settings.bootstrap_servers,
        settings.events_topic,
        settings.references_topic,
        settings.sink_dsn,
        workers,
        to_shadow,
    )
    done = subprocess.run(
        [sys.executable, "-m", "ops.bench.replaying", json.dumps(asdict(asked))],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _speed(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    with Stack(1) as stack:
        bench = Bench(stack, folder)
        events = bench.fill(given.calls)
        rates: dict[tuple[int, bool], float] = {}
        for to_shadow in (False, True):
            for workers in (1, 2):
                runs = [
                    _measured(bench, workers=workers, to_shadow=to_shadow)
                    for _ in range(given.runs)
                ]
                rate = rates[workers, to_shadow] = median(events / run["seconds"] for run in runs)
                what = "to shadow tables" if to_shadow else "to a digest"
                cpu = median(1e6 * run["cpu_seconds"] / events for run in runs)
                memory = max(run["rss_mb"] for run in runs)
                say(f"  {what}, {workers}: {rate:,.0f} events/s, {cpu:.1f} us CPU, {memory:.0f} MB")
        for to_shadow, target in ((True, _SHADOW_TARGET), (False, _DIGEST_TARGET)):
            what = "to shadow tables" if to_shadow else "to a digest"
            rate = rates[1, to_shadow]
            yield Line(
                f"events/s, one process, {what}", f"{rate:,.0f}", f">= {target:,}", rate >= target
            )
        for to_shadow in (True, False):
            what = "to shadow tables" if to_shadow else "to a digest"
            times = rates[2, to_shadow] / rates[1, to_shadow]
            yield Line(
                f"two processes beside one, {what}",
                f"{times:.2f} x",
                f">= {_SCALING_TARGET} x",
                times >= _SCALING_TARGET,
            )


def _memory(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """At a day's rate, and what a whole day would take.

    What grows with the range is eight bytes a forgotten call, in a table that doubles when it is
    half full: that much is added for what is not read here.
    """
    with Stack(1) as stack:
        bench = Bench(stack, folder)
        events = bench.fill(given.memory_calls, calls_a_second=_DAY_CALLS_A_SECOND)
        measured = _measured(bench, workers=1, to_shadow=True)["rss_mb"]
    more = max(0, _DAY_EVENTS - events) / EVENTS_A_CALL * _TABLE_BYTES_A_CALL / 2**20
    yield Line(f"memory, {events:,} events at a day's rate", f"{measured:.0f} MB")
    yield Line(
        f"memory, {_DAY_EVENTS:,} events of a day",
        f"{measured + more:.0f} MB",
        f"<= {_MEMORY_TARGET_MB} MB",
        measured + more <= _MEMORY_TARGET_MB,
    )


def _beside(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """The service's delays alone, and while replays of its own topic run one after another."""
    with Stack(3) as stack, contextlib.ExitStack() as parts:
        config = config_for(stack, folder, 0.5)
        provisioned(stack, config)
        running = []
        for name in ("reader", "worker"):
            process = Process("ops.cli", [name, "--config", str(config)], folder, f"beside-{name}")
            parts.callback(process.end)
            running.append(process)
        with stack.sink.connect() as connection:
            wait_until(lambda: all_move(connection), "all partitions move", *running)
        seen = Seen(stack.sink.dsn)
        parts.callback(seen.stop)
        replays = _Replays(config)
        with LiveCalls([server.dsn for server in stack.servers], given.rate) as calls:
            time.sleep(_WARM_SECONDS + given.seconds)
            with replays:
                began = time.time()
                time.sleep(given.seconds)
        wait_until(lambda: calls.ended.keys() <= seen.at.keys(), "every CDR is there")
    alone: list[float] = []
    beside: list[float] = []
    for call, at in calls.ended.items():
        if at > calls.begun + _WARM_SECONDS:
            (beside if at > began else alone).append(seen.at[call] - at)
    before, after = (quantiles(sorted(delays), n=100)[98] for delays in (alone, beside))
    say(f"  {replays.done} replays beside {len(beside)} calls")
    yield Line("p99 of the service alone", f"{before:.2f} s")
    yield Line(
        "p99 of the service beside a replay",
        f"{after:.2f} s ({after / before - 1:+.0%})",
        "<= +20 %",
        after / before <= _LATENCY_TARGET,
    )


class _Replays:
    """Replays of all that there is, one after another, by the default settings."""

    def __init__(self, config: Path) -> None:
        self.done = 0
        self._config = config
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replays", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    def _run(self) -> None:
        while not self._stop.is_set():
            now = time.time()
            span = (format_time(round((now - 3_600) * 1e6)), format_time(round(now * 1e6)))
            subprocess.run(
                [sys.executable, "-m", "ops.cli", "replay", "--from", span[0], "--to", span[1],
                 "--config", str(self._config)],
                cwd=_ROOT,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )  # fmt: skip
            self.done += 1


PARTS: Final[dict[str, Part]] = {"speed": _speed, "memory": _memory, "beside": _beside}


def main() -> int:
    """Runs the parts that are asked for and prints one table."""
    run_parts(PARTS, _arguments())
    return 0


def _arguments() -> argparse.Namespace:
    asked = arguments("Figures of replays.", PARTS)
    asked.add_argument("--calls", type=int, default=100_000, help="calls of the backlog, for speed")
    asked.add_argument("--runs", type=int, default=3, help="of each; the median is told")
    asked.add_argument("--memory-calls", type=int, default=100_000, help="calls, for memory")
    asked.add_argument("--rate", type=float, default=1_000.0, help="events a second, for beside")
    asked.add_argument("--seconds", type=float, default=30.0, help="of each half, for beside")
    return asked.parse_args()


if __name__ == "__main__":
    sys.exit(main())
