"""Rows of megabytes, and records that no topic takes: one of them must not keep all others."""

from __future__ import annotations

import random

import orjson
import pytest
from confluent_kafka import Producer

from callstate.envelope import event_message
from callstate.topics import DEAD_LETTER_BYTES_MAX
from stream_app.changelog import PARTITION_KEY, Outbox, changelog_record, restore
from tests.streaming import CLOCK, Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(180)


def test_rows_of_megabytes_keep_nobody(bed: Bed) -> None:
    """A reader hands on what the broker takes once it is compressed, and so must a worker."""
    producer = Producer(
        {
            "bootstrap.servers": bed.settings.bootstrap_servers,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "message.max.bytes": DEAD_LETTER_BYTES_MAX,
        }
    )

    def put(call_id: str, value: bytes) -> None:
        headers = [("kind", b"event"), ("server", b"a")]
        producer.produce(bed.settings.events_topic, value, call_id.encode(), headers=headers)

    worker = bed.worker()
    worker.wait_assigned()
    name = "x" * 2_500_000
    for row in call_rows("large@host", 0):
        large = {**row, "from_url": f'"{name}" <sip:a@example.com>;tag=f'}
        put("large@host", orjson.dumps(event_message("a", "0/1", None, CLOCK, large)))
    put("broken@host", b'{"v":1,"server":"a","row":{"x":"' + b"y" * 2_500_000 + b'"}}')
    assert producer.flush(20) == 0
    bed.put_rows(call_rows("small@host", 1))
    bed.beat(60)
    bed.flush()
    until(lambda: bed.cdr_ids() == ["large@host", "small@host"], "both calls", 40)
    assert bed.query("SELECT length(caller_aor) > 2500000 FROM cdrs ORDER BY call_id")[0] == (True,)
    until(lambda: bed.committed() == bed.ends(), "everything is committed", 40)
    (letter,) = bed.read_topic(bed.settings.dead_letter_topic)
    assert len(letter.value()) > 2_500_000
    assert worker.stop() == 0


def test_a_record_that_no_topic_takes_is_left_out_and_told(
    bed: Bed, caplog: pytest.LogCaptureFixture
) -> None:
    """What the changelog held of the call before stays; all other records go on."""
    topic = bed.settings.changelog_topic
    huge = random.Random(7).randbytes(12_000_000)  # does not get less by compression
    outbox = Outbox(bed.settings)
    try:
        first = changelog_record(topic, 0, 1, b"call", b"smaller")
        assert outbox.send([first]) == 1
        records = [
            changelog_record(topic, 0, 1, b"call", huge),
            changelog_record(topic, 0, 1, b"other", b"x"),
            changelog_record(topic, 0, 1, PARTITION_KEY, b"state"),
        ]
        outbox.send(records)
        outbox.send([changelog_record(topic, 0, 1, b"next", b"y")])
    finally:
        outbox.close()
    assert [r.getMessage() for r in caplog.records if r.levelname == "ERROR"] == [
        "record_too_large"
    ]
    restored = restore(bed.settings, [0])[0]
    assert restored.calls == {"call": b"smaller", "other": b"x", "next": b"y"}
    assert restored.state == b"state"
