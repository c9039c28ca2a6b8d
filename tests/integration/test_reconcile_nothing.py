"""Where there is nothing to compare, or a part of it is gone: no command says that all is well."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from tests.cli_kit import cdrstream
from tests.replay_kit import bed, config_of
from tests.streaming import Bed, stream_stack

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
