"""`cdrstream replay` as a user runs it: killed and resumed, asked wrongly, from exports."""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli_kit import cdrstream, environment
from tests.replay_kit import config_of
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)

SPAN = ("--from", "2024-03-04T09:00:00Z", "--to", "2024-03-04T10:00:00Z")


@pytest.fixture
def config(bed: Bed, tmp_path: Path) -> Path:
    return config_of(bed, tmp_path / "replay.toml")


def live_calls(bed: Bed, count: int) -> list[str]:
    """Calls that a worker has written, and one leg of a chain that names a later one."""
    worker = bed.worker()
    worker.wait_assigned()
    names = [f"call-{n:05}@host" for n in range(count)]
    for n, name in enumerate(names):
        rows = call_rows(name, n / 100)
        if n % 50 == 0:
            rows[0]["reference"] = f"call-{(n + 7) % count:05}@host;rel=chain"
        bed.put_rows(rows)
        if n % 200 == 0:
            bed.beat(n / 100)
    step = itertools.count(count / 100 + 60, 10)
    expected = [name for n, name in enumerate(names) if n % 50]

    def all_told() -> bool:
        # Answers between calls come after the calls' own records: time must go on behind them.
        bed.beat(next(step))
        bed.flush()
        return bed.cdr_ids() == expected

    until(all_told, "all CDRs, the legs of chains hidden")
    assert worker.stop() == 0
    return names


def test_killed_at_any_point_it_is_resumed(bed: Bed, config: Path) -> None:
    live_calls(bed, 2_500)
    whole = cdrstream("replay", *SPAN, "--json", config=config)
    assert whole.returncode == 0, whole.stderr
    expected = json.loads(whole.stdout)["result"]
    assert expected["summary"]["changed"] == 0
    choice = random.Random(5)
    for workers, number in ((1, signal.SIGKILL), (2, signal.SIGKILL), (1, signal.SIGTERM)):
        slowly = ["--set", "replay.records_per_second_max=500", "--workers", str(workers)]
        command = [sys.executable, "-m", "ops.cli", "replay", *SPAN, *slowly]
        replay_id = _ended(bed, [*command, "--config", str(config)], number, choice.uniform(0, 1.5))
        done = cdrstream(
            "replay", "--resume", str(replay_id), "--json", "--set",
            "replay.records_per_second_max=0", "--workers", str(3 - workers), config=config,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert told["result"]["digests"] == expected["digests"]
        assert told["result"]["records"] == expected["records"]
        again = cdrstream("replay", "--resume", str(replay_id), config=config)
        assert again.returncode == 2
        assert "nothing to resume" in again.stderr


def _ended(bed: Bed, command: list[str], number: int, after_seconds: float) -> int:
    """Begins a replay and ends it by a signal once there is a point to go on from; its id."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment()) as begun:
        assert begun.stderr is not None
        replay_id = int(begun.stderr.readline().split()[1].rstrip(b":"))
        until(
            lambda: bed.query(
                "SELECT count(*) FROM cdr_replay_parts WHERE replay_id = %s", replay_id
            )[0][0],
            "a point to go on from",
        )
        time.sleep(after_seconds)  # the point of the kill, long before the end of its 15 s and more
        begun.send_signal(number)
        begun.stderr.read()
        assert begun.wait(120) == (130 if number == signal.SIGTERM else -number)
        return replay_id


def test_an_export_has_the_same_digests_as_the_topic(
    bed: Bed, config: Path, tmp_path: Path
) -> None:
    live_calls(bed, 1_000)
    bed.put("event", "x", b"this is not JSON \xff")
    bed.put("nonsense", "z", {"v": 1, "server": "a"})
    bed.flush()
    folder = tmp_path / "export"
    done = cdrstream("export-events", *SPAN, "--out", str(folder), config=config)
    assert done.returncode == 0, done.stderr
    topic = cdrstream("replay", "verify", *SPAN, "--json", config=config)
    assert topic.returncode == 0, topic.stderr
    files = cdrstream("replay", "verify", *SPAN, "--source", str(folder), "--json", config=config)
    assert files.returncode == 0, files.stderr
    assert json.loads(files.stdout) == json.loads(topic.stdout)
    assert json.loads(files.stdout)["equal"] is True
    shadow = cdrstream("replay", *SPAN, "--source", str(folder), "--json", config=config)
    told = json.loads(shadow.stdout)["result"]
    assert told["summary"]["changed"] == 0
    assert told["digests"]["inputs"] == json.loads(topic.stdout)["inputs"]
    assert told["dead_letters"] == 2

    part = cdrstream(
        "replay", "--from", "2024-03-04T08:00:00Z", "--to", "2024-03-04T09:00:00Z",
        "--source", str(folder), config=config,
    )  # fmt: skip
    assert (part.returncode, "not all of" in part.stderr) == (2, True)
    again = cdrstream("export-events", *SPAN, "--out", str(folder), config=config)
    assert (again.returncode, "not empty" in again.stderr) == (2, True)
    damaged = next(folder.glob("events-*.gz"))
    whole = damaged.read_bytes()
    middle = len(whole) // 2
    damaged.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    bent = cdrstream("replay", "verify", *SPAN, "--source", str(folder), config=config)
    assert (bent.returncode, f"{damaged} is damaged" in bent.stderr) == (1, True)
    damaged.unlink()
    gone = cdrstream("replay", "verify", *SPAN, "--source", str(folder), config=config)
    assert (gone.returncode, "is missing" in gone.stderr) == (1, True)
    (folder / "manifest.json").write_text("{}")
    empty = cdrstream("replay", "verify", *SPAN, "--source", str(folder), config=config)
    assert (empty.returncode, "damaged" in empty.stderr) == (2, True)


def test_from_the_dry_run_to_the_undo(bed: Bed, config: Path, tmp_path: Path) -> None:
    names = live_calls(bed, 100)
    changed = cdrstream("replay", "list", config=config)
    assert changed.stdout == "no replays yet\n"
    bed_query = (
        "UPDATE cdrs SET end_time = end_time + interval '90 s' WHERE call_id = %s RETURNING 1"
    )
    assert bed.query(bed_query, names[3]) == [(1,)]
    diff = tmp_path / "diff.jsonl"
    dry = cdrstream("replay", *SPAN, "--diff", str(diff), "--exit-code", config=config)
    assert dry.returncode == 1, dry.stderr
    assert "billed: 100 s -> 10 s" in dry.stdout
    assert "cdrstream replay apply 1" in dry.stdout
    [line] = diff.read_text().splitlines()
    assert json.loads(line)["columns"] == ["end_time"]
    shown = cdrstream("replay", "show", "1", "--call", names[3], config=config)
    assert shown.returncode == 0, shown.stderr
    assert "=== as it is" in shown.stdout
    assert "Events in resolved order" in shown.stdout.partition("=== as the replay has it")[2]
    unsure = cdrstream("replay", "apply", "1", config=config)
    assert (unsure.returncode, "--yes" in unsure.stderr) == (2, True)
    applied = cdrstream("replay", "apply", "1", "--yes", config=config)
    assert applied.returncode == 0, applied.stderr
    assert "1 calls replaced, 0 left" in applied.stdout
    twice = cdrstream("replay", "apply", "1", "--yes", config=config)
    assert (twice.returncode, "replay 1 is applied" in twice.stderr) == (1, True)
    assert cdrstream("replay", "verify", *SPAN, config=config).returncode == 0
    why = cdrstream("explain", names[3], "--json", config=config)
    assert json.loads(why.stdout)["provenance"]["replay_id"] == 1
    undone = cdrstream("replay", "undo", "1", "--yes", config=config)
    assert "1 calls put back" in undone.stdout
    differs = cdrstream("replay", "verify", *SPAN, config=config)
    assert (differs.returncode, "NOT the same" in differs.stdout) == (1, True)
    only = tmp_path / "calls.txt"
    only.write_text(f"{names[3]}\n{names[4]}\n{names[7]}\n")
    some = cdrstream("replay", *SPAN, "--calls", str(only), "--json", config=config)
    summary = json.loads(some.stdout)["result"]["summary"]
    assert (summary["unchanged"], summary["changed"]) == (2, 1)
    listed = json.loads(cdrstream("replay", "list", "--json", config=config).stdout)
    assert [replay["state"] for replay in listed] == ["done", "undone"]
    assert cdrstream("replay", "drop", "1", config=config).returncode == 0
    assert bed.query("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'replay_1_%%'") == [(0,)]
    other = cdrstream("replay", *SPAN, "--server", "a", "--json", config=config)
    assert json.loads(other.stdout)["result"]["summary"]["changed"] == 1


WRONG = [
    (("--from", "2024-03-04T09:00:00Z"), "--from and --to are needed"),
    (("--from", "nonsense", "--to", "2024-03-04T09:00:00Z"), "not a time"),
    (("--from", "2024-03-05", "--to", "2024-03-04"), "not before"),
    (("--from", "2024-03-05", "--to", "2999-03-04"), "in the future"),
    ((*SPAN, "--server", "z"), "no such server"),
    ((*SPAN, "--calls", "/nowhere"), "no such file"),
    ((*SPAN, "--source", "/nowhere"), "no export"),
    ((*SPAN, "--workers", "0"), "--workers 0"),
    (("--resume", "77"), "no replay 77"),
    ((*SPAN, "--set", "resolution.max_ring_seconds=1"), "max_ring"),
    (("show", "9"), "no replay 9"),
    (("apply", "9"), "no replay 9"),
]


def test_wrong_input_is_bad_usage(bed: Bed, config: Path) -> None:
    for arguments, said in WRONG:
        done = cdrstream("replay", *arguments, config=config)
        assert done.returncode == 2, done.stdout + done.stderr
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    assert bed.query("SELECT count(*) FROM cdr_replays") == [(0,)]


def test_several_at_once_do_not_meet(bed: Bed, config: Path) -> None:
    live_calls(bed, 500)
    command = [sys.executable, "-m", "ops.cli", "replay", *SPAN, "--json", "--config", str(config)]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) for _ in range(3)
    ]
    told = [json.loads(process.communicate(timeout=400)[0]) for process in running]
    assert sorted(each["id"] for each in told) == [1, 2, 3]
    assert len({json.dumps(each["result"]["digests"]) for each in told}) == 1
    assert {each["result"]["summary"]["changed"] for each in told} == {0}
