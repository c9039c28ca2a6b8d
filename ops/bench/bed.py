"""What the reader's benchmark lies on: a server with a backlog, slots at its beginning, a broker.

Owns rows, slots, processes and their CPU. Refuses to judge figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cdc.provision import provision
from cdc.settings import ReaderSettings
from ops.stack import Stack
from ops.stack.binaries import system_binaries
from stream_app.migrations import create_event_schema

PUBLICATION: Final = "cdrstream"
# About 510 bytes on the wire, as a proxy's rows are; transactions of 1 to 5 rows.
_BACKLOG: Final = """
do $$
declare done int := 0; n int; wanted int := {rows};
begin
  while done < wanted loop
    n := least(1 + done % 5, wanted - done);
    insert into call_state_events (observer, event_seq, event_time, event_type, cseq, call_id,
      from_tag, to_tag, from_url, to_url, contact, refer_to, referred_by, failure_status,
      failure_reason, request_uri, reference, caller_internal, callee_route, branch_id, via_count)
    select 'proxy1.example.com:5060', done + i, clock_timestamp() at time zone 'utc', 'R', 1,
      md5((done / 4)::text) || '@10.21.0.17', 'f' || md5(done::text), '',
      '"Conference Room 12" <sip:2012@pbx.example.com>;tag=f' || md5(done::text),
      '<sip:93175550199@pbx.example.com;user=phone>', '<sip:2012@10.21.0.17:5060;transport=udp>',
      '', '', 0, '', '', '', true, 'pbx.example.com;route=local',
      'z9hG4bK-sipXecs-' || md5((done + i)::text), 2
    from generate_series(1, n) as i;
    commit;
    done := done + n;
  end loop;
end $$
"""
ROW: Final = (
    "insert into call_state_events (observer, event_seq, event_time, event_type, cseq, call_id,"
    " from_tag, to_tag, from_url, to_url, contact, branch_id, via_count)"
    " values ('proxy1.example.com:5060', 1, clock_timestamp() at time zone 'utc', 'R', 1, %s, 'f',"
    " '', '\"Conference Room 12\" <sip:2012@pbx.example.com>;tag=f',"
    " '<sip:93175550199@pbx.example.com;user=phone>', '<sip:2012@10.21.0.17:5060>',"
    " 'z9hG4bK-sipXecs-0001', 2)"
)


class Bed:
    """One server and a broker."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.server = stack["a"]
        self.dsn = self.server.dsn
        with self.server.connect() as conn:
            create_event_schema(conn)
        settings = ReaderSettings(server="bench", dsn=self.dsn, kafka={}, publication=PUBLICATION)
        provision(self.dsn, settings)

    def add_rows(self, rows: int) -> None:
        """A backlog, as fast as the server takes it."""
        with self.server.connect() as conn:
            conn.execute("set synchronous_commit = off")
            conn.execute(_BACKLOG.format(rows=rows).encode())

    def make_slot(self, slot: str) -> None:
        """A slot at the end of the log."""
        with self.server.connect() as conn:
            conn.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))

    def copy_slot(self, source: str, slot: str) -> None:
        """Another slot where `source` stands."""
        with self.server.connect() as conn:
            conn.execute("select pg_copy_logical_replication_slot(%s, %s)", (source, slot))

    def drop_slot(self, slot: str) -> None:
        """Drops a slot that nobody reads any more."""
        with self.server.connect() as conn:
            conn.execute(
                "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
                " where slot_name = %s and active",
                (slot,),
            )
            conn.execute("select pg_drop_replication_slot(%s)", (slot,))

    def log_end(self) -> str:
        """The log's flushed end."""
        with self.server.connect() as conn:
            row = conn.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        return str(row[0])

    def backends(self) -> dict[str, list[int]]:
        """Process ids of the reader's connections, by kind."""
        with self.server.connect() as conn:
            rows = conn.execute(
                "select backend_type, array_agg(pid) from pg_stat_activity"
                " where application_name = 'cdrstream' group by 1"
            ).fetchall()
        return {kind: list(pids) for kind, pids in rows}

    def settings(self, server: str, slot: str) -> dict[str, Any]:
        """What `ops.bench.reading` is told of one server."""
        return {
            "server": server,
            "slot": slot,
            "dsn": self.dsn,
            "bootstrap_servers": self.stack.broker.bootstrap_servers,
        }


class Reading:
    """A running `ops.bench.reading`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def hear(self, what: str) -> dict[str, Any]:
        """Waits for it to say that.

        Raises:
            RuntimeError: It ended instead.
        """
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told: dict[str, Any] = json.loads(line)
            if told["what"] == what:
                return told
        raise RuntimeError(f"the reader ended before it said {what!r}")

    def end(self) -> dict[str, Any]:
        """Lets it end in order; what it used over its whole life."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.hear("ended")

    @property
    def memory_mb(self) -> float:
        """Its largest resident set so far."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
        return 0.0


@contextmanager
def reading(servers: list[dict[str, Any]], rows: int) -> Iterator[Reading]:
    """Starts a reader process and sees to its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ops.bench.reading", json.dumps(servers), str(rows)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Reading(process)
    finally:
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def cpu_seconds(pids: list[int]) -> float:
    """What these processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def receive_to_nowhere(bed: Bed, slot: str, end: str) -> float | None:
    """Seconds that `pg_recvlogical` takes up to `end`; None where it is not installed."""
    program = _program_of(bed.server.major, "pg_recvlogical")
    if program is None:
        return None
    began = time.monotonic()
    subprocess.run(
        [str(program), "-d", bed.dsn, "--slot", slot, "--start", "-f", "/dev/null", "--no-loop",
         "-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}", "--endpos", end],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return time.monotonic() - began


def _program_of(major: str, name: str) -> Path | None:
    """A program of that PostgreSQL version beside its server, or where Debian has it."""
    folders = [Path("/usr/lib/postgresql") / major / "bin"]
    for binaries in system_binaries():
        if binaries.major == major:
            folders += [binaries.folder, Path(binaries.program("postgres")).resolve().parent]
    for folder in folders:
        if (folder / name).exists():
            return folder / name
    return None
