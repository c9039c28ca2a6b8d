"""What `compare-old` prints, and which calls it points at."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from ops.compare_old.command import _time, _Worst
from ops.compare_old.report import lines
from ops.compare_old.sides import Range
from ops.diff import Tally, classify, reasons
from ops.errors import UsageError
from tests.unit.test_diff import row

WITHIN = Range(datetime(2024, 3, 4, 9), datetime(2024, 3, 5))


def compared(*pairs: tuple[dict[str, Any] | None, dict[str, Any] | None]) -> tuple[Tally, _Worst]:
    tally, worst = Tally(), _Worst()
    for old, new in pairs:
        difference = classify(old, new)
        tally.add(difference, reasons(difference, None))
        worst.add(difference)
    return tally, worst


def test_the_page_counts_every_call_once() -> None:
    later = row("b", end_time="2024-03-04T09:01:02.5Z", reference="r")
    tally, worst = compared(
        (row("a"), row("a")),
        (row("b"), later),
        (None, row("c")),
        (row("d"), None),
        (row("e", termination="F"), row("e")),
    )
    page = "\n".join(lines(tally, WITHIN, worst.calls()))
    assert "5 calls that began from 2024-03-04 09:00:00" in page
    assert "the same                                1  20.00 %" in page
    assert "other columns                           0   0.00 %  (and 1 of graver kinds)" in page
    assert "  <= 0.5 s          1  ####" in page
    assert page.endswith("  cdrstream explain c\n  cdrstream explain e\n  cdrstream explain b"), (
        "the gravest first; of what only the old one has there is nothing to explain"
    )


def test_a_hostile_call_id_is_quoted_for_the_shell_and_the_terminal() -> None:
    tally, worst = compared((None, row("x'; rm -rf \x1b[31m/")))
    last = list(lines(tally, WITHIN, worst.calls()))[-1]
    assert last == """  cdrstream explain 'x'"'"'; rm -rf <U+001B>[31m/'"""


def test_nothing_compared_is_a_page_too() -> None:
    assert "0 calls that began" in next(lines(Tally(), WITHIN, []))


def test_only_the_ten_gravest_are_pointed_at() -> None:
    pairs = [
        (row(f"c{number}"), row(f"c{number}", end_time=f"2024-03-04T09:01:{number + 3:02}Z"))
        for number in range(20)
    ]
    _, worst = compared(*pairs)
    assert [one.call_id for one in worst.calls()] == [f"c{number}" for number in range(19, 9, -1)]


def test_a_time_may_have_a_zone_or_none() -> None:
    assert _time("--from", "2024-03-04T10:00:00+01:00") == datetime(2024, 3, 4, 9)
    assert _time("--from", "2024-03-04 09:00") == datetime(2024, 3, 4, 9)
    assert _time("--from", None) is None
    with pytest.raises(UsageError, match="--to yesterday"):
        _time("--to", "yesterday")
