"""Facts in, one picture out: who is late, who holds it up, and in which words."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from ops.monitor.facts import Answer, Ends, Facts, Gap, Progress, Rules, SinkFacts, Slot, Told
from ops.monitor.headline import judge
from ops.monitor.history import History
from ops.monitor.movement import Look, Movement
from ops.monitor.movement import judge as judge_movement
from ops.monitor.pace import Pace
from ops.monitor.picture import draw
from ops.monitor.sampler import Sampler
from ops.monitor.statuses import StatusTail
from ops.monitor.watched import Broker, Watched
from ops.monitor.words import duration, offset, size
from ops.status_command import lines
from tests.streaming import until

NOW = 1_800_000_000.0
US = 1_000_000
RULES = Rules(("a", "b"), 2, 5.0, 1.0, 60.0, 0.5, {"a": "cdrstream_a", "b": "cdrstream_b"})


def us(seconds: float) -> int:
    return round(seconds * US)


def reader(behind: float = 0.5, **more: Any) -> dict[str, Any]:
    """A reader's record of just now whose progress is so far behind."""
    offset_us = more.pop("clock_offset_us", 0)
    return {
        "role": "reader",
        "state": "streaming",
        "time_us": us(NOW),
        "progress_us": None if behind is None else us(NOW - behind) + (offset_us or 0),
        "clock_offset_us": offset_us,
        "clock_error_us": 1_000,
        "rows_published_total": 10,
        "last_error": None,
        **more,
    }


def worker(marks: Mapping[int, Mapping[str, float | None]], **more: Any) -> dict[str, Any]:
    """A worker's record: per partition each server's frontier, in seconds behind now."""
    partitions = {}
    for number, frontiers in marks.items():
        known = {name: behind for name, behind in frontiers.items() if behind is not None}
        unknown = [name for name, behind in frontiers.items() if behind is None]
        slowest = max(known, key=lambda name: known[name], default=None)
        holder = unknown[0] if unknown else slowest
        partitions[str(number)] = {
            "epoch": 1,
            "position": 90,
            "end_offset": 100,
            "watermark_us": us(NOW - known[slowest] - 5) if slowest and not unknown else None,
            "holder": holder,
            "open_calls": 4,
            "frontiers": {
                name: {
                    "frontier_us": None if behind is None else us(NOW - behind),
                    "state": "never_seen" if behind is None else "active",
                }
                for name, behind in frontiers.items()
            },
        }
    return {"state": "running", "partitions": partitions, "sink": {}, **more}


def facts(
    readers: Mapping[str, tuple[float, dict[str, Any]]] | None = None,
    workers: Mapping[str, tuple[float, dict[str, Any]]] | None = None,
    visible: float | None = 6.0,
    **more: Any,
) -> Facts:
    readers = {"a": (1.0, reader()), "b": (1.0, reader())} if readers is None else readers
    fine = {"a": 0.5, "b": 0.6}
    workers = {"w": (1.0, worker({0: fine, 1: fine}))} if workers is None else workers
    statuses = {f"reader:{name}": Told(NOW - age, told) for name, (age, told) in readers.items()}
    statuses |= {f"worker:{name}": Told(NOW - age, told) for name, (age, told) in workers.items()}
    mark = None if visible is None else us(NOW - visible)
    progress = tuple(Progress(number, 80, mark, "w", 1.0, {"cdrs": 7}) for number in (0, 1))
    given: dict[str, Any] = {
        "now": NOW,
        "statuses": statuses,
        "broker": Answer(Ends({0: (0, 100), 1: (0, 100)}, 0), NOW - 1),
        "sink": Answer(SinkFacts(NOW - 1, progress, (), 3), NOW - 1),
        "slots": {name: Answer(Slot("reserved", True, 0, 1_000, 9_000), NOW) for name in "ab"},
        "clock_ahead": 0.0,
    }
    return Facts(**{**given, **more})


def picture(*arguments: Any, **more: Any) -> dict[str, Any]:
    return judge(draw(facts(*arguments, **more), RULES))


def alerts(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(one["alert"], one["server"]) for one in told["problems"]]


def test_all_is_well() -> None:
    told = picture()
    assert told["verdict"]["level"] == "ok"
    assert told["verdict"]["text"] == "All calls that ended before 07:59:54 UTC are recorded."
    assert [part["why"] for part in told["partitions"]] == ["up to date", "up to date"]
    assert told["servers"][0]["capture_lag"] == pytest.approx(-0.5)  # told a second ago


def test_the_age_of_a_status_is_not_lag() -> None:
    told = picture({"a": (3.0, reader(behind=3.4)), "b": (1.0, reader())})
    assert told["servers"][0]["capture_lag"] == pytest.approx(0.4)


def test_a_reader_that_is_gone_has_lag_that_grows_and_a_name() -> None:
    gone = {"a": (1.0, reader()), "b": (42.0, reader(behind=42.5))}
    late = {"a": 0.5, "b": 42.5}
    told = picture(gone, {"w": (1.0, worker({0: late, 1: late}))}, visible=48.0)
    b = told["servers"][1]
    assert b["state"] == "away"
    assert b["capture_lag"] == pytest.approx(42.5)
    assert b["holding"] == 2
    why = told["partitions"][0]["why"]
    assert why == (
        "waiting for b: 42 s behind the others, its reader has been away for 42 s;"
        " set aside in about 18 s"
    )
    assert told["verdict"]["level"] == "bad"
    assert told["verdict"]["text"].endswith(
        "48 s ago. b holds the watermark: its reader has been away for 42 s."
    )
    assert alerts(told)[0] == ("CdrstreamReaderMissing", "b")
    assert "cdrstream reader --server b" in told["problems"][0]["do"]


def test_a_clock_in_the_future_is_no_lag_and_no_head_start() -> None:
    ahead = reader(behind=0.5, clock_offset_us=us(3_600))
    told = picture({"a": (1.0, reader()), "b": (1.0, ahead)})
    b = told["servers"][1]
    assert b["capture_lag"] == pytest.approx(-0.5)
    assert b["clock"] == "off"
    assert alerts(told) == [("CdrstreamClockOff", "b")]


@pytest.mark.parametrize(
    ("offset_us", "error_us", "said"),
    [(0, 1_000, "ok"), (600_000, 50_000, "off"), (400_000, 200_000, "cannot tell")],
)
def test_a_clock_is_judged_with_its_error(offset_us: int, error_us: int, said: str) -> None:
    record = reader(clock_offset_us=offset_us, clock_error_us=error_us)
    assert picture({"a": (1.0, record), "b": (1.0, reader())})["servers"][0]["clock"] == said


def heard(offset: float, error: float = 0.003) -> dict[str, Any]:
    """A worker whose calls say that of b's clock, and in another partition something vaguer."""
    fine = {"a": 0.5, "b": 0.6}
    told = worker({0: fine, 1: fine}, recovery_records=0, rebalanced_lately=1)
    told["partitions"]["0"]["traffic_clocks"] = {"b": [us(offset), us(error)]}
    told["partitions"]["1"]["traffic_clocks"] = {"b": [us(offset + 9), us(10)]}
    return told


def test_what_calls_say_of_a_clock_stands_beside_what_the_probe_says() -> None:
    told = picture(None, {"w": (1.0, heard(0.002))})
    assert told["servers"][0]["traffic"] is None
    assert told["servers"][1]["traffic"] == {"offset": 0.002, "error": 0.003}
    assert told["problems"] == []
    assert picture(None, {"w": (60.0, heard(0.002))})["servers"][1]["traffic"] is None  # long ago


def test_probe_and_calls_that_disagree_are_a_problem() -> None:
    told = picture(None, {"w": (1.0, heard(0.8))})
    assert alerts(told) == [("CdrstreamClocksDisagree", "b")]
    assert "+0.000 s ± 0.001, +0.800 s ± 0.003" in told["problems"][0]["text"]


def test_cdrs_a_minute_are_counted_over_one() -> None:
    pace = Pace()
    assert pace.per_minute(NOW, {"C": 100}) is None
    assert pace.per_minute(NOW + 2, {"C": 101}) is None  # too short a look
    assert pace.per_minute(NOW + 10, {"C": 110, "F": 1}) == {"C": 60, "F": 6}
    for second in range(11, 200):
        told = pace.per_minute(NOW + second, {"C": 110 + second, "F": 1})
    assert told == {"C": pytest.approx(60), "F": 0}
    assert pace.per_minute(NOW + 201, None) is None
    assert pace.per_minute(NOW + 202, {"C": 999}) is None  # what came meanwhile is not of now


def test_a_clock_that_nobody_measured_is_not_zero() -> None:
    told = picture({"a": (1.0, reader(clock_offset_us=None)), "b": (1.0, reader())})
    assert told["servers"][0]["offset"] is None
    assert told["servers"][0]["clock"] == "not measured"


def test_a_server_that_was_never_heard_of_is_a_row_all_the_same() -> None:
    unheard = {"a": 0.5, "b": None}
    told = picture({"a": (1.0, reader())}, {"w": (1.0, worker({0: unheard, 1: unheard}))}, None)
    assert [server["state"] for server in told["servers"]] == ["streaming", "never"]
    assert told["partitions"][0]["why"] == "waiting for the first heartbeat of b"
    assert told["visible"]["through"] is None
    assert told["verdict"]["text"] == (
        "No CDR can be final yet: waiting for the first heartbeat of b."
    )


def test_a_large_transaction_is_named_as_the_reason() -> None:
    busy = {"a": (1.0, reader()), "b": (1.0, reader(behind=30, open_transaction_rows=250_000))}
    late = {"a": 0.5, "b": 30.0}
    told = picture(busy, {"w": (1.0, worker({0: late, 1: late}))}, visible=36.0)
    assert "inside a transaction of 250,000 rows so far" in told["partitions"][0]["why"]


def test_no_worker_and_a_worker_whose_work_others_have() -> None:
    fine = {"a": 0.5, "b": 0.6}
    dead = (40.0, worker({0: fine, 1: fine}))
    told = picture(None, {"w": dead})
    assert {part["why"] for part in told["partitions"]} == {"no worker has it"}
    assert ("CdrstreamPartitionsUnassigned", "") in alerts(told)
    heir = worker({0: fine, 1: fine})
    for part in heir["partitions"].values():
        part["epoch"] = 2
    told = picture(None, {"w": dead, "x": (1.0, heir)})
    assert [(one["id"], one["state"]) for one in told["workers"]] == [
        ("w", "gone"),
        ("x", "running"),
    ]
    assert told["verdict"]["level"] == "ok"


def test_the_database_away_is_said_and_its_last_word_kept() -> None:
    down = replace(facts().sink, error="connection refused", failing_since=NOW - 20)
    told = picture(sink=down)
    assert told["sink"]["failing_seconds"] == 20
    assert told["visible"]["through"] is not None
    assert told["verdict"]["level"] == "bad"
    never = picture(sink=Answer(error="connection refused", failing_since=NOW))
    assert never["verdict"]["text"].startswith("The database of the CDRs does not answer")


@pytest.mark.parametrize(
    ("slot", "alert"),
    [
        (Slot("lost"), "CdrstreamSlotLost"),
        (Slot("missing"), "CdrstreamSlotLost"),
        (Slot("extended", True, 0, 9_000, 1_000), "CdrstreamSlotWalRunningOut"),
        (Slot("extended", True, 0, 11 * 1024**3, None), "CdrstreamSlotRetainsWal"),
    ],
)
def test_slots_that_need_somebody(slot: Slot, alert: str) -> None:
    told = picture(slots={"a": Answer(slot, NOW), "b": facts().slots["b"]})
    assert alerts(told) == [(alert, "a")]


def test_a_slot_is_told_by_its_reader_where_we_may_not_look() -> None:
    record = reader(slot_wal_status="reserved", slot_retained_bytes=5, slot_unread_bytes=2)
    told = picture({"a": (1.0, record), "b": (60.0, record)}, slots={})
    assert told["servers"][0]["slot"]["retained"] == 5
    assert told["servers"][1]["slot"]["state"] == "unknown"
    assert told["servers"][1]["slot"]["retained"] is None


def test_gaps_and_dead_letters_are_problems() -> None:
    sink = facts().sink
    assert sink.value is not None
    gap = Gap("b", NOW - 900, NOW - 600, "up to 20 rows are lost", NOW - 500)
    told = picture(
        sink=replace(sink, value=replace(sink.value, gaps=(gap,))),
        broker=Answer(Ends({0: (0, 100), 1: (0, 100)}, 3), NOW),
    )
    assert alerts(told) == [("CdrstreamEventsLost", "b"), ("CdrstreamDeadLetters", "")]


def test_this_machines_clock_does_not_matter() -> None:
    """An hour ahead of the reference: nothing is an hour late for that."""
    told = judge(draw(replace(facts(), clock_ahead=3_600.0), RULES))
    assert told["visible"]["lag"] == pytest.approx(6.0 - 3_600)
    shifted = {
        "a": (1.0, reader(behind=3_600.5)),
        "b": (1.0, reader(behind=3_600.5)),
    }
    late = {"a": 3_600.5, "b": 3_600.6}
    told = judge(
        draw(
            replace(
                facts(shifted, {"w": (1.0, worker({0: late, 1: late}))}, visible=3_606.0),
                clock_ahead=3_600.0,
            ),
            RULES,
        )
    )
    assert told["verdict"]["level"] == "ok"
    assert told["visible"]["lag"] == pytest.approx(6.0)


def test_the_terminals_page_has_80_columns_and_says_what_to_do() -> None:
    off = {"clock_offset_us": us(-5.5), "slot_wal_status": "reserved"}
    gone = {"a": (1.0, reader(**off)), "b": (42.0, reader(behind=42.5, clock_offset_us=300_000))}
    gone["b"][1]["clock_error_us"] = 250_000
    late = {"a": 0.5, "b": 42.5}
    big = Answer(Slot("reserved", True, 1023 * 1024**2, 1023 * 1024**2, None), NOW)
    told = picture(
        slots={"a": big, "b": big},
        readers=gone,
        workers={"w" * 60: (1.0, worker({0: late, 1: late}))},
        visible=48.0,
    )
    for server in (None, "b"):
        page = [line.plain for line in lines(told, server)]
        assert max(map(len, page)) <= 80, max(page, key=len)
        assert any("-> start it: cdrstream reader --server b" in line for line in page)


def test_history_has_holes_where_nothing_was_known() -> None:
    history = History()
    history.add(picture())
    later = picture(sink=replace(facts().sink, error="gone", failing_since=NOW))
    history.add({**later, "at": later["at"] + 10})
    told = history.columns(("a", "b"))
    assert told["visible_lag"] == [6.0, None]
    assert told["servers"]["b"]["offset"] == [0.0, 0.0]


def looks(
    *lags: float | None, positions: tuple[int, ...] = (), reported: bool = True
) -> list[Look]:
    places = positions or tuple(range(len(lags)))
    return [
        Look(5.0 * number, reported, place, lag)
        for number, (lag, place) in enumerate(zip(lags, places, strict=True))
    ]


@pytest.mark.parametrize(
    ("window", "said"),
    [
        (looks(0.0, 90.0, 95.0), "ok"),  # it touched its floor once
        (looks(90.0, 95.0), "watching"),
        (looks(90.0, 95.0, 99.0), "slow"),
        (looks(90.0, 85.0, 99.0), "catching up"),
        (looks(90.0, 95.0, 99.0, positions=(7, 7, 7)), "stalled"),
        (looks(90.0, 95.0, 99.0, positions=(7, 3, 9)), "rewound"),
        (looks(90.0, 95.0, 99.0, reported=False), "stopped"),
        (looks(0.0, 0.0, 0.0, reported=False), "stopped"),
        (looks(None, None, None, positions=(7, 7, 7)), "stalled"),
    ],
)
def test_a_partition_is_judged_by_how_it_moved(window: list[Look], said: str) -> None:
    assert judge_movement(window) == said


def test_movement_is_watched_for_a_minute() -> None:
    movement, told = Movement(), picture()["partitions"]
    late = [{**part, "excess": 50.0} for part in told]
    assert movement.verdicts(0.0, told) == {0: "ok", 1: "ok"}
    assert movement.verdicts(30.0, late) == {0: "ok", 1: "ok"}
    assert movement.verdicts(75.0, late) == {0: "stalled", 1: "stalled"}


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "-"), (0.34, "0.3 s"), (42, "42 s"), (200, "3 min 20 s"), (18_720, "5 h 12 min")],
)
def test_durations_in_words(seconds: float | None, said: str) -> None:
    assert duration(seconds) == said


def test_sizes_and_offsets_in_words() -> None:
    assert size(None) == "-"
    assert size(0) == "0 B"
    assert size(1.5 * 1024**3) == "1.5 GiB"
    assert offset(None, None) == "not measured"
    assert offset(-5.5, 0.001) == "-5.500 s ± 0.001"


def test_what_was_last_said_is_not_told_as_of_now() -> None:
    """Offsets of a broker that is away would say that nothing waits; so would its dead letters."""
    away: dict[str, Any] = {"error": "no answer", "failing_since": NOW - 20}
    told = picture(workers={}, broker=replace(facts().broker, **away))
    part = told["partitions"][0]
    assert (part["begin"], part["end"], part["records"]) == (None, None, None)
    assert told["dead_letters"] is None
    told = picture(broker=replace(facts().broker, **away))
    assert told["partitions"][0]["records"] == 10, "as the worker has it just now"
    told = picture(sink=replace(facts().sink, **away))
    assert (told["sink"]["active_calls"], told["sink"]["oldest_call"]) == (None, None)
    assert told["partitions"][0]["stored"] is None


def test_a_picture_that_cannot_be_drawn_is_no_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread goes on; meanwhile pages and metrics fail, and say nothing of minutes ago."""
    import ops.monitor.sampler as module

    drawn: list[float] = []
    broken = threading.Event()

    def drawing(facts: Facts, rules: Rules) -> dict[str, Any]:
        if broken.is_set():
            raise KeyError("a status of another version")
        drawn.append(facts.now)
        return draw(facts, rules)

    monkeypatch.setattr(module, "draw", drawing)
    monkeypatch.setattr(module, "PICTURE_SECONDS", 0.01)
    monkeypatch.setattr(Sampler, "wait_for_all", lambda _self: None)
    nobody = "host=127.0.0.1 port=1"
    broker = Broker({"bootstrap.servers": "127.0.0.1:1"}, "sipx.", 2)
    with Sampler(Watched(broker, nobody, "public", {}, RULES, sink_is_reference=True)) as sampler:
        until(lambda: sampler.has_looked, "a picture")
        broken.set()
        until(lambda: not sampler.has_looked, "no picture any more")
        with pytest.raises(KeyError):
            sampler.picture()
        broken.clear()
        until(lambda: sampler.has_looked, "a picture again")
        assert sampler.picture()["at"] >= drawn[0]


def test_older_records_are_taken_while_they_still_come() -> None:
    """A slow broker is still read when the pictures begin: nothing may die of that."""
    tail = StatusTail(Broker({"bootstrap.servers": "127.0.0.1:1"}, "sipx.", 2))
    for number in range(3):
        tail._remember(NOW + number, "reader:a", {"clock_offset_us": 1, "clock_error_us": 1})
    taken = tail.take_past()
    assert next(taken).at == NOW
    tail._remember(NOW + 9, "reader:a", {"clock_offset_us": 1, "clock_error_us": 1})
    assert [past.at for past in taken] == [NOW + 1, NOW + 2, NOW + 9]
    tail._consumer.close()
