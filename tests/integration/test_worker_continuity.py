"""Whatever is lost between the broker and a partition is read again; what the log lacks is not."""

from __future__ import annotations

from functools import partial

import pytest
from confluent_kafka import Producer

from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)


def put_round(bed: Bed, number: int) -> list[str]:
    """Some calls, and word that they are over."""
    names = [f"call-{number}-{n}" for n in range(12)]
    for name in names:
        bed.put_rows(call_rows(name, 100 * number))
    bed.beat(100 * number + 60)
    return names


def has_all(bed: Bed, expected: list[str]) -> bool:
    return set(expected) <= set(bed.cdr_ids())


def test_a_client_that_loses_every_third_batch_loses_no_call(bed: Bed) -> None:
    worker = bed.worker(oddity="lossy")
    worker.wait_assigned()
    expected: list[str] = []

    def read_on(seconds: float) -> bool:
        """Heartbeats go on, as they do: the batch behind a lost one shows that it is lost."""
        bed.beat(seconds)
        bed.flush()
        return has_all(bed, expected)

    for number in range(6):
        expected += put_round(bed, number)
        bed.flush()
        until(partial(read_on, 100 * number + 60), f"the calls of round {number}")
    assert bed.cdr_ids() == sorted(expected)
    assert worker.logged("goes_back")
    assert bed.query("SELECT count(*) FROM cdr_gaps") == [(0,)], "nothing is missing"
    assert bed.query("SELECT DISTINCT termination FROM cdrs") == [("C",)]
    assert worker.stop() == 0


@pytest.mark.parametrize("bed", [{"partitions": 2}], indirect=True)
def test_a_take_over_amid_traffic_reads_all_though_the_seek_is_slow(bed: Bed) -> None:
    """Records of the dead one's partition come before and while the client seeks back."""
    one, two = bed.worker("one", "slow_to_seek"), bed.worker("two", "slow_to_seek")
    until(lambda: all(len(p) == 1 for p in (one.partitions(), two.partitions())), "one each")
    put: list[str] = []

    def call_goes_on(enough: int) -> bool:
        put.append(f"call-{len(put)}")
        bed.put_rows(call_rows(put[-1], len(put) * 0.1))
        bed.beat(len(put) * 0.1)
        bed.flush()
        return len(put) >= enough

    until(partial(call_goes_on, 40), "calls")
    one.kill()
    until(lambda: call_goes_on(0) and len(two.partitions()) == 2, "both are taken over")
    until(partial(call_goes_on, len(put) + 100), "calls while it seeks, and behind")
    bed.beat(len(put) * 0.1 + 60)
    bed.flush()
    until(lambda: has_all(bed, put), "all calls")
    assert bed.cdr_ids() == sorted(put)
    assert bed.query("SELECT DISTINCT termination FROM cdrs") == [("C",)]
    assert two.stop() == 0


def test_markers_of_transactions_are_no_loss(bed: Bed) -> None:
    """A topic that was copied by a transactional client has offsets which nobody ever gets."""
    worker = bed.worker()
    worker.wait_assigned()
    bed.producer = Producer(
        {
            "bootstrap.servers": bed.settings.bootstrap_servers,
            "partitioner": "murmur2_random",
            "transactional.id": bed.settings.group_id,
        }
    )
    bed.producer.init_transactions(60)
    expected: list[str] = []
    for number in range(4):
        bed.producer.begin_transaction()
        expected += put_round(bed, number)
        bed.producer.commit_transaction(60)
        until(partial(has_all, bed, expected), f"the calls of round {number}")
    assert bed.cdr_ids() == sorted(expected)
    assert bed.query("SELECT count(*) FROM cdr_gaps") == [(0,)]
    assert worker.stop() == 0
