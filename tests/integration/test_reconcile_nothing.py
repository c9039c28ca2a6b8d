"""Where there is nothing to compare, or a part of it is gone: no command says that all is well."""

from __future__ import annotations

import json
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from ops.errors import OpsError
from ops.explain_sink import from_sink
from ops.replay import comparing
from tests.cli_kit import cdrstream
from tests.replay_kit import config_of, connect, replayed
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(120)

SPAN = ("--from", "2024-03-04T09:00:00Z", "--to", "2024-03-04T10:00:00Z")


def test_what_nobody_has_counted_does_not_add_up(bed: Bed, tmp_path: Path) -> None:
    config = config_of(bed, tmp_path / "cdrstream.toml")
    told = cdrstream("doctor", "--reconcile", config=config)
    assert told.returncode == 1, told.stdout
    assert told.stdout.count("no worker has ever counted its events") == 4
    assert "WRONG sample: no watermark yet" in told.stdout
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute(
            "INSERT INTO sink_progress (topic, partition, epoch, next_offset, watermark, holder)"
            " SELECT %s, n, 1, 0, now(), 'w' FROM generate_series(0, 2) AS n",
            (bed.settings.events_topic,),
        )
    told = cdrstream("doctor", "--reconcile", config=config)
    assert told.returncode == 1, told.stdout
    assert "WRONG partition 3: no worker has ever counted" in told.stdout, "a hole in the totals"
    assert "none  server a: has no dsn here" in told.stdout
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute(
            "INSERT INTO sink_progress (topic, partition, epoch, next_offset, watermark, holder)"
            " VALUES (%s, 3, 1, 0, now(), 'w')",
            (bed.settings.events_topic,),
        )
    told = cdrstream("doctor", "--reconcile", config=config)
    assert told.returncode == 0, told.stdout + told.stderr


def test_two_digests_of_nothing_are_no_proof(bed: Bed, tmp_path: Path) -> None:
    config = config_of(bed, tmp_path / "cdrstream.toml")
    told = cdrstream("replay", "verify", *SPAN, config=config)
    assert told.returncode == 1, told.stdout
    assert "nothing was compared" in told.stderr
    bed.beat(0)
    bed.flush()
    told = cdrstream("replay", "verify", *SPAN, config=config)
    assert told.returncode == 0, told.stderr
    assert "the same: 0 CDRs" in told.stdout, "readers were there, and nobody called"


def test_a_partition_of_which_nothing_is_left_is_a_hole(bed: Bed, tmp_path: Path) -> None:
    """What is left of it tells no time, so nothing would tell that records are missing."""
    config = config_of(bed, tmp_path / "cdrstream.toml")
    export, again = tmp_path / "export", tmp_path / "again"
    empty = cdrstream("export-events", *SPAN, "--out", str(export), config=config)
    assert (empty.returncode, "nothing was exported" in empty.stderr) == (1, True)
    bed.beat(0)
    bed.flush()
    whole = cdrstream("replay", *SPAN, "--exit-code", config=config)
    assert whole.returncode == 0, whole.stderr
    topic = bed.settings.events_topic
    gone = TopicPartition(topic, 2, bed.ends()[2])
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    admin.delete_records([gone])[gone].result(20)
    part = cdrstream("replay", *SPAN, "--exit-code", config=config)
    assert (part.returncode, "retention has eaten them" in part.stderr) == (1, True)
    verified = cdrstream("replay", "verify", *SPAN, config=config)
    assert (verified.returncode, "records of the range are gone" in verified.stderr) == (1, True)
    told = cdrstream("export-events", *SPAN, "--out", str(again), config=config)
    assert (told.returncode, "retention has left" in told.stderr) == (1, True)


def test_who_is_talking_is_told_with_its_age(bed: Bed, tmp_path: Path) -> None:
    config = config_of(bed, tmp_path / "cdrstream.toml")
    never = cdrstream("active", config=config)
    assert (never.stdout, "no worker has ever" in never.stderr) == ("0 calls in progress\n", True)
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute(
            "INSERT INTO sink_progress (topic, partition, epoch, next_offset, holder, updated_at)"
            " SELECT %s, n, 1, 0, 'w', now() - n * interval '100 s' FROM generate_series(0, 1) n",
            (bed.settings.events_topic,),
        )
    old = cdrstream("active", "--json", config=config)
    assert "not of now: a part was last written 10" in old.stderr
    assert 100 <= json.loads(old.stdout)["age_seconds"] < 160
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute("UPDATE sink_progress SET updated_at = now()")
    assert cdrstream("active", config=config).stderr == ""


def test_a_call_that_is_not_there_may_be_in_a_partition_nobody_has_read(bed: Bed) -> None:
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute(
            "INSERT INTO sink_progress (topic, partition, epoch, next_offset, holder, watermark)"
            " SELECT 'e', n, 1, 0, 'w', CASE WHEN n > 0 THEN now() END FROM generate_series(0, 1) n"
        )
    with pytest.raises(OpsError, match="not all partitions have been read yet"):
        from_sink(bed.settings.sink_dsn, "call@host")
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute("UPDATE sink_progress SET watermark = '2024-03-04 09:00:00Z'")
        connection.execute(
            "INSERT INTO sink_progress (topic, partition, epoch, next_offset, holder)"
            " VALUES ('references', 1, 1, 0, 'w')"
        )
    with pytest.raises(OpsError, match="ended before 2024-03-04T09:00:00"):
        from_sink(bed.settings.sink_dsn, "call@host")


def test_reasons_of_another_revision_are_read_again(bed: Bed) -> None:
    """A replay that was stopped while it read reasons had not read all of a call's events."""
    for n in range(3):
        bed.put_rows(call_rows(f"call-{n}@host", n))
    bed.beat(60)
    bed.flush()
    done = replayed(bed, 0, 30)
    with connect(bed) as connection:
        assert comparing.changed_ids(connection, done.id) == []
        connection.execute(
            f"UPDATE replay_{done.id}_provenance SET revision = 2 WHERE call_id = 'call-1@host'"
        )
        assert comparing.changed_ids(connection, done.id) == ["call-1@host"]


def test_statuses_that_cannot_be_read_make_nobody_absent(bed: Bed, tmp_path: Path) -> None:
    """No such topic, or no right to it: that is what is told first, not that nobody runs."""
    config = config_of(bed, tmp_path / "cdrstream.toml")
    topic = bed.settings.status_topic
    dead = NewTopic(bed.settings.dead_letter_topic, 1, 1)
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    if dead.topic not in admin.list_topics(timeout=10).topics:
        admin.create_topics([dead])[dead.topic].result(20)

    def error() -> str:
        """On a busy machine a broker may not answer in three seconds, too."""
        told = cdrstream("status", "--json", config=config)
        return json.loads(told.stdout)["broker"]["error"] or "none"

    until(lambda: error() == "none", "all is well")
    admin.delete_topics([topic])[topic].result(20)
    until(lambda: topic not in admin.list_topics(timeout=10).topics, "it is gone")
    until(lambda: "statuses" in error(), "that is what is told")
