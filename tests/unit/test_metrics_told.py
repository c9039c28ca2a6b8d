"""Metrics are declared once, told truly, and what dashboards and alerts name exists."""

from __future__ import annotations

import asyncio
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from callstate.effects import ClockStepped, RecordLate
from cdc import metrics as reader_metrics
from cdc.errors import KafkaUnreachable, ServerUnreachable
from cdc.exposition import ReaderCollector
from cdc.reader import ServerReader
from cdc.settings import ReaderSettings
from cdc.status import State
from ops.config_sources import load
from ops.dashboard import metrics as dashboard_metrics
from ops.errors import ConfigError
from ops.metrics_http import MetricsServer, served
from ops.monitor import headline
from ops.pulse import Pulse
from ops.replay import metrics as replay_metrics
from ops.replay.command import _measured
from ops.replay.plan import PartPlan, Plan, Span
from ops.replay.reading import Reached
from stream_app import metrics as worker_metrics
from stream_app.metrics import Counted, WorkerCollector, count_effect
from tests.calls import beat, events, processor, row

OUTCOMES = replay_metrics.OUTCOMES
ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
RUNBOOK = ROOT / "docs" / "runbook.md"


def samples(collector: Any) -> dict[tuple[str, ...], float]:
    """Name and label values to value, of a whole exposition."""
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
async def reader() -> ServerReader:
    settings = ReaderSettings("a", "host=127.0.0.1", {"bootstrap.servers": "127.0.0.1:1"})
    return ServerReader(settings)


async def test_what_a_reader_does_not_know_is_absent(reader: ServerReader) -> None:
    collector = ReaderCollector()
    collector.add(reader)
    told = samples(collector)
    assert told["cdrstream_reader_streaming", "a"] == 0
    assert told["cdrstream_reader_rows_total", "published", "a"] == 0
    for name in (
        "reader_progress_timestamp_seconds",
        "clock_offset_seconds",
        "clock_drift_ratio",
        "reader_commit_to_ack_seconds_count",
    ):
        assert (f"cdrstream_{name}", "a") not in told
    assert not [key for key in told if key[0].startswith("cdrstream_slot_")]
    assert not collector.ready


async def test_a_reader_tells_progress_on_the_references_clock(reader: ServerReader) -> None:
    numbers = reader.metrics
    reader.state = State.STREAMING
    numbers.progress_us, numbers.clock_offset_us = 1_000_000_000, -5_500_000
    numbers.process_ahead_us = 5_600_000
    numbers.slot_checked_us, numbers.slot_wal_status = 7_000_000, "extended"
    numbers.slot_safe_wal_bytes, numbers.slot_retained_bytes = 300, 700
    numbers.reconnected("SlotBusy")
    numbers.clock_drift = 40e-6
    numbers.acknowledged(0.02)
    now_us = time.time_ns() // 1_000
    numbers.acknowledged(0.02, committed_us=now_us - numbers.process_ahead_us - 3_000_000)
    collector = ReaderCollector()
    collector.add(reader)
    told = samples(collector)
    assert told["cdrstream_reader_progress_timestamp_seconds", "a"] == 1_005.5
    assert told["cdrstream_clock_local_offset_seconds",] == pytest.approx(0.1)
    assert told["cdrstream_slot_keep_limit_bytes", "a", "cdrstream_a"] == 1_000
    assert told["cdrstream_slot_state", "a", "cdrstream_a", "extended"] == 1
    assert told["cdrstream_slot_state", "a", "cdrstream_a", "lost"] == 0
    assert told["cdrstream_reader_reconnects_total", "SlotBusy", "a"] == 1
    assert told["cdrstream_reader_ack_seconds_count", "a"] >= 2
    # three seconds by the server's own clock, which is 5.6 s behind this process's
    assert told["cdrstream_reader_commit_to_ack_seconds_count", "a"] == 1
    assert 3 <= told["cdrstream_reader_commit_to_ack_seconds_sum", "a"] < 4
    assert told["cdrstream_clock_drift_ratio", "a"] == 40e-6
    assert collector.ready


async def test_what_keeps_a_reader_from_reading_is_told_while_it_does(
    reader: ServerReader, caplog: pytest.LogCaptureFixture
) -> None:
    collector = ReaderCollector()
    collector.add(reader)
    for _ in range(3):
        reader._hear(KafkaUnreachable("no broker"))
    reader._hear(ServerUnreachable("no server"))
    assert collector.why == "a: KafkaUnreachable, ServerUnreachable"
    told = samples(collector)
    assert told["cdrstream_reader_trouble", "KafkaUnreachable", "a"] == 1
    said = [r.__dict__["reason"] for r in caplog.records if r.levelname == "WARNING"]
    assert said == ["no broker", "no server"]
    reader._set_state(State.BACKFILL)  # hours, perhaps
    assert collector.why == ""
    assert not [key for key in samples(collector) if key[0] == "cdrstream_reader_trouble"]


STATUS: dict[str, Any] = {
    "state": "running",
    "partitions": {
        "0": {
            "watermark_us": 5_000_000,
            "written_watermark_us": None,
            "position": 10,
            "end_offset": None,
            "holder": "b",
            "frontiers": {
                "a": {"frontier_us": 12_000_000, "state": "active"},
                "b": {"frontier_us": None, "state": "never_seen"},
            },
        }
    },
    "open_calls": 3,
    "held_records": 1,
    "held_records_max": 20,
    "rebalances": 2,
    "recovery_seconds": 0.5,
    "recovery_records": 0,
    "oldest_call_us": None,
    "sink": {
        **dict.fromkeys(("commits", "inserted", "revised", "hidden", "stale", "poison"), 0),
        "failing_since": None,
    },
}


def test_a_worker_tells_who_holds_and_nothing_that_it_does_not_know() -> None:
    told = samples(WorkerCollector(lambda: STATUS, ("a", "b"), 6.0))
    assert told["cdrstream_config_server", "b"] == 1
    assert told["cdrstream_stream_watermark_timestamp_seconds", "0"] == 5.0
    assert told["cdrstream_stream_watermark_holder", "0", "b"] == 1
    assert told["cdrstream_stream_holding_partitions", "b"] == 1
    assert told["cdrstream_stream_source_state", "b", "never_seen"] == 1
    assert told["cdrstream_stream_frontier_timestamp_seconds", "a"] == 12.0
    assert ("cdrstream_stream_frontier_timestamp_seconds", "b") not in told
    assert ("cdrstream_sink_watermark_timestamp_seconds", "0") not in told
    assert ("cdrstream_stream_end_offset", "0") not in told
    assert ("cdrstream_stream_oldest_call_timestamp_seconds",) not in told
    assert told["cdrstream_stream_recovery_remaining_records",] == 0
    assert not [key for key in told if key[0].startswith("cdrstream_clock_traffic")]
    gone = samples(WorkerCollector(lambda: {**STATUS, "partitions": {}}, ("a", "b"), 6.0))
    assert not [key for key in gone if key[0] == "cdrstream_stream_position_offset"]


def test_a_worker_tells_what_is_left_to_do_and_the_best_of_what_calls_say_of_clocks() -> None:
    part = STATUS["partitions"]["0"]
    heard = [{"b": [5_000, 900]}, {"b": [5_200, 400], "c": [-1_000_000, 2_000]}, {}]
    parts = {str(n): {**part, "traffic_clocks": clocks} for n, clocks in enumerate(heard)}
    status = {
        **STATUS,
        "state": "recovering",
        "partitions": parts,
        "recovery_records": 120_000,
        "oldest_call_us": 3_000_000,
    }
    told = samples(WorkerCollector(lambda: status, ("a", "b"), 6.0))
    assert told["cdrstream_stream_recovering",] == 1
    assert told["cdrstream_stream_recovery_remaining_records",] == 120_000
    assert told["cdrstream_stream_oldest_call_timestamp_seconds",] == 3.0
    assert told["cdrstream_clock_traffic_offset_seconds", "b"] == 0.0052
    assert told["cdrstream_clock_traffic_error_seconds", "b"] == 0.0004
    assert told["cdrstream_clock_traffic_offset_seconds", "c"] == -1.0


HELLO = (row("R", 0), row("S", 2))
CLOSINGS = {
    "bye": (*HELLO, row("E", 9, cseq=2)),
    "refer": (*HELLO, row("T", 8, cseq=2), row("E", 9, cseq=3)),
    "failure": (row("R", 0), row("F", 1)),
    "ringing_limit": (row("R", 0),),
    "call_limit": HELLO,
    "failure_in_dialog": (*HELLO, row("F", 8, cseq=2, to_tag="b", failure_status=408)),
}


@pytest.mark.parametrize("reason", CLOSINGS)
def test_what_closed_a_call_is_one_of_a_few_words(reason: str) -> None:
    def count() -> float:
        told = samples(WorkerCollector(lambda: STATUS, (), 6.0))
        return told["cdrstream_stream_calls_told_total", reason]

    before = count()
    door = processor("s")
    door.feed([*events(*CLOSINGS[reason]), beat("s", 100_000)])
    for effect in door.finish():
        count_effect(effect)
    assert count() == before + 1
    assert set(CLOSINGS) == {*worker_metrics.REASONS.values(), "failure_in_dialog"}


def test_counters_that_move_with_a_partition_are_told_as_what_happened_here() -> None:
    def applied() -> float:
        return samples(WorkerCollector(lambda: STATUS, (), 6.0))[
            "cdrstream_stream_records_total", "applied"
        ]

    zero = {**dict.fromkeys(worker_metrics.RECORD_OUTCOMES, 0), "terminations": {}, "hidden": 0}
    before = applied()
    counted = Counted({**zero, "applied": 1_000_000})  # of another worker's time
    counted.now({**zero, "applied": 1_000_003})
    assert applied() == before + 3


def test_late_events_and_steps_are_counted_by_server() -> None:
    count_effect(RecordLate("c", "tests-late", 2_000_000))
    count_effect(ClockStepped("tests-late", 0, 1, "probe"))
    told = samples(WorkerCollector(lambda: STATUS, (), 6.0))
    assert told["cdrstream_stream_late_events_total", "tests-late"] == 1
    assert told["cdrstream_clock_steps_total", "probe", "tests-late"] == 1


def test_a_replay_tells_how_far_it_is_and_what_it_found() -> None:
    running = replay_metrics.ReplayCollector(1_000)
    assert "cdrstream_replay_event_timestamp_seconds" not in {key[0] for key in samples(running)}
    running.tell("reading", 400, 7_000_000)
    running.tell("late calls", 3, 1)  # another step, of other records
    told = samples(running)
    assert told["cdrstream_replay_records_total",] == 400
    assert told["cdrstream_replay_records_expected",] == 1_000
    assert told["cdrstream_replay_event_timestamp_seconds",] == 7.0


def test_the_newest_replays_are_told_by_who_sees_them() -> None:
    kinds = {"times moved": 5, "billed seconds changed": 3, "added": 1, "removed": 2}
    at = datetime(2026, 1, 31, tzinfo=UTC)
    replays: list[Mapping[str, Any]] = [
        {"records": (30, 100), "finished_at": None, "summary": None},
        {
            "records": (9, 9),
            "finished_at": at,
            "summary": {"unchanged": 90, "changed": 8, "kinds": kinds},
        },
    ]
    told = samples(Telling(replay_metrics.of_registry(replays)))
    assert told["cdrstream_replay_records_total",] == 30
    assert told["cdrstream_replay_records_expected",] == 100
    assert told["cdrstream_replay_last_success_timestamp_seconds",] == at.timestamp()
    found = {outcome: told["cdrstream_replay_differences", outcome] for outcome in OUTCOMES}
    assert found == {"same": 90, "changed": 5, "missing": 2, "extra": 1}
    assert not samples(Telling(replay_metrics.of_registry([])))


class Telling:
    """A collector of families that are there already."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Family]:
        return self._families


# -- the little server -------------------------------------------------------------------------


def _get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_metrics_and_health_over_http() -> None:
    health = {"alive": True, "ready": False}
    collector = WorkerCollector(lambda: STATUS, ("a",), 6.0)
    server = MetricsServer(
        "127.0.0.1:0",
        collector,
        lambda: health["alive"],
        lambda: health["ready"],
        lambda: "a: KafkaUnreachable",
    )
    try:
        code, text = _get(server.port, "/metrics")
        assert code == 200
        assert 'cdrstream_config_server{server="a"} 1.0' in text
        assert re.search(r'cdrstream_build_info\{schema="\d+",version="[\d.]+', text)
        assert "_created" not in text
        assert _get(server.port, "/healthz") == (200, "ok\n")
        assert _get(server.port, "/readyz") == (503, "no: a: KafkaUnreachable\n")
        health["alive"] = False
        assert _get(server.port, "/healthz")[0] == 503
        assert _get(server.port, "/etc/passwd")[0] == 404
        with pytest.raises(ConfigError, match="metrics_listen"):
            MetricsServer(f"127.0.0.1:{server.port}", collector, lambda: True, lambda: True)
    finally:
        server.close()


def test_a_replay_is_scraped_while_it_runs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "cdrstream.toml"
    path.write_text('[replay]\nmetrics_listen = "127.0.0.1:0"\n')
    heard: list[str] = []
    plan = Plan(Span(0, 1), 0, "topic", (PartPlan(0, 10, 250),), 1)
    caplog.set_level("INFO")

    def tell(step: str, _reached: Reached) -> None:
        heard.append(step)

    with _measured(load(path).config, plan, tell) as both:
        both("reading", Reached(60, 9_000_000))
        (record,) = [one for one in caplog.records if one.message == "metrics_served"]
        code, text = _get(int(record.listen.rpartition(":")[2]), "/metrics")
    assert code == 200
    assert "cdrstream_replay_records_total 60.0" in text
    assert "cdrstream_replay_records_expected 240.0" in text
    assert "cdrstream_replay_event_timestamp_seconds 9.0" in text
    assert heard == ["reading"]


def test_a_port_that_is_taken_keeps_nobody_from_starting(caplog: pytest.LogCaptureFixture) -> None:
    collector = WorkerCollector(lambda: STATUS, ("a",), 6.0)
    first = MetricsServer("127.0.0.1:0", collector, lambda: True, lambda: True)
    try:
        with served(f"127.0.0.1:{first.port}", collector, lambda: True, lambda: True):
            assert "metrics_not_served" in caplog.text
    finally:
        first.close()


async def test_a_loop_that_hangs_is_seen_from_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse()
    beating = asyncio.ensure_future(pulse.beat_for_ever())
    await asyncio.sleep(0)
    assert pulse.alive()
    monkeypatch.setattr("ops.pulse.ALIVE_SECONDS", -1.0)
    assert not pulse.alive()
    beating.cancel()


# -- what others name --------------------------------------------------------------------------


def _exported() -> set[str]:
    """Every name of a series that any process may export."""
    names = set()
    for metric in (*reader_metrics.DECLARED, *worker_metrics.DECLARED):
        names.add("cdrstream_" + metric.name)
    names |= {"cdrstream_" + gauge.name for gauge in dashboard_metrics.DECLARED}
    names |= {"cdrstream_" + metric.name for metric in replay_metrics.DECLARED}
    for counted in (*worker_metrics.PASSING, *reader_metrics.PASSING):
        for family in counted.collect():
            suffixes = ("_bucket", "_sum", "_count") if family.type == "histogram" else ("_total",)
            names |= {family.name + suffix for suffix in suffixes}
    return names


def _recorded() -> set[str]:
    return set(re.findall(r"record: (\S+)", (PROMETHEUS / "rules.yml").read_text()))


def _alerts() -> set[str]:
    return set(re.findall(r"alert: (\w+)", (PROMETHEUS / "alerts.yml").read_text()))


def _named(texts: Iterable[str]) -> set[str]:
    return {name for text in texts for name in re.findall(r"\bcdrstream[_:][a-z0-9_:]+", text)}


def test_every_metric_that_rules_and_dashboards_name_exists() -> None:
    grafana = json.loads((ROOT / "docker/grafana/dashboards/cdrstream.json").read_text())
    expressions = [target["expr"] for panel in grafana["panels"] for target in panel["targets"]]
    rules = [
        line
        for name in ("rules.yml", "alerts.yml")
        for line in (PROMETHEUS / name).read_text().splitlines()
        if not line.lstrip().startswith("#")
    ]
    named = _named([*expressions, *rules, *re.findall(r"`(cdrstream_\w+)`", RUNBOOK.read_text())])
    series = {name.removesuffix(":") for name in named}
    known = _exported() | _recorded()
    known |= {name.removesuffix(suffix) for name in known for suffix in ("_bucket",)}
    assert not sorted(series - known)


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    sections = set(re.findall(r"^## (\w+)$", RUNBOOK.read_text(), re.MULTILINE))
    assert sections == _alerts()
    text = (PROMETHEUS / "alerts.yml").read_text()
    links = set(re.findall(r"runbook_url: /runbook#(\w+)", text))
    assert links == {name.lower() for name in _alerts()}


def test_the_pages_name_the_same_problems() -> None:
    source = Path(headline.__file__).read_text()
    assert set(re.findall(r'"(Cdrstream\w+)"', source)) <= _alerts()


def test_the_runbook_says_of_each_what_to_look_at_and_how_it_ends() -> None:
    for section in RUNBOOK.read_text().split("\n## ")[1:]:
        assert "**Meaning.**" in section, section[:40]
        assert "**Impact.**" in section, section[:40]
        assert "**It worked**" in section, section[:40]


def test_labels_are_of_the_closed_set() -> None:
    allowed = {"server", "partition", "slot", "outcome", "reason", "state", "source", "severity"}
    declared = (
        *(*reader_metrics.DECLARED, *worker_metrics.DECLARED),
        *(*dashboard_metrics.DECLARED, *replay_metrics.DECLARED),
    )
    for metric in declared:
        assert set(metric.labels) <= allowed, metric
        if getattr(metric, "kind", "") == "counter":
            assert metric.name.endswith("_total"), metric
