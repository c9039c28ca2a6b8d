"""What the dashboard asks and how often: rhythms, the figures of a day, where is looked."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from callstate.config import ResolutionConfig, TimeCorrection
from ops.config_sources import load
from ops.dashboard.calls import PAGE_ROWS, Search
from ops.dashboard.quality import Counts, Day, percentile
from ops.dashboard.scan import AROUND_RECORDS, RECORDS_MAX, _stretches
from ops.dashboard.serving import Serving
from ops.monitor.asking import Asker, Askers, Rhythm

NOON = datetime(2026, 1, 31, 12, 20)

# -- asking ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rhythm", "took", "failures", "pause"),
    [
        (Rhythm(5), 1.0, 0, 4.0),
        (Rhythm(5), 7.0, 0, 0.05),  # late already
        (Rhythm(5), 0.0, 3, 5.0),  # who is asked steadily is, whatever comes
        (Rhythm(5, 30), 0.0, 1, 5.0),
        (Rhythm(5, 30), 0.0, 3, 20.0),
        (Rhythm(5, 30), 0.0, 9, 30.0),
        (Rhythm(10, share=0.1), 0.2, 0, 9.8),
        (Rhythm(10, share=0.1), 3.0, 0, 27.0),  # three of thirty seconds
    ],
)
def test_a_question_waits_its_turn(
    rhythm: Rhythm, took: float, failures: int, pause: float
) -> None:
    assert rhythm.pause(took, failures) == pytest.approx(pause)


def test_who_hangs_keeps_nobody_else_waiting() -> None:
    hold, heard = threading.Event(), threading.Semaphore(0)

    def hang() -> None:
        hold.wait(240)

    hangs = [Asker(f"hangs {n}", hang, Rhythm(60)) for n in range(2)]
    lives = Asker("lives", heard.release, Rhythm(0.01))
    askers = Askers("tests", [*hangs, lives], 3)
    askers.start()
    try:
        for _ in range(3):
            assert heard.acquire(timeout=60)
        assert lives.answer.at is not None
        assert all(one.answer.at is None for one in hangs)
    finally:
        hold.set()
        askers.stop()


def test_nobody_is_asked_while_nobody_wants_to_know() -> None:
    wanted, asked = threading.Event(), threading.Event()
    asker = Asker("seldom", asked.set, Rhythm(0.01), wanted.is_set)
    other = threading.Semaphore(0)
    askers = Askers("tests", [asker, Asker("always", other.release, Rhythm(0.01))], 1)
    askers.start()
    try:
        for _ in range(3):
            assert other.acquire(timeout=60)
        assert not asked.is_set()
        wanted.set()
        assert asked.wait(60)
    finally:
        askers.stop()


def test_an_error_is_an_answer_with_the_last_one_kept() -> None:
    answers = iter([7, ValueError("away  now"), ValueError("still")])

    def ask() -> int:
        given = next(answers)
        if isinstance(given, Exception):
            raise given
        return given

    asker = Asker("one", ask, Rhythm(1, 8))
    pauses = [asker.once() for _ in range(3)]
    told = asker.answer
    assert (told.value, told.error) == (7, "still")
    assert told.failing_since is not None
    assert told.failing_since <= time.time()
    assert [round(pause) for pause in pauses] == [1, 1, 2]


# -- quality -----------------------------------------------------------------------------------


def test_percentiles_of_buckets_are_right_within_three_in_a_hundred() -> None:
    from math import floor, log

    seconds = [0.05 * 1.01**number for number in range(900)]  # 50 ms to six minutes
    buckets: dict[int, int] = {}
    for value in seconds:
        bucket = floor(log(value / 0.01) / log(1.05))
        buckets[bucket] = buckets.get(bucket, 0) + 1
    for share in (0.05, 0.5, 0.95):
        exact = seconds[int(share * len(seconds))]
        assert percentile(buckets, share) == pytest.approx(exact, rel=0.035)
    assert percentile({}, 0.5) is None


def test_a_day_is_put_together_of_hours_that_are_kept() -> None:
    asked: list[tuple[datetime, datetime]] = []

    def count(since: datetime, until: datetime) -> Counts:
        asked.append((since, until))
        minutes = round((until - since).total_seconds() / 60)
        return Counts({0: minutes // 2}, minutes, redirected=1)

    day = Day()
    first = day.counts(NOON, count)
    assert first.calls == 24 * 60  # a call a minute, and none counted twice or left out
    assert len(asked) == 25
    assert asked[0] == (NOON - timedelta(days=1), NOON.replace(day=30, hour=13, minute=0))
    assert asked[-1] == (NOON.replace(minute=0), NOON)
    asked.clear()
    again: set[datetime] = set()
    for second in range(23):
        assert day.counts(NOON + timedelta(seconds=second), count).calls == 24 * 60
        assert len(asked) == 3  # both ends, and an old one
        again.add(asked[1][0])
        asked.clear()
    assert len(again) == 23  # each gets its turn
    day.counts(NOON + timedelta(hours=1), count)
    assert len(asked) == 4  # the hour that has just become whole
    assert first.figures()["asr"] == pytest.approx(0.5)
    assert first.figures()["ser"] == pytest.approx(720 / (1440 - 25))


# -- where is looked ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "begins", "wanted"),
    [
        (0, 500, [], [(0, 500)]),
        (100, 500, [50], [(100, 500)]),
        (0, 10**7, [], [(10**7 - RECORDS_MAX, 10**7)]),
        (
            0,
            10**7,
            [1_000, 2_000],  # began, answered
            [(1_000, 2_000 + AROUND_RECORDS), (10**7 - RECORDS_MAX, 10**7)],
        ),
        (0, 10**7, [10**7 - 10], [(10**7 - RECORDS_MAX, 10**7)]),
        (0, 200_000, [80_000], [(80_000, 200_000)]),
    ],
)
def test_stretches_are_in_order_and_nothing_is_read_twice(
    low: int, high: int, begins: list[int], wanted: list[tuple[int, int]]
) -> None:
    assert _stretches(low, high, begins) == wanted


def test_an_empty_search_asks_for_nothing() -> None:
    assert not Search().asked
    assert PAGE_ROWS == 50


# -- what the serving process is given ---------------------------------------------------------

CONFIG = """
[kafka]
bootstrap_servers = "127.0.0.1:9092"
partitions = 3
topic_prefix = "tests."
sasl_password = "kafka secret"
[[servers]]
name = "a"
dsn = "host=127.0.0.1 dbname=SIPXCDR password=hidden"
[[servers]]
name = "b"
dsn = "host=127.0.0.2 dbname=SIPXCDR"
slot = "other"
[sink]
dsn = "host=127.0.0.1 dbname=SIPXCDR"
schema = "billing"
[resolution]
time_correction = "off"
max_ringing_seconds = 77
[dashboard]
hosts = ["cdr.example.com"]
privacy = "masked"
"""


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    path = tmp_path / "cdrstream.toml"
    path.write_text(CONFIG)
    return Serving.of(load(path).config, "127.0.0.1", debug=False)


def test_what_is_handed_over_arrives_as_it_was(serving: Serving) -> None:
    again = Serving.from_bytes(serving.to_bytes())
    assert again == serving
    assert again.watched.rules.slots == {"a": "cdrstream_a", "b": "other"}
    assert again.watched.broker.client_properties()["sasl.password"] == "kafka secret"
    assert again.watched.broker.events_topic == "tests.call-state-events"
    assert again.door.hosts == ("cdr.example.com",)
    assert again.resolution == ResolutionConfig(
        servers=("a", "b"), time_correction=TimeCorrection.OFF, max_ringing_seconds=77
    )


def test_secrets_are_not_shown_by_accident(serving: Serving) -> None:
    assert "secret" not in repr(serving)
    assert "hidden" not in repr(serving)


def test_the_serving_process_brings_no_configuration_models_along() -> None:
    heavy = (
        "pydantic",
        "pydantic_core",
        "typer",
        "rich",
        "faust",
        "aiokafka",
        "aiohttp",
        "cramjam",
    )
    told = subprocess.run(
        (
            sys.executable,
            "-c",
            "import runpy, sys; sys.argv = ['x', '-1', '-1']\n"
            "try: runpy.run_module('ops.dashboard.process', run_name='__main__')\n"
            "except (OSError, ValueError): pass\n"
            "print(*sorted(name for name in sys.modules if sys.modules[name] is not None))",
        ),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert "ops.dashboard.app" in told
    assert not set(heavy) & set(told)
