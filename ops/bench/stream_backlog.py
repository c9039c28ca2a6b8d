"""The backlog: how fast workers empty a full topic into the database, and an ordinary agent beside.

Owns the runs over one kind of backlog with one worker, with two, and with a Faust agent that only
counts. Medians of the runs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from ops.bench.stream_bed import (
    Bench,
    Line,
    cpu_seconds,
    rss_mb,
    say,
    tree_cpu_seconds,
    wait_until,
)
from ops.stack import Stack


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One run: what was read, in which time, at which cost."""

    name: str
    events: int
    seconds: float
    cpu_seconds: float
    rss_mb: float
    others_cpu_seconds: float = 0.0

    def line(self) -> str:
        """For a person."""
        each = 1e6 * self.cpu_seconds / self.events
        return (
            f"{self.name:34} {self.events / self.seconds:9,.0f} events/s {each:7.1f} us CPU/event"
            f" {self.rss_mb:7,.0f} MB   broker and database {self.others_cpu_seconds:5.1f} s CPU"
            f" of {self.seconds:.1f} s"
        )


def empty_backlog(
    bench: Bench, events: int, workers: int = 1, profile: Path | None = None, *, behind: int = 0
) -> Figure:
    """From ready partitions to the last record's transaction; `behind`: how many lie before it."""
    ends = bench.ends()
    with contextlib.ExitStack() as stack:
        running = [
            stack.enter_context(bench.worker(f"w{n}", profile if n == 0 else None))
            for n in range(workers)
        ]
        for process in running:
            process.wait_logged("partitions_assigned")
        others = [bench.stack.broker.pid, bench.stack.sink.pid]
        began, read = time.monotonic(), bench.written()
        before = sum(cpu_seconds(process.pid) for process in running)
        others_before = sum(tree_cpu_seconds(pid) for pid in others)
        wait_until(lambda: bench.written() >= ends, "the backlog is written", *running)
        seconds = time.monotonic() - began
        used = sum(cpu_seconds(process.pid) for process in running) - before
        others_used = sum(tree_cpu_seconds(pid) for pid in others) - others_before
        memory = sum(rss_mb(process.pid) for process in running)
    share = (ends - read) / (ends - behind)
    name = f"{workers} worker{'s' * (workers > 1)}"
    return Figure(name, round(events * share), seconds, used, memory, others_used)


def count_by_faust(bench: Bench, events: int) -> Figure:
    """An ordinary Faust agent on the same kind of backlog, one table write an event."""
    ends = bench.ends() // 500 * 500  # it says every 500 how far it is
    settings = bench.settings
    arguments = [settings.bootstrap_servers, settings.events_topic, str(settings.partitions)]
    process = bench.process("ops.bench.faust_agent", arguments, "faust")
    try:
        process.wait_logged("counted 500\n")

        def counted() -> int:
            told = process.log.read_text().rpartition("\n")[0]
            return int(told.rpartition("counted ")[2].split()[0])

        began, read = time.monotonic(), counted()
        before = cpu_seconds(process.pid)
        wait_until(lambda: counted() >= ends, "Faust has counted all", process)
        seconds = time.monotonic() - began
        used, memory = cpu_seconds(process.pid) - before, rss_mb(process.pid)
    finally:
        process.kill()
    return Figure(
        "ordinary Faust agent", round(events * (ends - read) / ends), seconds, used, memory
    )


def _medians(figures: list[Figure]) -> Figure:
    middle = median(figure.events / figure.seconds for figure in figures)
    return min(figures, key=lambda figure: abs(figure.events / figure.seconds - middle))


def _emptied(
    stack: Stack, folder: Path, calls: int, runs: int, workers: int, profile: Path | None = None
) -> Figure:
    figures = []
    for _ in range(runs):
        bench = Bench(stack, folder)
        figures.append(empty_backlog(bench, bench.fill(calls), workers, profile))
        say(f"  {figures[-1].line()}")
        rows = bench.query("SELECT count(*) FROM cdrs")
        if rows != calls:
            raise RuntimeError(f"{rows} CDRs of {calls} calls")
    return _medians(figures)


def one_worker(
    stack: Stack,
    folder: Path,
    *,
    calls: int,
    faust_calls: int,
    runs: int,
    profile: Path | None = None,
) -> Iterator[Line]:
    """One worker, and an ordinary Faust agent beside it unless `faust_calls` is 0."""
    ours = _emptied(stack, folder, calls, runs, 1, profile)
    rate = ours.events / ours.seconds
    each_us = 1e6 * ours.cpu_seconds / ours.events
    yield Line("backlog, one worker, events/s", f"{rate:,.0f}", ">= 25,000", rate >= 25_000)
    yield Line("  CPU of the worker, us/event", f"{each_us:.1f}", "<= 35", each_us <= 35)
    yield Line("  its memory at the end, MB", f"{ours.rss_mb:,.0f}")
    yield Line("  broker and database, CPU s", f"{ours.others_cpu_seconds:.1f}")
    if not faust_calls:
        return
    bench = Bench(stack, folder)
    theirs = count_by_faust(bench, bench.fill(faust_calls))
    say(f"  {theirs.line()}")
    their_rate = theirs.events / theirs.seconds
    times = rate / their_rate
    yield Line("ordinary Faust agent, events/s", f"{their_rate:,.0f}")
    yield Line("  times an ordinary Faust agent", f"{times:.1f}", ">= 8", times >= 8)


def two_workers(stack: Stack, folder: Path, *, calls: int, runs: int) -> Iterator[Line]:
    """Two workers and one, in turn; what broker and database took of the cores is told with it."""
    one = _emptied(stack, folder, calls, runs, 1)
    two = _emptied(stack, folder, calls, runs, 2)
    rates = [figure.events / figure.seconds for figure in (one, two)]
    gain = rates[1] / rates[0]
    yield Line("one worker, events/s", f"{rates[0]:,.0f}")
    yield Line("two workers, events/s", f"{rates[1]:,.0f}")
    yield Line("  times one", f"{gain:.2f}", ">= 1.6 where the cores are free", gain >= 1.6)
    for name, figure in (("one", one), ("two", two)):
        ours, others = figure.cpu_seconds, figure.others_cpu_seconds
        cores = f"{ours / figure.seconds:.2f} + {others / figure.seconds:.2f}"
        yield Line(f"  cores of workers + broker and database, {name}", cores)
