"""A replay that is applied or taken back, for who listens to revisions instead of asking `cdrs`."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from ops.replay.comparing import record
from stream_app.cdr_stream import REVISIONS_A_SWAP
from tests.cli_kit import cdrstream, environment
from tests.replay_kit import config_of
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(240)

SPAN = ("--from", "2024-03-04T09:00:00Z", "--to", "2024-03-04T10:00:00Z")
CALLS = 40


@pytest.fixture
def config(bed: Bed, tmp_path: Path) -> Path:
    return config_of(bed, tmp_path / "replay.toml")


def listened(bed: Bed) -> dict[str, Any]:
    """What a listener holds that keeps the newest revision of each call.

    Of those with one number some keep the first, some the last: it must not matter.
    """
    first: dict[str, Any] = {}
    last: dict[str, Any] = {}
    for message in bed.read_topic(bed.settings.cdrs_topic, bed.settings.partitions):
        told = orjson.loads(message.value())
        name, number = told["call_id"], told["revision"]
        if name not in first or number > first[name]["revision"]:
            first[name] = told
        if name not in last or number >= last[name]["revision"]:
            last[name] = told
    assert {n: told["cdr"] for n, told in first.items()} == {
        n: told["cdr"] for n, told in last.items()
    }
    return first


def said(bed: Bed) -> dict[str, Any]:
    return {name: told["cdr"] for name, told in listened(bed).items() if told["cdr"] is not None}


def asked(bed: Bed) -> dict[str, Any]:
    return {row[0]: record(row[1]) for row in bed.query("SELECT call_id, to_jsonb(c) FROM cdrs c")}


def live(bed: Bed, names: list[str], at: float = 0) -> None:
    for n, name in enumerate(names):
        bed.put_rows(call_rows(name, at + n / 10))
    bed.beat(at + 600)
    bed.flush()
    until(lambda: set(names) <= set(bed.cdr_ids()), "all CDRs")
    until(lambda: said(bed) == asked(bed), "the listener has heard of them")


def until_revision(bed: Bed, name: str, number: int) -> None:
    until(lambda: listened(bed)[name]["revision"] % REVISIONS_A_SWAP == number, "a revision")


def damaged(bed: Bed) -> list[str]:
    """Calls that a worker has told, and a table that somebody has spoilt; the listener with it."""
    worker = bed.worker()
    worker.wait_assigned()
    hold = call_rows("hold@host", 0)
    for row in hold:
        row["to_url"] = "<sip:~~mh~1@example.com>"
    bed.put_rows(hold)
    names = [f"call-{n:04}@host" for n in range(CALLS)]
    live(bed, names)
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute(
            "UPDATE cdrs SET end_time = end_time + interval '90 s' WHERE call_id < 'call-0030'"
        )
        connection.execute("DELETE FROM cdrs WHERE call_id = %s", (names[31],))
        connection.execute("DELETE FROM cdrs WHERE call_id = %s", (names[32],))
        connection.execute("DELETE FROM cdr_provenance WHERE call_id = %s", (names[32],))
        connection.execute(
            "INSERT INTO cdrs (call_id, from_tag, to_tag, caller_aor, callee_aor, start_time,"
            " termination) SELECT 'hold@host', from_tag, to_tag, caller_aor, callee_aor,"
            " start_time, 'U' FROM cdrs WHERE call_id = %s",
            (names[0],),
        )
    assert worker.stop() == 0
    return names


def dry_run(config: Path) -> None:
    done = cdrstream("replay", *SPAN, config=config)
    assert done.returncode == 0, done.stderr


def test_who_listens_ends_with_what_the_table_holds(bed: Bed, config: Path) -> None:
    names = damaged(bed)
    broken = asked(bed)
    dry_run(config)
    for _ in range(2):
        applied = cdrstream("replay", "apply", "1", "--yes", config=config)
        assert applied.returncode == 0, applied.stderr
        assert f"33 revisions told on {bed.settings.cdrs_topic}" in applied.stdout
        assert said(bed) == asked(bed) != broken
        hold = listened(bed)["hold@host"]
        assert (hold["cdr"], "music on hold" in hold["hidden"]) == (None, True)
        assert list(listened(bed)[names[3]]["changed"]) == ["end_time"]
        before, after = listened(bed)[names[3]]["changed"]["end_time"]
        undone = cdrstream("replay", "undo", "1", "--yes", config=config)
        assert undone.returncode == 0, undone.stderr
        assert said(bed) == asked(bed) == broken
        heard = listened(bed)
        assert heard[names[3]]["changed"] == {"end_time": [after, before]}
        assert heard[names[3]]["revision"] % REVISIONS_A_SWAP == 3
        assert "no record of it before" in heard[names[32]]["hidden"]
        assert set(heard[names[3]]) == set(heard[names[35]]), "one shape, whoever tells"
        assert list(heard[names[3]]["cdr"]) == list(heard[names[35]]["cdr"])


def test_what_workers_tell_later_goes_on_from_it(bed: Bed, config: Path) -> None:
    """Late events and a batch that is read twice, behind an apply and behind an undo."""
    names = damaged(bed)
    dry_run(config)
    assert cdrstream("replay", "apply", "1", "--yes", config=config).returncode == 0
    worker = bed.worker("w2")
    worker.wait_assigned()
    for step, chosen in (("apply", names[3]), ("undo", names[4])):
        again = call_rows(chosen, 3)
        late = {**again[2], "id": again[2]["id"] + 1, "event_time": "2024-03-04 09:00:05.000000"}
        bed.put_rows(again)  # what a worker knows already; a new one tells it again
        bed.put_rows([late])
        live(bed, [f"{step}@host"], 1_000 if step == "apply" else 2_000)
        until_revision(bed, chosen, 4)
        assert said(bed) == asked(bed)
        if step == "apply":
            assert cdrstream("replay", "undo", "1", "--yes", config=config).returncode == 0
            assert said(bed) == asked(bed)
    assert worker.stop() == 0


def test_a_worker_that_reads_again_does_not_tell_what_was_replaced(bed: Bed, config: Path) -> None:
    names = damaged(bed)
    dry_run(config)
    with psycopg.connect(bed.settings.sink_dsn) as connection:  # as if the rules had been mended
        connection.execute(
            "UPDATE replay_1_cdrs SET callee_aor = 'mended' WHERE call_id = %s", (names[3],)
        )
    assert cdrstream("replay", "apply", "1", "--yes", config=config).returncode == 0
    assert said(bed)[names[3]]["callee_aor"] == "mended"
    anew = f"{bed.settings.group_id}-anew"  # no changelog, no offsets: it reads everything again
    bed.settings = dataclasses.replace(bed.settings, group_id=anew)
    worker = bed.worker("w3")
    worker.wait_assigned()
    live(bed, ["later@host"], 3_000)
    assert said(bed) == asked(bed)
    assert worker.stop() == 0


POINTS = {
    "before the swap is durable": ("registry", "begin_swap", 1),
    "before anything is told": ("telling", "_held_now", 1),
    "when some are told": ("telling", "Outbox.send", 3),
    "when all are told": ("registry", "note_told", 1),
}

KILLED = """
import os, signal, sys
from ops.replay import registry, telling
telling.CALLS_AT_ONCE = 5
holder, name, left = {holder}, {name!r}, {left}
real = getattr(holder, name)
def counted(*args, **named):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **named)
setattr(holder, name, counted)
from ops.cli import main
sys.argv = ["cdrstream", *sys.argv[1:]]
main()
"""


def killed(config: Path, point: str, *arguments: str) -> None:
    module, name, left = POINTS[point]
    *inner, last = name.split(".")
    code = KILLED.format(holder=".".join([module, *inner]), name=last, left=left)
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--config", str(config)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_at_any_point_it_is_told_in_the_end(bed: Bed, config: Path) -> None:
    damaged(bed)
    broken = asked(bed)
    dry_run(config)
    for point in POINTS:
        is_swapped = "durable" not in point
        for command in ("apply", "undo"):
            before = asked(bed)
            killed(config, point, "replay", command, "1", "--yes")
            assert (asked(bed) != before) is is_swapped
            marks = bed.query("SELECT swap IS NOT NULL AND told_at IS NULL FROM cdr_replays")
            assert marks == [(is_swapped,)]
            if is_swapped and command == "apply":
                told = cdrstream("replay", "--resume", "1", config=config)
            else:
                told = cdrstream("replay", command, "1", "--yes", config=config)
            assert (told.returncode, "33 revisions told" in told.stdout) == (0, True), told.stderr
            assert said(bed) == asked(bed)
    again = cdrstream("replay", "--resume", "1", config=config)
    assert (again.returncode, "nothing to resume" in again.stderr) == (2, True)
    assert asked(bed) == broken


def test_an_undo_behind_a_killed_apply_tells_both(bed: Bed, config: Path) -> None:
    damaged(bed)
    broken = asked(bed)
    dry_run(config)
    killed(config, "when some are told", "replay", "apply", "1", "--yes")
    assert "not told" in cdrstream("replay", "list", config=config).stdout
    doubt = cdrstream("doctor", config=config)
    assert "cdrstream replay --resume 1" in doubt.stdout
    undone = cdrstream("replay", "undo", "1", "--yes", config=config)
    assert undone.returncode == 0, undone.stderr
    assert said(bed) == asked(bed) == broken
    assert "not told" not in cdrstream("replay", "list", config=config).stdout
    # Who tells nobody of his undo does not make those know who were half told before.
    killed(config, "when some are told", "replay", "apply", "1", "--yes")
    alone = ["--set", "worker.cdr_stream=false"]
    assert cdrstream("replay", "undo", "1", "--yes", *alone, config=config).returncode == 0
    assert "not told" in cdrstream("replay", "list", config=config).stdout
    assert cdrstream("replay", "--resume", "1", config=config).returncode == 0
    assert said(bed) == asked(bed) == broken


def test_without_kafka_nothing_is_swapped(bed: Bed, config: Path, tmp_path: Path) -> None:
    damaged(bed)
    broken = asked(bed)
    dry_run(config)
    away = tmp_path / "away.toml"
    text = config.read_text("utf-8").replace(bed.settings.bootstrap_servers, "127.0.0.1:1")
    away.write_text(text, "utf-8")
    refused = cdrstream("replay", "apply", "1", "--yes", config=away)
    assert (refused.returncode, "Kafka at 127.0.0.1:1" in refused.stderr) == (1, True)
    assert asked(bed) == broken
    # Whoever does without the stream needs no Kafka; what he swaps is told to nobody.
    alone = ["--set", "worker.cdr_stream=false"]
    for command in ("apply", "undo"):
        done = cdrstream("replay", command, "1", "--yes", *alone, config=away)
        assert done.returncode == 0, done.stderr
        assert "told" not in done.stdout
    assert asked(bed) == broken


def test_kafka_that_refuses_in_the_midst(bed: Bed, config: Path) -> None:
    """It answered before anything was swapped, and takes nothing then."""
    damaged(bed)
    dry_run(config)
    topic = bed.settings.cdrs_topic
    assert cdrstream("replay", "apply", "1", "--yes", config=config).returncode == 0
    longest(bed, topic, 300)
    done = cdrstream("replay", "undo", "1", "--yes", config=config)
    assert done.returncode == 1, done.stdout
    assert f"not all who listen to {topic} know" in done.stderr
    assert "cdrstream replay --resume 1" in done.stderr
    longest(bed, topic, 1_000_000)
    assert said(bed) != asked(bed)
    told = cdrstream("replay", "--resume", "1", config=config)
    assert told.returncode == 0, told.stderr
    assert said(bed) == asked(bed)
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    admin.delete_topics([topic])[topic].result(20)
    until(lambda: topic not in admin.list_topics(timeout=5).topics, "the topic is gone")
    refused = cdrstream("replay", "apply", "1", "--yes", config=config)
    assert (refused.returncode, f"there is no topic {topic}" in refused.stderr) == (1, True)


def longest(bed: Bed, topic: str, size: int) -> None:
    """The broker refuses longer batches from now on."""
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    entry = ConfigEntry("max.message.bytes", str(size))
    entry.incremental_operation = AlterConfigOpType.SET
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(20)


def test_a_database_that_crashed_has_no_changes_to_apply(bed: Bed, config: Path) -> None:
    """Shadow tables are unlogged: PostgreSQL empties them when it recovers."""
    damaged(bed)
    broken = asked(bed)
    dry_run(config)
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute("TRUNCATE replay_1_cdrs, replay_1_provenance, replay_1_changes")
    done = cdrstream("replay", "apply", "1", "--yes", config=config)
    assert (done.returncode, "has lost its tables" in done.stderr) == (1, True)
    assert asked(bed) == broken
