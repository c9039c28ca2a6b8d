"""Topics that are not what a worker left: made anew, emptied by age, a changelog that is gone."""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from stream_app.topics import ensure_topics
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(180)


def put_calls(bed: Bed, names: Sequence[str], at: float) -> None:
    for name in names:
        bed.put_rows(call_rows(name, at))
    bed.beat(at + 60)
    bed.flush()


def make_anew(bed: Bed, topic: str) -> None:
    """Deletes a topic and makes it again, empty."""
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    for future in admin.delete_topics([topic]).values():
        future.result(20)

    def made() -> bool:
        try:
            return topic in ensure_topics(bed.settings)
        except KafkaException:
            return False

    until(made, f"{topic} is there again")


def delete_records(bed: Bed) -> None:
    """What retention does."""
    admin = AdminClient({"bootstrap.servers": bed.settings.bootstrap_servers})
    topic = bed.settings.events_topic
    asked = [TopicPartition(topic, n, -1) for n in range(bed.settings.partitions)]
    for future in admin.delete_records(asked).values():
        future.result(20)


def worked(bed: Bed, names: Sequence[str], at: float) -> None:
    """A worker that has read some calls, committed everything and ended."""
    worker = bed.worker()
    worker.wait_assigned()
    put_calls(bed, names, at)
    until(lambda: set(names) <= set(bed.cdr_ids()), "the calls")
    until(lambda: bed.committed() == bed.ends(), "everything is committed")
    assert worker.stop() == 0


@pytest.mark.parametrize("grown", [False, True], ids=["shorter than before", "longer than before"])
def test_an_event_topic_that_was_made_anew_is_read_from_its_beginning(
    bed: Bed, grown: bool
) -> None:
    """Its offsets are not those that were read: skipping up to them loses every call there."""
    worked(bed, [f"old-{n}" for n in range(40)], 0)
    make_anew(bed, bed.settings.events_topic)
    names = [f"new-{n}" for n in range(200 if grown else 4)]
    put_calls(bed, names, 1_000)
    worker = bed.worker("w2")
    worker.wait_assigned()
    until(lambda: set(names) <= set(bed.cdr_ids()), "the new topic's calls")
    assert worker.logged("log_made_anew")
    bed.beat(2_000)
    bed.flush()
    until(lambda: bed.committed() == bed.ends(), "it reads on")
    stored = dict(
        bed.query(
            "SELECT partition, next_offset FROM sink_progress WHERE topic = %s",
            bed.settings.events_topic,
        )
    )
    assert stored == bed.ends(), "what the dashboard tells"
    assert worker.stop() == 0


def test_an_event_topic_that_is_made_anew_under_a_worker(bed: Bed) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    put_calls(bed, [f"old-{n}" for n in range(40)], 0)
    until(lambda: len(bed.cdr_ids()) == 40, "the calls")
    make_anew(bed, bed.settings.events_topic)
    put_calls(bed, ["new"], 1_000)
    until(lambda: not worker.alive, "it ends, to begin anew")
    assert worker.wait() == 1
    again = bed.worker("w2")  # as a supervisor does
    until(lambda: "new" in bed.cdr_ids(), "the new topic's call")
    assert again.stop() == 0


def test_partitions_that_come_without_their_topic_are_not_taken(bed: Bed) -> None:
    """Faust leaves it out, says so once and reads the others: no CDR would ever come again."""
    put_calls(bed, ["waiting"], 0)
    worker = bed.worker("w1", "unaware")
    until(lambda: not worker.alive, "it ends, to look again")
    assert worker.wait() == 1
    assert worker.logged("was not assigned with the rest (partitions 0, 1, 2, 3)")
    again = bed.worker("w2")  # as a supervisor does
    until(lambda: bed.cdr_ids() == ["waiting"], "the call")
    assert again.stop() == 0


def test_records_that_were_deleted_unread_are_a_gap(bed: Bed) -> None:
    """A worker that was away for longer than the retention: what it lost is said."""
    worked(bed, ["before"], 0)
    put_calls(bed, ["lost"], 1_000)
    bed.put_rows(call_rows("half", 1_990)[:1])
    bed.flush()
    delete_records(bed)
    bed.put_rows(call_rows("half", 1_990)[1:])
    put_calls(bed, ["after"], 5_000_000)
    worker = bed.worker("w2")
    worker.wait_assigned()
    until(lambda: {"before", "half", "after"} <= set(bed.cdr_ids()), "what is left")
    assert worker.logged("records_lost")
    gaps = bed.query("SELECT server, reason FROM cdr_gaps ORDER BY server")
    assert [name for name, _ in gaps] == [f"{bed.settings.events_topic}:{n}" for n in range(4)]
    assert all("deleted before" in reason for _, reason in gaps)
    suspect = bed.query("SELECT call_id FROM cdr_provenance WHERE suspect")
    assert ("half",) in suspect
    assert worker.stop() == 0


def test_a_changelog_that_is_gone_is_made_again_from_the_events(bed: Bed) -> None:
    """The calls in progress were in it, and nowhere else."""
    worked(bed, ["told"], 0)
    rows = call_rows("open", 100, seconds=500)
    first = bed.worker("w2")
    first.wait_assigned()
    bed.put_rows(rows[:2])
    bed.beat(130)
    bed.flush()
    until(lambda: bed.committed() == bed.ends(), "the begun call is committed")
    assert first.stop() == 0
    make_anew(bed, bed.settings.changelog_topic)
    bed.put_rows(rows[2:])
    bed.beat(700)
    bed.flush()
    second = bed.worker("w3")
    second.wait_assigned()
    until(lambda: bed.cdr_ids() == ["open", "told"], "the ended call")
    assert second.logged("state_lost")
    assert bed.query("SELECT termination FROM cdrs") == [("C",), ("C",)]
    assert second.stop() == 0


def test_a_database_that_has_forgotten_commits_is_told(bed: Bed) -> None:
    """A standby that was behind was promoted: Kafka tells nobody again what it has forgotten."""
    worker = bed.worker()
    worker.wait_assigned()
    put_calls(bed, [f"kept-{n}" for n in range(20)], 0)
    until(lambda: len(bed.cdr_ids()) == 20, "the calls")
    until(lambda: bed.committed() == bed.ends(), "everything is committed")
    forget_commits(bed)
    put_calls(bed, ["later"], 1_000)
    until(lambda: "later" in bed.cdr_ids(), "the later call")
    until(lambda: worker.log().count("sink_went_back") == 4, "each partition")
    assert "cdrstream replay --from 20" in worker.log()
    put_calls(bed, ["more"], 2_000)
    until(lambda: "more" in bed.cdr_ids(), "one more")
    until(lambda: bed.committed() == bed.ends(), "everything is committed again")
    assert worker.log().count("sink_went_back") == 4, "once"
    assert worker.stop() == 0
    forget_commits(bed)  # while no worker runs
    second = bed.worker("w2")
    second.wait_assigned()
    until(lambda: second.log().count("sink_went_back") == 4, "each partition")
    assert not second.logged("state_lost")
    assert second.stop() == 0


def forget_commits(bed: Bed) -> None:
    """The last commit of each partition is gone, for those who connect from now on."""
    with psycopg.connect(bed.settings.sink_dsn) as connection:
        connection.execute("UPDATE sink_progress SET next_offset = next_offset - 1")
