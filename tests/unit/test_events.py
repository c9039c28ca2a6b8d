"""Reading one row: what is saved, and what is a reason for a dead letter."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from callstate.events import (
    BadRow,
    CallEvent,
    content_key,
    format_time,
    parse_time_us,
    read_row,
    row_of,
)
from tests.calls import row

PLAIN = row("R", 0, caller_internal=True, id=7, observer="o:5060", event_seq=3)


def reason(told: dict[str, Any]) -> str:
    with pytest.raises(BadRow) as bad:
        read_row("s", told)
    return str(bad.value.args[0])


def test_a_row_and_back() -> None:
    event = read_row("s", PLAIN)
    told = row_of(event)
    assert told.pop("id") == 7
    assert {name: told[name] for name in PLAIN if name not in ("server", "id")} == {
        name: PLAIN[name] for name in PLAIN if name not in ("server", "id")
    }
    assert read_row("s", row_of(event)) == event


def test_both_writers_of_absent_values_say_the_same() -> None:
    absent = {"to_tag": "", "failure_status": 0, "reference": "", "callee_route": ""}
    null = dict.fromkeys(absent)
    left_out = {name: value for name, value in PLAIN.items() if name not in absent}
    events = {read_row("s", PLAIN | absent), read_row("s", PLAIN | null), read_row("s", left_out)}
    assert len(events) == 1


def test_unknown_columns_are_ignored() -> None:
    assert read_row("s", PLAIN | {"gateway": 4, "later": [1]}) == read_row("s", PLAIN)


@pytest.mark.parametrize("column", ["call_id", "event_type", "event_time"])
@pytest.mark.parametrize("absent", [None, "", "left out"])
def test_what_no_cdr_can_do_without(column: str, absent: str | None) -> None:
    told = PLAIN | {column: absent}
    if absent == "left out":
        del told[column]
    assert column in reason(told)


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("event_type", "Q", "event_type is unknown: 'Q'"),
        ("event_type", "RR", "event_type is unknown"),
        ("event_type", [], "event_type is absent"),
        ("event_type", ["R"], "event_type is unknown"),
        ("event_type", {}, "event_type is absent"),
        ("event_type", {"R": 1}, "event_type is unknown"),
        ("cseq", "two", "cseq is not a whole number: 'two'"),
        ("cseq", 1.5, "cseq is not a whole number"),
        ("cseq", True, "cseq is not a whole number"),
        ("cseq", [1], "cseq is not a whole number"),
        ("cseq", "9" * 5_000, "cseq is not a whole number"),
        ("cseq", "9" * 30, "cseq is out of range: '999"),
        ("id", str(-(2**63) - 1), "id is out of range"),
        ("failure_status", 2**15, "failure_status is out of range: 32768"),
        ("failure_status", str(-(2**15) - 1), "failure_status is out of range"),
        ("via_count", float("inf"), "via_count is not a whole number"),
        ("id", "x", "id is not a whole number"),
        ("caller_internal", "yes", "caller_internal is not a boolean"),
        ("caller_internal", 1, "caller_internal is not a boolean"),
        ("from_url", ["<sip:a@h>"], "a text column holds something that is not text"),
        ("reference", 5, "a text column holds something that is not text"),
        ("event_time", 1709542800, "event_time is not text"),
        ("event_time", "infinity", "event_time is not a time: 'infinity'"),
        ("event_time", "-infinity", "event_time is not a time"),
        ("event_time", "0044-03-15 12:00:00 BC", "event_time is not a time"),
        ("event_time", "294276-12-31 00:00:00", "event_time is not a time"),
        ("event_time", "2024-02-30T00:00:00Z", "event_time is not a time"),
    ],
)
def test_values_that_a_column_cannot_have(column: str, value: object, why: str) -> None:
    told = reason(PLAIN | {column: value})
    assert told.startswith(why)
    assert len(told) < 120


def test_numbers_may_come_as_text() -> None:
    event = read_row("s", PLAIN | {"cseq": "12", "via_count": "", "id": "99"})
    assert (event.cseq, event.via_count, event.id) == (12, 0, 99)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-03-04T09:00:00Z", datetime(2024, 3, 4, 9, tzinfo=UTC)),
        ("2024-03-04 09:00:00.123", datetime(2024, 3, 4, 9, 0, 0, 123_000, UTC)),
        ("2024-03-04 09:00:00.000001", datetime(2024, 3, 4, 9, 0, 0, 1, UTC)),
        ("2024-03-04T11:30:00+02:30", datetime(2024, 3, 4, 9, tzinfo=UTC)),
        ("1969-12-31T23:59:59Z", datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
        ("0001-01-01 00:00:00", datetime(1, 1, 1, tzinfo=UTC)),
    ],
)
def test_times(text: str, moment: datetime) -> None:
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    assert parse_time_us(text) == round(seconds * 1e6)
    assert datetime.fromisoformat(format_time(parse_time_us(text))) == moment


@pytest.mark.parametrize("time_us", [-(10**30), -62_135_596_800_000_001, 253_402_300_800_000_000])
def test_a_time_that_no_calendar_has_is_told_by_its_edge(time_us: int) -> None:
    assert format_time(time_us)[:4] in ("0001", "9999")


@pytest.mark.parametrize("bad", ["\x00", "\ud800", "x\udfffy\x00"])
def test_what_postgresql_cannot_store_is_replaced(bad: str) -> None:
    event = read_row("s", PLAIN | {"from_url": f"<sip:{bad}@h>", "call_id": f"c{bad}"})
    for text in (event.from_url, event.call_id):
        assert "\ufffd" in text
        text.encode()
        assert "\x00" not in text


def test_a_surrogate_pair_is_the_character_that_it_stands_for() -> None:
    assert read_row("s", PLAIN | {"contact": "\ud83d\ude00\x00"}).contact == "\U0001f600\ufffd"


@pytest.mark.parametrize(
    "name", ["\u202eevil", "Zoë 😀", "'; DROP TABLE cdrs; --", "=1+1", "x" * 2**20]
)
def test_other_names_are_kept_as_they_are(name: str) -> None:
    assert (
        read_row("s", PLAIN | {"from_url": f'"{name}" <sip:a@h>'}).from_url == f'"{name}" <sip:a@h>'
    )


def test_rows_are_ordered_by_content_an_absent_value_first() -> None:
    less = read_row("s", PLAIN | {"caller_internal": None})
    events = [read_row("s", PLAIN), less, read_row("s", PLAIN | {"caller_internal": False})]
    assert sorted(events, key=content_key)[0] is less


def test_an_event_keeps_every_column_of_the_table() -> None:
    assert {"time_us", "type", "server", "clock"} == set(CallEvent._fields) - set(
        row_of(read_row("s", PLAIN))
    )
