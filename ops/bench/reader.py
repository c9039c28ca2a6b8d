"""The reader's figures on this machine, beside their targets: `make bench-reader`.

Owns what is measured: one backlog, read side by side by our reader and by PostgreSQL's own
`pg_recvlogical` to nowhere; delays at a steady rate; memory with the broker away; several servers
in one process and in several; Debezium beside it where a kit for that is named. Medians of the
runs. Everything happens in one local stack.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson
import psycopg
from confluent_kafka import Consumer, TopicPartition

from ops.bench.bed import ROW, Bed, cpu_seconds, reading, receive_to_nowhere
from ops.bench.peer import beside, measure_peer
from ops.stack import BrokerSpec, ServerSpec, Stack

# At a steady rate, before it counts: a broker that nobody has fetched from compiles its code first.
_WARM_SECONDS: Final = 5
_SLOTS: Final = {"max_replication_slots": "60", "max_wal_senders": "40", "max_wal_size": "8GB"}


@dataclass(slots=True)
class Figures:
    """What was measured, in the order of measuring."""

    rows: list[tuple[str, str, str]] = field(default_factory=list)
    raw: dict[str, Any] = field(default_factory=dict)
    medians: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, value: str, target: str = "") -> None:
        """One line of the table."""
        self.rows.append((name, value, target))
        say(f"  {name}: {value}")


def say(text: str) -> None:
    """Progress, on standard error."""
    sys.stderr.write(text + "\n")


def backlog(bed: Bed, rows: int, runs: int, figures: Figures) -> None:
    """One reader against a backlog, and `pg_recvlogical` beside it."""
    end = bed.log_end()
    ours: list[dict[str, float]] = []
    nowhere: list[float] = []
    for run in range(runs):
        bed.copy_slot("begin", f"nowhere{run}")
        seconds = receive_to_nowhere(bed, f"nowhere{run}", end)
        bed.drop_slot(f"nowhere{run}")
        if seconds is not None:
            nowhere.append(rows / seconds)
        bed.copy_slot("begin", f"ours{run}")
        with reading([bed.settings(f"ours{run}", f"ours{run}")], rows) as process:
            process.hear("streaming")
            senders = bed.backends()["walsender"]
            before = cpu_seconds(senders)
            done = process.hear("done")
            done["sender_cpu_seconds"] = cpu_seconds(senders) - before
            ours.append(done)
        bed.drop_slot(f"ours{run}")
        say(f"  run {run + 1}: ours {rows / done['seconds']:,.0f} rows/s")
    rate = statistics.median(rows / each["seconds"] for each in ours)
    figures.add("backlog, one reader, rows/s into Kafka", f"{rate:,.0f}")
    if nowhere:
        limit = statistics.median(nowhere)
        figures.add("pg_recvlogical to nowhere, rows/s", f"{limit:,.0f}")
        figures.add("share of pg_recvlogical", f"{rate / limit:.2f}", ">= 0.90")
    per_100k = 100_000 / rows
    cpu = statistics.median(each["cpu_seconds"] for each in ours) * per_100k
    figures.add("reader, CPU s per 100,000 rows", f"{cpu:.2f}", "<= 1.60")
    sender = statistics.median(each["sender_cpu_seconds"] for each in ours) * per_100k
    figures.add("walsender, CPU s per 100,000 rows", f"{sender:.2f}")
    memory = max(each["memory_mb"] for each in ours)
    figures.add("memory peak while streaming, MB", f"{memory:.0f}", "<= 120")
    figures.raw |= {"backlog": ours, "pg_recvlogical_rows_a_second": nowhere}
    figures.medians |= {"rows_a_second": rate, "cpu_s_per_100k": cpu, "memory_mb": memory}


def several(bed: Bed, rows: int, runs: int, figures: Figures) -> None:
    """Four servers (slots of one, each with its own walsender) in one process and in four."""
    one: list[float] = []
    four: list[float] = []
    for run in range(runs):
        for processes, rates in ((1, one), (4, four)):
            names = [f"s{run}_{processes}_{n}" for n in range(4)]
            for name in names:
                bed.copy_slot("late", name)
            servers = [bed.settings(name, name) for name in names]
            groups = [servers] if processes == 1 else [[server] for server in servers]
            rates.append(4 * rows / _side_by_side(groups, rows))
            for name in names:
                bed.drop_slot(name)
    figures.add("four servers in one process, rows/s", f"{statistics.median(one):,.0f}")
    figures.add(
        f"four servers in four processes, rows/s ({os.cpu_count()} cores)",
        f"{statistics.median(four):,.0f}",
    )
    figures.raw |= {"four_in_one": one, "four_in_four": four}


def _side_by_side(groups: list[list[dict[str, Any]]], rows: int) -> float:
    """Seconds until the last process is done; they begin together."""
    seconds: list[float] = []

    def run(group: list[dict[str, Any]]) -> None:
        with reading(group, rows * len(group)) as process:
            seconds.append(float(process.hear("done")["seconds"]))

    threads = [threading.Thread(target=run, args=(group,)) for group in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(seconds)


def delays(bed: Bed, seconds: int, rate: int, runs: int, figures: Figures) -> None:
    """From commit to readable, at a steady rate."""
    p50s, p99s, cpus, probes, senders, connections = [], [], [], [], [], 0
    for run in range(runs):
        name = f"steady{run}"
        bed.make_slot(name)
        with reading([bed.settings(name, name)], 2**60) as process:
            process.hear("streaming")
            backends = bed.backends()
            connections = sum(map(len, backends.values()))
            pids = [process.process.pid]
            used = cpu_seconds(pids)
            sql = cpu_seconds(backends["client backend"])
            sender = cpu_seconds(backends["walsender"])
            found = _measure(bed, f"{name}.events", seconds, rate)
            span = seconds + _WARM_SECONDS
            cpus.append((cpu_seconds(pids) - used) / span)
            probes.append((cpu_seconds(backends["client backend"]) - sql) / span)
            senders.append((cpu_seconds(backends["walsender"]) - sender) / span)
        bed.drop_slot(name)
        found.sort()
        p50s.append(found[len(found) // 2] * 1_000)
        p99s.append(found[len(found) * 99 // 100] * 1_000)
    at, cpu = f"at {rate:,} rows/s", statistics.median(cpus)
    p50, p99 = statistics.median(p50s), statistics.median(p99s)
    figures.add(f"commit to readable {at}, p50 ms", f"{p50:.1f}", "<= 10")
    figures.add(f"commit to readable {at}, p99 ms", f"{p99:.1f}", "<= 30")
    figures.add(f"reader's CPU {at}, share of a core", f"{cpu:.3f}")
    figures.add(f"walsender's CPU {at}, share of a core", f"{statistics.median(senders):.3f}")
    figures.add(
        "our probes' CPU on the server, share of a core", f"{statistics.median(probes):.4f}"
    )
    figures.add("connections to the server", str(connections), "<= 2")
    figures.raw |= {"p50_ms": p50s, "p99_ms": p99s, "steady_cpu": cpus}
    figures.medians |= {"p50_ms": p50, "p99_ms": p99, "cpu_share": cpu}


def _measure(bed: Bed, topic: str, seconds: int, rate: int) -> list[float]:
    """Delays of every row, by the server's commit time and this machine's clock: the same one."""
    # As a consumer comes: a fetch that waits at the broker is answered by the first record.
    consumer = Consumer(
        {
            "bootstrap.servers": bed.stack.broker.bootstrap_servers,
            "group.id": "bench",
            "enable.auto.commit": False,
            "fetch.min.bytes": 1,
        }
    )
    parts = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.assign([TopicPartition(topic, part, 0) for part in parts])
    # Heartbeats of all partitions show that it reads: its own start is nobody's delay.
    silent = set(parts)
    while silent and (beat := consumer.poll(10)) is not None:
        silent.discard(beat.partition())
    warm = _WARM_SECONDS * rate
    wanted = warm + seconds * rate
    writer = threading.Thread(target=_write, args=(bed.dsn, wanted, rate))
    writer.start()
    found: list[float] = []
    deadline = time.monotonic() + _WARM_SECONDS + seconds + 30
    while len(found) < wanted and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        now = time.time()
        told = orjson.loads(message.value() or b"{}") if message is not None else {}
        if told.get("commit_time"):
            found.append(now - datetime.fromisoformat(told["commit_time"]).timestamp())
    writer.join()
    consumer.close()
    if len(found) < wanted:
        raise RuntimeError(f"{wanted - len(found)} rows did not arrive")
    return found[warm:]


def _write(dsn: str, rows: int, rate: int) -> None:
    """Rows at a steady rate, in transactions of 1 to 5, as a backlog's are."""
    with psycopg.connect(dsn, autocommit=True) as conn:
        began, written, cursor = time.monotonic(), 0, conn.cursor()
        while written < rows:
            ahead = began + written / rate - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            count = min(1 + written % 5, rows - written)
            calls = range(written, written + count)
            cursor.executemany(ROW, [(f"call-{n // 4}@bench",) for n in calls])  # one transaction
            written += count


def broker_away(bed: Bed, rows: int, figures: Figures) -> None:
    """Memory with a backlog to read and nobody to take it."""
    bed.copy_slot("late", "away")
    with reading([bed.settings("away", "away")], rows) as process:
        process.hear("streaming")
        bed.stack.broker.pause()
        try:
            highest, steady = 0.0, 0
            while steady < 20:  # the bound is reached: it has not grown for a while
                time.sleep(0.25)
                now = process.memory_mb
                steady = steady + 1 if now - highest < 0.5 else 0
                highest = max(highest, now)
            full = highest
        finally:
            bed.stack.broker.resume()
        process.hear("done")
        highest = process.memory_mb
    bed.drop_slot("away")
    figures.add("memory peak, broker away, MB", f"{full:.0f}", "<= 120")
    figures.add("memory peak, broker away and back, MB", f"{highest:.0f}", "<= 120")


def peer(bed: Bed, options: argparse.Namespace, figures: Figures) -> None:
    """Debezium by its kit, and our figures as shares of its own."""
    parts = frozenset(options.only.split(",") if options.only else ("backlog", "delays"))
    found = measure_peer(
        bed, options.peer, options.rows, options.runs, options.seconds, options.rate, parts
    )
    for line in beside(figures.medians, found, options.rate):
        figures.add(*line)
    figures.raw["peer"] = found


def table(figures: Figures) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | measured | target |", "|---|---|---|"]
    lines += [f"| {name} | {value} | {target} |" for name, value, target in figures.rows]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Measures and prints; 0 whatever the figures are: a shared machine proves nothing alone."""
    parser = argparse.ArgumentParser(prog="ops.bench.reader", description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=15, help="of the steady rate")
    parser.add_argument("--rate", type=int, default=1_000)
    parser.add_argument("--only", default="", help="backlog, several, delays, away (commas)")
    parser.add_argument("--peer", type=Path, help="a kit that measures Debezium: ops/bench/peer.py")
    parser.add_argument("--json", type=Path, help="writes every run's figures here")
    options = parser.parse_args(arguments)
    figures = Figures()
    # Debezium waits for ever for a topic of its own that nobody makes.
    makes_topics = {"auto.create.topics.enable": "true"} if options.peer else {}
    broker = BrokerSpec(settings=makes_topics)
    with Stack([ServerSpec("a", settings=_SLOTS)], broker=broker) as stack:
        bed = Bed(stack)
        late = options.rows // 4
        bed.make_slot("begin")
        say(f"writing {options.rows:,} rows")
        bed.add_rows(options.rows - late)
        bed.make_slot("late")
        bed.add_rows(late)
        parts: dict[str, Callable[[], None]] = {
            "backlog": lambda: backlog(bed, options.rows, options.runs, figures),
            "delays": lambda: delays(bed, options.seconds, options.rate, options.runs, figures),
            "away": lambda: broker_away(bed, late, figures),
            "several": lambda: several(bed, late, options.runs, figures),
        }
        # The backlog's slots end where `delays` begins to write: it goes last but for the others.
        for name in ("backlog", "several", "away", "delays"):
            if not options.only or name in options.only.split(","):
                say(f"{name}: load of the machine {os.getloadavg()[0]:.1f}")
                parts[name]()
        if options.peer:
            say(f"peer: load of the machine {os.getloadavg()[0]:.1f}")
            peer(bed, options, figures)
    sys.stdout.write(table(figures) + "\n")
    if options.json:
        options.json.write_text(json.dumps(figures.raw, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
