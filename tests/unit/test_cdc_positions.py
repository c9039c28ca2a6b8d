"""Acknowledgements in any order, and what may be confirmed then."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given
from hypothesis import strategies as st

from cdc import position_store
from cdc.errors import KafkaUnreachable
from cdc.position_store import StoredPosition, decode, newer
from cdc.positions import Positions


def test_idle_positions_pass_at_once_and_wait_behind_what_is_under_way() -> None:
    positions = Positions()
    positions.add(0, 0, 10)
    assert positions.confirmable == 10
    batch = positions.add(2, 100, 20)
    positions.add(0, 0, 30)
    assert (positions.confirmable, positions.handed, positions.unacked_bytes) == (10, 30, 100)
    batch.unacked -= 2
    positions.settle()
    assert (positions.confirmable, positions.idle, positions.unacked_bytes) == (30, True, 0)


def test_a_batch_inside_a_transaction_moves_nothing() -> None:
    positions = Positions()
    positions.add(0, 0, 10)
    batch = positions.add(1, 1, 0)
    batch.unacked = 0
    positions.settle()
    assert positions.confirmable == 10


@given(st.data())
def test_nothing_is_confirmable_before_all_of_it_is_acknowledged(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 5), max_size=20))
    positions = Positions()
    batches = [positions.add(size, size, 10 * (n + 1)) for n, size in enumerate(sizes)]
    records = [n for n, size in enumerate(sizes) for _ in range(size)]
    left = list(sizes)
    before = positions.confirmable
    for n in data.draw(st.permutations(records)):
        left[n] -= 1
        batches[n].unacked -= 1
        if not batches[n].unacked:
            positions.settle()
        first_open = next((at for at, rest in enumerate(left) if rest), len(left))
        assert positions.confirmable == 10 * first_open
        assert positions.confirmable >= before
        before = positions.confirmable
    assert positions.idle
    assert positions.unacked_records == positions.unacked_bytes == 0


def _position(lsn: int, epoch: int = 0, table: str | None = None) -> StoredPosition:
    return StoredPosition(lsn, "7", 1, "slot", epoch, 5, table, 9 if table else None)


def test_stored_positions_survive_their_encoding() -> None:
    for position in (_position(1 << 40), _position(3, 2, "call_state_events")):
        assert decode(position.encode("a")) == position


def test_a_late_record_of_a_dying_reader_does_not_count() -> None:
    held = _position(100)
    assert newer(None, held) is held
    assert newer(held, _position(90)) is held
    assert newer(held, _position(110)).lsn == 110
    assert newer(held, _position(100, 0, "call_state_events")) is held
    # a new beginning counts, however low its position
    assert newer(held, _position(5, 1, "call_state_events")).lsn == 5
    assert newer(_position(5, 1), held).lsn == 5


@pytest.mark.parametrize("code", [KafkaError._UNKNOWN_PARTITION, KafkaError.UNKNOWN_TOPIC_OR_PART])
def test_a_broker_that_wakes_and_knows_no_partition_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Refused would be: somebody has to change something."""

    class Waking:
        def __init__(self, _: object) -> None:
            pass

        def list_topics(self, topic: str, **_: object) -> object:
            told = SimpleNamespace(error=None, partitions={0: None})
            return SimpleNamespace(topics={topic: told})

        def get_watermark_offsets(self, *_: object) -> tuple[int, int]:
            raise KafkaException(KafkaError(code))

        def close(self) -> None:
            pass

    monkeypatch.setattr(position_store, "Consumer", Waking)
    with pytest.raises(KafkaUnreachable, match="does not know positions now"):
        position_store.load({}, "positions", "a", 1.0)
