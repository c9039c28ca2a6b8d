"""A worker ends in time, also when it cannot say goodbye to anybody."""

from __future__ import annotations

import time

import pytest

from ops.stack import Stack
from tests.streaming import Bed, bed, call_rows, stream_stack, until

__all__ = ["bed", "stream_stack"]

pytestmark = pytest.mark.timeout(600)


def test_a_worker_ends_within_ten_seconds_though_the_broker_is_away(
    bed: Bed, stream_stack: Stack
) -> None:
    worker = bed.worker()
    worker.wait_assigned()
    bed.put_rows(call_rows("one@host", 0))
    bed.beat(100)
    bed.flush()
    until(lambda: bed.cdr_ids() == ["one@host"], "a call is told")
    stream_stack.broker.kill()
    try:
        begun = time.monotonic()
        assert worker.stop(20) == 0
        assert time.monotonic() - begun <= 10.0
    finally:
        stream_stack.broker.start()
    assert "Traceback" not in worker.log()
