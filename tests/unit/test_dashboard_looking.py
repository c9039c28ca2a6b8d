"""Looking a call up in Kafka when there is not the time for all of it, and what the page says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import TopicPartition

from ops.config_sources import load
from ops.dashboard import scan as scanning
from ops.dashboard.open_call import OpenCall
from ops.dashboard.pages import Pages
from ops.dashboard.revisions import Revisions
from ops.dashboard.scan import scan
from ops.dashboard.serving import Serving
from ops.monitor.watched import Broker

HIGH = 10_000_000
CALL = b"talking@example.com"
BATCH = 2_000


class SlowKafka:
    """A consumer that takes a second for each batch, by its own clock."""

    def __init__(self, wanted: dict[int, bytes]) -> None:
        self.now = 0.0
        self._wanted = wanted
        self._at = 0

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, HIGH

    def offsets_for_times(self, asked: list[TopicPartition], **_: object) -> list[TopicPartition]:
        return [TopicPartition(one.topic, one.partition, 1_000) for one in asked]

    def assign(self, places: list[TopicPartition]) -> None:
        self._at = places[0].offset

    def consume(self, count: int, **_: object) -> list[Any]:
        self.now += 1.0
        begin = self._at
        self._at = min(HIGH, begin + count)
        return [self._message(offset) for offset in range(begin, self._at)]

    def close(self) -> None:
        pass

    def _message(self, offset: int) -> Any:
        key = self._wanted.get(offset, b"another")
        told = {"offset": offset, "key": key, "value": b"", "headers": [], "timestamp": (1, 0)}
        return SimpleNamespace(error=lambda: None, **{n: lambda v=v: v for n, v in told.items()})


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> SlowKafka:
    slow = SlowKafka({1_500: CALL, HIGH - 1: CALL, HIGH - 50_000: CALL})
    monkeypatch.setattr(scanning, "Consumer", lambda *_, **__: slow)
    monkeypatch.setattr(scanning, "time", SimpleNamespace(monotonic=lambda: slow.now))
    monkeypatch.setattr(scanning, "SLICE_RECORDS", BATCH)
    return slow


def test_a_slow_broker_gives_the_newest_first_and_something_of_each_stretch(
    kafka: SlowKafka,
) -> None:
    told = scan(Broker({}, "sipx.", 1), "events", CALL.decode(), [0.0])
    assert [record.offset for record in told.found] == [1_500, HIGH - 1]
    assert told.looked == 3 * BATCH
    assert told.newest_unread == scanning.RECORDS_MAX - 2 * BATCH
    assert told.around_unread == scanning.AROUND_RECORDS - BATCH
    assert told.around
    assert not told.whole
    assert kafka.now == scanning.LOOK_SECONDS


def test_without_moments_all_the_time_is_for_the_newest(kafka: SlowKafka) -> None:
    told = scan(Broker({}, "sipx.", 1), "events", CALL.decode())
    assert told.newest_unread == scanning.RECORDS_MAX - 3 * BATCH
    assert (told.around, told.around_unread) == (False, 0)


# -- the page ----------------------------------------------------------------------------------

CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:9092"
[[servers]]
name = "a"
dsn = "host=127.0.0.1 dbname=SIPXCDR"
[sink]
dsn = "host=127.0.0.1 dbname=SIPXCDR"
"""
OPENED = OpenCall(
    partition=3,
    looked_back=4_000,
    whole=False,
    events=0,
    provenance=None,
    cdr=None,
    waits=(),
    around=True,
    newest_unread=0,
    around_unread=0,
)


@pytest.fixture
def pages(tmp_path: Path) -> Pages:
    path = tmp_path / "cdrstream.toml"
    path.write_text(CONFIG)
    picture = {"at": 0.0, "visible": {"through": 0.0}}
    sampler: Any = SimpleNamespace(picture=lambda: picture)
    boards: Any = SimpleNamespace(looked_at=lambda _page: None)
    return Pages(Serving.of(load(path).config, "127.0.0.1", debug=False), sampler, boards)


def call_page(pages: Pages, opened: OpenCall | None, **more: Any) -> str:
    told: dict[str, Any] = {
        "call_id": CALL.decode(),
        "cdr": None,
        "why": (),
        "provenance": None,
        "revisions": Revisions([], whole=True),
        "opened": opened,
        "trouble": "",
        "ladder": None,
    }
    return " ".join(pages.page("call", **told | more).split())


@pytest.mark.parametrize("events", [0, 2])
def test_what_was_not_read_is_said(pages: Pages, events: int) -> None:
    opened = replace(OPENED, events=events)
    told = call_page(pages, opened)
    assert "4,000" in told
    assert "those from when the call began" in told
    assert "in time" not in told
    told = call_page(pages, replace(opened, newest_unread=12_345, around_unread=678))
    assert "not read were 12,345 of the newest and 678 of those from when the call began" in told
    told = call_page(pages, replace(opened, newest_unread=12_345))
    assert "not read were 12,345 of the newest. Load" in told
    told = call_page(pages, replace(opened, around_unread=678))
    assert "not read were 678 of those from when the call began and was answered. Load" in told


def test_where_kafka_has_no_more_nothing_is_left_out(pages: Pages) -> None:
    told = call_page(pages, replace(OPENED, whole=True, around=False))
    assert "4,000 newest records of partition 3 were looked through (all there are). It may" in told


@pytest.mark.parametrize("whole", [True, False])
def test_revisions_say_how_far_was_looked(pages: Pages, whole: bool) -> None:
    provenance = {"revision": 2, "rule": "ended", "changed": {"end_time": [None, "x"]}, "legs": []}
    cdr = dict.fromkeys(("caller_aor", "callee_aor", "termination", "failure_status"))
    cdr |= dict.fromkeys(("failure_reason", "start_time", "connect_time", "end_time"))
    told = call_page(
        pages, None, cdr=cdr, provenance=provenance, revisions=Revisions([], whole=whole)
    )
    assert ("there may have been more" in told) == (not whole)
