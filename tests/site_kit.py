"""A whole installation with its dashboard, and rows put into it by hand.

Owns the processes and the ways to disturb them. Refuses to expect anything.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.parser import text_string_to_metric_families

from ops.stack import Stack
from tests.cli_kit import admins, cdrstream, service, until

PARTITIONS = 2
HOSTILE = {
    "script": '<script>alert("x")</script> <sip:1@x>',
    "image": '"><img src=x onerror=alert(1)> <sip:2@x>',
    "bidi": '"\u202eevil\u202c" <sip:3@x>',
    "long": '"' + "A" * 4_096 + '" <sip:4@x>',
    "formula": "=cmd|'/c calc'!A1 <sip:5@x>",
    "hidden": '"\u200b\u0007\x1b[31mred" <sip:6@x>',
}
_numbers = itertools.count(1)

Row = dict[str, Any]


def row(call_id: str, kind: str, ago: float = 0.0, **more: Any) -> Row:
    """A row of call_state_events that was written `ago` seconds ago."""
    return {
        "observer": "proxy.example.com:5060",
        "event_seq": next(_numbers),
        "ago": ago,
        "event_type": kind,
        "cseq": 1,
        "call_id": call_id,
        "from_tag": "f",
        "to_tag": "",
        "from_url": '"Alice" <sip:alice@example.com>',
        "to_url": "<sip:2000@example.com>",
        "contact": "<sip:alice@10.0.0.1>",
        "branch_id": "z9hG4bK1",
        "via_count": 1,
        **more,
    }


def whole_call(call_id: str, ago: float = 3.0, talked: float = 1.0, **more: Any) -> list[Row]:
    """Request, answer and end."""
    return [
        row(call_id, "R", ago + talked + 1, **more),
        row(call_id, "S", ago + talked, to_tag="t", **more),
        row(call_id, "E", ago, to_tag="t", **{**more, "cseq": 2}),
    ]


@dataclass(slots=True)
class Site:
    """What runs.

    Attributes:
        stack: Servers and broker.
        config: The configuration file.
        url: The dashboard, without a slash at the end.
        processes: Readers, worker and dashboard by name.
        ends: What is done at the end, such as stopping a process that a test started.
    """

    stack: Stack
    config: Path
    folder: Path
    url: str = ""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    ends: ExitStack = field(default_factory=ExitStack)

    def put(self, rows: Sequence[Row], server: str = "a") -> None:
        """Writes rows as a proxy on that server would, by its clock."""
        columns = [name for name in rows[0] if name != "ago"]
        names = ", ".join(columns)
        values = ", ".join(f"%({name})s" for name in columns)
        statement = (
            f"INSERT INTO call_state_events (event_time, {names}) VALUES"
            # one moment for all of them, however long they take
            f" ((now() AT TIME ZONE 'UTC') - make_interval(secs => %(ago)s), {values})"
        )
        with psycopg.connect(self.stack[server].dsn) as connection:
            for each in rows:
                connection.execute(statement, each)

    def change_cdr(self, call_id: str, what: str) -> None:
        """Writes something else into a CDR, behind everybody's back."""
        with psycopg.connect(self.stack.sink.dsn) as sink:
            done = sink.execute(f"UPDATE cdrs SET {what} WHERE call_id = %s", (call_id,))
            assert done.rowcount == 1

    def signal(self, name: str, number: signal.Signals) -> None:
        """Freezes, wakes or ends a process."""
        self.processes[name].send_signal(number)

    @contextmanager
    def frozen(self, name: str) -> Iterator[float]:
        """A process that does nothing in this block; gives when it stopped."""
        self.signal(name, signal.SIGSTOP)
        try:
            yield time.time()
        finally:
            self.signal(name, signal.SIGCONT)

    @contextmanager
    def without_sink(self) -> Iterator[None]:
        """The database of the CDRs, and server a with it, is down in this block."""
        self.stack.sink.stop("immediate")
        try:
            yield
        finally:
            self.stack.sink.start()

    def log(self, name: str) -> str:
        """What a process has written so far."""
        return (self.folder / f"{name}.log").read_text()

    def told_port(self, name: str, event: str) -> int:
        """The port that a process said it listens on."""
        found: list[int] = []

        def told() -> bool:
            for line in self.log(name).splitlines(keepends=True):
                if f'"{event}"' in line and line.endswith("\n"):  # else it is being written
                    record = json.loads(line)
                    found.append(
                        int(re.findall(r":(\d+)", record.get("url") or record["listen"])[-1])
                    )
            return bool(found)

        until(told)
        return found[-1]

    def picture(self) -> Mapping[str, Any]:
        """What the dashboard thinks of it all."""
        with urllib.request.urlopen(f"{self.url}/status.json", timeout=60) as answer:
            told: Mapping[str, Any] = json.load(answer)
        return told


def _config(stack: Stack, folder: Path) -> Path:
    lines = ["[kafka]", f"bootstrap_servers = {json.dumps(stack.broker.bootstrap_servers)}"]
    lines += [f"partitions = {PARTITIONS}"]
    for name in ("a", "b"):
        dsn = stack[name].dsn_for(user="cdr_reader")
        lines += ["[[servers]]", f'name = "{name}"', f"dsn = {json.dumps(dsn)}"]
    lines += ["[sink]", f"dsn = {json.dumps(stack.sink.dsn_for(user='cdr_writer'))}"]
    lines += ["[clock]", "probe_interval_seconds = 2"]
    lines += ["[resolution]", "allowed_lateness_seconds = 1", "idle_after_seconds = 60"]
    lines += ["failed_wait_seconds = 1", "max_ringing_seconds = 600"]
    lines += ["[reader]", 'metrics_listen = "127.0.0.1:0"']
    lines += ["[worker]", 'metrics_listen = "127.0.0.1:0"']
    lines += ["[dashboard]", 'listen = "127.0.0.1:0"', 'metrics_listen = "127.0.0.1:0"']
    path = folder / "cdrstream.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def site(folder: Path) -> Iterator[Site]:
    """Two servers (b's clock is 5.5 s behind), two readers, a worker and the dashboard."""
    with Stack(2, clocks={"b": "-5.5s"}) as stack, ExitStack() as ends:
        made = Site(stack, _config(stack, folder), folder, ends=ends)
        done = cdrstream("provision", *admins([stack["a"], stack["b"]]), config=made.config)
        assert done.returncode == 0, done.stderr
        for name, arguments in {
            "reader-a": ("reader", "--server", "a"),
            "reader-b": ("reader", "--server", "b"),
            "worker": ("worker",),
            "dashboard": ("dashboard",),
        }.items():
            made.processes[name] = ends.enter_context(
                service(*arguments, config=made.config, log=folder / f"{name}.log")
            )
        # A frozen process would not hear its SIGTERM.
        ends.callback(_wake, made)
        made.url = f"http://127.0.0.1:{made.told_port('dashboard', 'dashboard_served')}"
        _until_streaming(made)
        yield made


def _wake(made: Site) -> None:
    for process in made.processes.values():
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)


def _until_streaming(made: Site) -> None:
    def fine() -> bool:
        picture = made.picture()
        reading = all(server["state"] == "streaming" for server in picture["servers"])
        measured = all(server["offset"] is not None for server in picture["servers"])
        return reading and measured and picture["visible"]["through"] is not None

    until(fine)


def samples(port: int) -> dict[tuple[str, ...], float]:
    """What a process exposes: name and label values to value."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def told(condition: Callable[[], object], seconds: float) -> float:
    """Waits for a condition; how long that took."""
    began = time.monotonic()
    until(condition, seconds)
    return time.monotonic() - began
