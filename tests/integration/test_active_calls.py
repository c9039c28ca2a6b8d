"""Any worker answers who is talking now, in all partitions, and over the loss of a worker."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ops.stack import Stack, ports
from tests.streaming import Bed, call_rows, database, stream_stack, until

__all__ = ["stream_stack"]

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def bed(tmp_path: Path, stream_stack: Stack) -> Iterator[Bed]:
    listen = f"127.0.0.1:{ports.pick()}"  # below those that connections of others are given
    settings = {"active_interval_seconds": 0.2, "active_listen": listen}
    with database(stream_stack.sink) as dsn, Bed(dsn, tmp_path, **settings) as bed:
        yield bed


def asked(bed: Bed, query: str = "") -> list[dict[str, str | None]]:
    url = f"http://{bed.settings.active_listen}/activecdrs{query}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        assert answer.headers["Content-Type"].startswith("text/xml")
        root = ElementTree.fromstring(answer.read())
    assert root.tag == "cdrs"
    return [{child.tag: child.text for child in cdr} for cdr in root]


def test_active_calls_are_told_over_http(bed: Bed) -> None:
    first = bed.worker("w1")
    until(lambda: first.logged("active_calls_served"), "it listens")
    first.wait_assigned()
    rows = {f"c{n}@host": call_rows(f"c{n}@host", 0, seconds=50) for n in range(8)}
    for told in rows.values():
        bed.put_rows(told[:2])
    bed.put_rows(call_rows("ringing@host", 0)[:1])
    bed.beat(10)
    bed.flush()
    until(lambda: len(asked(bed)) == 8, "eight calls")
    assert asked(bed)[0]["recipient"] == "<sip:b@10.0.0.2>"
    assert len(asked(bed, "?name=a")) == 8
    assert asked(bed, "?name=nobody") == []
    second = bed.worker("w2")
    until(lambda: second.logged("active_calls_not_served"), "the port is the first one's")
    first.kill()
    for told in list(rows.values())[:3]:
        bed.put_rows(told[2:])
    bed.beat(100)
    bed.flush()
    until(lambda: bed.query("SELECT count(*) FROM active_calls") == [(5,)], "three have ended")
    assert second.stop() == 0
