"""Figures of a running system: how old a CDR is when it is there; how long a dead worker is felt.

Owns both experiments. Refuses to know how a worker is made.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import quantiles
from typing import Final

import psycopg

from ops.bench.live_calls import LiveCalls
from ops.bench.stream_bed import Bench, Line, Process, say, wait_until
from ops.bench.stream_log import START_US, beats
from ops.stack import Stack

_READER: Final = "cdr_reader"
_WRITER: Final = "cdr_writer"
_SERVERS: Final = 3
_PARTITIONS: Final = 8
_STAY_OPEN: Final = 0.9  # of the calls of a backlog whose ends are left out; the others are busy
_WARM_SECONDS: Final = 8.0
_LOOK_SECONDS: Final = 0.01
# Lateness to the targets of p50 and p99, seconds.
_TARGETS: Final = {5.0: (6.5, 8.0), 0.5: (None, 2.5)}


def latency(folder: Path, *, rate: float, seconds: float, lateness: float) -> Iterator[Line]:
    """From the commit of the BYE on its server to the row in `cdrs`, through the whole system."""
    with Stack(_SERVERS) as stack, contextlib.ExitStack() as parts:
        config = config_for(stack, folder, lateness)
        provisioned(stack, config)
        running = []
        for name in ("reader", "worker"):
            process = Process(
                "ops.cli", [name, "--config", str(config)], folder, f"latency-{lateness:g}-{name}"
            )
            parts.callback(process.end)
            running.append(process)
        with stack.sink.connect() as connection:
            wait_until(lambda: all_move(connection), "all partitions move", *running)
        seen = Seen(stack.sink.dsn)
        parts.callback(seen.stop)
        with LiveCalls([server.dsn for server in stack.servers], rate) as calls:
            time.sleep(_WARM_SECONDS + seconds)
        ended = {call: at for call, at in calls.ended.items() if at > calls.begun + _WARM_SECONDS}
        wait_until(lambda: ended.keys() <= seen.at.keys(), "every CDR is there")
        delays = sorted(seen.at[call] - at for call, at in ended.items())
    steps = quantiles(delays, n=100)
    p50, p99 = steps[49], steps[98]
    say(f"  {len(delays)} calls, {calls.rows / (calls.finished - calls.begun):,.0f} events/s")
    target50, target99 = _TARGETS.get(lateness, (None, None))
    what = f"BYE's commit to row, lateness {lateness:g} s"
    yield Line(
        f"{what}, p50",
        f"{p50:.2f} s",
        "" if target50 is None else f"<= {target50} s",
        None if target50 is None else p50 <= target50,
    )
    yield Line(
        f"{what}, p99",
        f"{p99:.2f} s",
        "" if target99 is None else f"<= {target99} s",
        None if target99 is None else p99 <= target99,
    )


def all_move(connection: psycopg.Connection[tuple[int]]) -> bool:
    """Whether every partition has a watermark."""
    row = connection.execute(
        "SELECT count(watermark) FROM sink_progress WHERE topic = 'sipx.call-state-events'"
    ).fetchone()
    return row == (_PARTITIONS,)


def config_for(stack: Stack, folder: Path, lateness: float) -> Path:
    """A configuration file for the stack."""
    lines = ["[kafka]", f"bootstrap_servers = {json.dumps(stack.broker.bootstrap_servers)}"]
    for server in stack.servers:
        dsn = server.dsn_for(user=_READER)
        lines += ["[[servers]]", f"name = {json.dumps(server.name)}", f"dsn = {json.dumps(dsn)}"]
    lines += ["[sink]", f"dsn = {json.dumps(stack.sink.dsn_for(user=_WRITER))}"]
    lines += ["[resolution]", f"allowed_lateness_seconds = {lateness}"]
    path = folder / f"latency-{lateness:g}.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def provisioned(stack: Stack, config: Path) -> None:
    """Topics, roles and slots are there."""
    from ops.config_sources import load  # noqa: PLC0415  pydantic is slow to load
    from ops.provision import run  # noqa: PLC0415

    run(
        load(config).config,
        [f"{server.name}={server.dsn}" for server in stack.servers],
        servers=None,
        print_sql=False,
        echo=lambda _line: None,
    )


class Seen:
    """When each row came into `cdrs`, by looking a hundred times a second."""

    def __init__(self, dsn: str) -> None:
        self.at: dict[str, float] = {}
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, name="seen", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Looks no more."""
        self._stop.set()
        self._thread.join(10)

    def _look(self) -> None:
        newest = 0
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            while not self._stop.wait(_LOOK_SECONDS):
                rows = connection.execute(
                    "SELECT id, call_id FROM cdrs WHERE id > %s", (newest,)
                ).fetchall()
                now = time.time()
                for row_id, call_id in rows:
                    newest = max(newest, row_id)
                    self.at.setdefault(call_id, now)


def takeover(stack: Stack, folder: Path, *, calls: int) -> Iterator[Line]:
    """One of two workers is killed with `calls` open calls; until the other moves its partitions.

    The other worker holds as many. Heartbeats go on all the time, so that there is what to move by.
    """
    bench = Bench(stack, folder, session_timeout_seconds=8.0)
    with bench.worker("dies") as dies, bench.worker("stays") as stays:
        for process in (dies, stays):
            process.wait_logged("partitions_assigned")
        half = bench.settings.partitions // 2
        wait_until(lambda: _held(bench, "dies") == half, "both have partitions", dies, stays)
        filled = round(2 * calls / _STAY_OPEN)
        bench.fill(filled, ended=False)
        ends = bench.ends()
        wait_until(lambda: bench.written() >= ends, "all calls are open", dies, stays)
        newest_us = START_US + round(filled / 200 * 1_000_000) + 20_000_000
        with _Beats(bench, newest_us):
            topic = bench.settings.events_topic
            before = bench.query(_MOST, topic)
            wait_until(lambda: bench.query(_LEAST, topic) > before, "all moves", dies, stays)
            before = bench.query(_MOST, topic)
            killed_at = time.monotonic()
            dies.kill()
            wait_until(
                lambda: (
                    bench.query(_LEAST, bench.settings.events_topic) > before
                    and _held(bench, "stays") == 2 * half
                ),
                "all partitions move",
                stays,
            )
            seconds = time.monotonic() - killed_at
        own = stays.said("partitions_assigned")[-1]
    told = f"a killed worker's {calls:,} open calls"
    yield Line(f"{told}: all moves again", f"{seconds:.1f} s", "<= 15 s", seconds <= 15)
    recovery = float(own["seconds"])
    yield Line("  of which our own recovery", f"{recovery:.2f} s", "<= 3 s", recovery <= 3)


_LEAST: Final = "SELECT min(watermark) FROM sink_progress WHERE topic = %s"
_MOST: Final = "SELECT max(watermark) FROM sink_progress WHERE topic = %s"


def _held(bench: Bench, name: str) -> int:
    return int(
        bench.query(
            "SELECT count(*) FROM sink_progress WHERE topic = %s AND holder = %s",
            bench.settings.events_topic,
            name,
        )
    )


class _Beats:
    """Heartbeats of all servers, ten a second, each a tenth of a second on."""

    def __init__(self, bench: Bench, from_us: int) -> None:
        self._bench, self._at_us = bench, from_us
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="beats", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            for record in beats(self._at_us):
                self._bench.put(record)
            self._bench.producer.flush(10)
            self._at_us += 100_000
