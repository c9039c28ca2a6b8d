"""A worker process, real broker and database: events in, rows out, restarts, deaths, outages."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.streaming import Bed, bed, call_rows, shared_stack, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)


def ids(prefix: str, count: int) -> list[str]:
    return sorted(f"{prefix}-{n}@host" for n in range(count))


def put_calls(bed: Bed, prefix: str, count: int, at: float) -> list[str]:
    """Completed calls, one after another within ten seconds, and heartbeats behind them."""
    names = ids(prefix, count)
    for n, name in enumerate(names):
        bed.put_rows(call_rows(name, at + 10 * n / count))
    bed.beat(at + 60)
    bed.flush()
    return names


def test_calls_become_rows_and_progress_is_told(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned([0, 1, 2, 3])
    names = put_calls(bed, "call", 50, at=0)
    until(lambda: bed.cdr_ids() == names, "all CDRs")
    rows = bed.query(
        "SELECT termination, end_time - connect_time, caller_aor FROM cdrs WHERE call_id = %s",
        names[7],
    )
    assert [(row[0], row[1].total_seconds(), row[2]) for row in rows] == [
        ("C", 10.0, "<sip:a@example.com>")
    ]
    [(revision, events)] = bed.query(
        "SELECT revision, jsonb_array_length(events) FROM cdr_provenance WHERE call_id = %s",
        names[7],
    )
    assert (revision, events) == (3, 3)

    def revisions() -> list[tuple[str, Any]]:
        found = bed.read_topic(bed.settings.cdrs_topic, 4)
        return [(m.key().decode(), orjson.loads(m.value())) for m in found]

    # after the transaction that has just been seen, and after nothing but that
    stream = until(lambda: len(told := revisions()) >= 50 and told, "revisions on the topic")
    assert sorted(key for key, _ in stream) == names
    assert {(told["revision"], told["cdr"]["termination"]) for _, told in stream} == {(3, "C")}
    until(lambda: bed.committed() == bed.ends(), "group offsets at the end")
    status = until(lambda: bed.statuses().get("w1"), "a status")
    assert sorted(status["partitions"]) == ["0", "1", "2", "3"]
    assert status["partitions"]["0"]["holder"] == "a"
    until(lambda: bed.statuses()["w1"]["sink"]["inserted"] == 50, "figures in the status")
    assert worker.stop() == 0
    until(lambda: not bed.statuses(), "the status is taken back")


def test_nothing_listens(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    inodes: set[str] = set()
    for link in Path(f"/proc/{worker.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it is closed by now
            inodes.add(link.readlink().name)
    sockets = {name for name in inodes if name.startswith("socket:")}
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/{worker.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            listening = fields[3] == "0A" or table.startswith("udp")
            assert not (listening and f"socket:[{fields[9]}]" in sockets), line


def test_restart_resumes_at_the_committed_offset(bed: Bed) -> None:
    """Faust's own bookkeeping stops committing after the first restart; ours must go on."""
    for round_number in range(3):
        worker = bed.worker(f"w{round_number}")
        worker.wait_assigned()
        names = put_calls(bed, f"round{round_number}", 20, at=100 * round_number)
        until(lambda names=names: set(names) <= set(bed.cdr_ids()), "this round's CDRs")
        until(lambda: bed.committed() == bed.ends(), "group offsets at the end")
        name = f"w{round_number}"
        status = until(lambda name=name: bed.statuses().get(name), "its status")
        assert status["sink"]["stale"] == 0
        assert worker.stop() == 0
    assert len(bed.cdr_ids()) == 60
    # What each worker was fed is what was new to it: nothing was read again.
    counters = bed.query("SELECT sum((counters->>'events')::int) FROM sink_progress")
    assert counters == [(180,)]


@pytest.mark.parametrize(
    "bed",
    [{}, {"state_store": "rocksdb", "decoded_calls_max": 0}],
    ids=["memory", "rocksdb"],
    indirect=True,
)
def test_open_calls_survive_a_restart(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(bed.folder))  # what a killed worker leaves goes with the test
    first = bed.worker("w1")
    first.wait_assigned()
    rows = {name: call_rows(name, 0, seconds=500) for name in ids("long", 20)}
    for name in rows:
        bed.put_rows(rows[name][:2])
    bed.beat(30)
    bed.flush()
    until(lambda: bed.committed() == bed.ends(), "the begun calls are committed")
    first.kill()
    second = bed.worker("w2")
    second.wait_assigned()
    assert bed.cdr_ids() == []
    for name in rows:
        bed.put_rows(rows[name][2:])
    bed.beat(600)
    bed.flush()
    until(lambda: bed.cdr_ids() == sorted(rows), "the ended calls")
    assert bed.query(
        "SELECT DISTINCT termination, end_time - connect_time > '499 s' FROM cdrs"
    ) == [("C", True)]
    assert second.stop() == 0
    assert not list(bed.folder.glob("cdrstream-calls-*"))  # nor the killed one's


def test_sigkill_amid_traffic_loses_and_doubles_nothing(bed: Bed) -> None:
    first = bed.worker("w1")
    first.wait_assigned([0, 1, 2, 3])
    expected: list[str] = []
    second = None
    for step in range(40):
        names = [f"s{step:02}-{n}@host" for n in range(10)]
        expected += names
        for name in names:
            bed.put_rows(call_rows(name, step, seconds=1))
        bed.beat(step)
        bed.flush()
        if step == 10:
            until(bed.cdr_ids, "first CDRs")
            second = bed.worker("w2")
        if step == 20:
            assert second is not None
            second.wait_assigned()
            until(
                lambda: bed.statuses().get("w2", {}).get("partitions"), "the second has partitions"
            )
            first.kill()
            killed_at = time.monotonic()
    bed.beat(100)
    bed.flush()
    assert second is not None
    until(lambda: second.logged("partitions_assigned partitions=[0, 1, 2, 3]"), "taken over")
    took_over = time.monotonic() - killed_at
    until(lambda: len(bed.cdr_ids()) >= len(expected), "all CDRs")
    assert bed.cdr_ids() == sorted(expected)
    assert took_over < 45  # of which six are the broker's, to believe it
    print(f"taken over {took_over:.1f} s after SIGKILL")
    assert second.stop() == 0


def test_frozen_worker_that_wakes_does_no_harm(bed: Bed) -> None:
    first = bed.worker("w1")
    first.wait_assigned([0, 1, 2, 3])
    names = put_calls(bed, "before", 20, at=0)
    until(lambda: bed.cdr_ids() == names, "CDRs before the freeze")
    first.signal(signal.SIGSTOP)
    second = bed.worker("w2")
    second.wait_assigned([0, 1, 2, 3])
    names += put_calls(bed, "frozen", 20, at=100)
    until(lambda: bed.cdr_ids() == sorted(names), "CDRs while the first is frozen")
    first.signal(signal.SIGCONT)
    until(lambda: "w1" in bed.statuses() and bed.statuses()["w1"]["partitions"], "it joins again")
    names += put_calls(bed, "after", 20, at=200)
    until(lambda: bed.cdr_ids() == sorted(names), "CDRs of both")
    assert bed.query("SELECT count(*) FROM cdr_provenance WHERE revision <> 3") == [(0,)]
    assert first.stop() == 0
    assert second.stop() == 0


def test_sink_away_and_back(bed: Bed) -> None:
    server = shared_stack().sink
    worker = bed.worker()
    worker.wait_assigned()
    names = put_calls(bed, "before", 20, at=0)
    until(lambda: bed.cdr_ids() == names, "CDRs before")
    server.stop("fast")
    try:
        names += put_calls(bed, "away", 200, at=100)
        status = until(
            lambda: (s := bed.statuses().get("w1")) and s["sink"]["failing_since"] and s,
            "the status says so",
        )
        assert "PostgreSQL" in status["sink"]["advice"]
        assert len(status["partitions"]) == 4, "it keeps its partitions"
        assert worker.alive
    finally:
        server.start()
    until(lambda: bed.cdr_ids() == sorted(names), "CDRs after")
    until(lambda: bed.statuses()["w1"]["sink"]["failing_since"] is None, "the status is fine again")
    assert worker.stop() == 0


def test_sink_away_at_the_start(bed: Bed) -> None:
    server = shared_stack().sink
    server.stop("fast")
    try:
        worker = bed.worker()
        until(lambda: worker.logged("commit_failed"), "it says that the sink is away")
        put_calls(bed, "early", 20, at=0)
    finally:
        server.start()
    until(lambda: bed.cdr_ids() == ids("early", 20), "CDRs after")
    assert worker.stop() == 0


def test_broker_killed_and_started_again(bed: Bed) -> None:
    broker = shared_stack().broker
    worker = bed.worker()
    worker.wait_assigned()
    names = put_calls(bed, "before", 20, at=0)
    until(lambda: bed.cdr_ids() == names, "CDRs before")
    broker.kill()
    broker.start()
    names += put_calls(bed, "after", 20, at=100)
    until(lambda: bed.cdr_ids() == sorted(names), "CDRs after")
    assert worker.alive
    assert worker.stop() == 0


def test_leg_of_a_chain_is_hidden_though_the_named_call_is_elsewhere(bed: Bed) -> None:
    """Question and answer travel between partitions, and survive that the asker's worker dies."""
    first = bed.worker("w1")
    first.wait_assigned()
    legs = ids("leg", 12)
    for n, leg in enumerate(legs):
        rows = call_rows(leg, 0, seconds=5)
        rows[0]["reference"] = f"named-{n}@host;rel=chain"
        bed.put_rows(rows)
    put_calls(bed, "plain", 5, at=0)
    until(lambda: bed.cdr_ids() == sorted([*legs, *ids("plain", 5)]), "CDRs of unknown chains")
    first.kill()
    second = bed.worker("w2")
    for n in range(12):
        bed.put_rows(call_rows(f"named-{n}@host", 30, seconds=5))
    bed.flush()
    second.wait_assigned()
    # The answers come after the named calls' records were read: time must go on behind them.
    step = iter(range(100, 10_000, 10))

    def hidden() -> bool:
        bed.beat(next(step))
        bed.flush()
        return not set(legs) & set(bed.cdr_ids())

    until(hidden, "the legs are hidden")
    assert len(bed.cdr_ids()) == 17
    assert bed.query("SELECT count(*) FROM cdr_provenance WHERE hidden_reason IS NOT NULL") == [
        (12,)
    ]
    newest: dict[str, dict[str, Any]] = {}

    def told_so() -> bool:
        for message in bed.read_topic(bed.settings.cdrs_topic, 4):
            told = orjson.loads(message.value())
            if told["revision"] >= newest.get(told["call_id"], told)["revision"]:
                newest[told["call_id"]] = told
        return all(newest[leg]["cdr"] is None for leg in legs)

    # after the transaction that has just been seen
    until(told_so, "the topic says so too")
    for leg in legs:
        assert newest[leg]["hidden"] == "leg of a chain"
        assert newest[leg]["changed"]["termination"] == ["C", None]
    assert second.stop() == 0


def test_bad_records_become_dead_letters(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    bed.put("event", "x", b"this is not JSON \xff")
    bed.put("event", "y", {"v": 1, "server": "a", "row": {"call_id": "y"}})
    bed.put("nonsense", "z", {"v": 1, "server": "a"})
    # A Call-ID that no index can hold is refused by PostgreSQL alone, the rest is written.
    monster = "m" + "".join(chr(0x100 + n * 7 % 5_000) for n in range(6_000))
    bed.put_rows(call_rows(monster, 1))
    names = put_calls(bed, "good", 10, at=0)
    until(lambda: bed.cdr_ids() == names, "the good calls")
    letters = until(
        lambda: len(found := bed.read_topic(bed.settings.dead_letter_topic)) >= 4 and found,
        "four dead letters",
    )
    reasons = sorted(dict(letter.headers())["reason"].decode() for letter in letters)
    assert len(reasons) == 4
    assert any("index row" in reason for reason in reasons)
    assert b"this is not JSON \xff" in {letter.value() for letter in letters}
    assert worker.stop() == 0


def test_wrong_partition_count_is_bad_configuration(bed: Bed) -> None:
    code = (
        "import sys; from stream_app.settings import WorkerSettings as S;"
        "from stream_app.worker import run_worker;"
        f"sys.exit(run_worker(S(bootstrap_servers={bed.settings.bootstrap_servers!r},"
        f"sink_dsn='x', events_topic={bed.settings.events_topic!r},"
        f"references_topic={bed.settings.references_topic!r}, group_id={bed.settings.group_id!r},"
        "partitions=5)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2
