"""A database that hangs: its kernel answers for it, so no time limit of the network ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ops.stack import Stack
from tests.proxy import Proxy
from tests.streaming import Bed, call_rows, database, stream_stack, until

__all__ = ["stream_stack"]

pytestmark = pytest.mark.timeout(180)


def test_a_commit_that_does_not_come_back_ends_the_worker(
    tmp_path: Path, stream_stack: Stack
) -> None:
    """It would wait for ever, say that it runs, and take in what comes until there is no room."""
    with (
        Proxy(stream_stack.sink.port).running() as proxy,
        database(stream_stack.sink) as dsn,
        Bed(f"{dsn} host=127.0.0.1 port={proxy.port}", tmp_path, stall_seconds=6.0) as bed,
    ):
        first = bed.worker()
        first.wait_assigned()
        bed.put_rows(call_rows("before", 0))
        bed.beat(60)
        bed.flush()
        until(lambda: bed.cdr_ids() == ["before"], "a call")
        proxy.silence(True)
        bed.put_rows(call_rows("after", 100))
        bed.beat(160)
        bed.flush()
        try:
            until(lambda: not first.alive, "the worker ends")
        finally:
            proxy.silence(False)
        assert first.wait() == 70
        assert first.logged("a commit does not come back")
        bed.settings = replace(bed.settings, stall_seconds=120.0)  # the first is waited for
        second = bed.worker("w2")  # as its supervisor does
        until(lambda: bed.cdr_ids() == ["after", "before"], "both calls")
        assert second.stop() == 0
