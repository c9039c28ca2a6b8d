"""CDRs as CSV and JSON Lines: the old columns, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from ops.errors import ConfigError
from ops.export import ALL_COLUMNS, COLUMNS, csv_lines, guarded, json_lines
from ops.moments import moment

ROW = (
    '=HYPERLINK("http://x") <sip:1@x>',
    '"Zoë, the ""cat""" <sip:2@x>',
    datetime(2026, 1, 31, 12, 0, 0, 123_000),
    None,
    datetime(2026, 1, 31, 12, 1),
    486,
    "F",
    "a\nb@x",
)


def test_the_columns_are_those_of_the_old_interface() -> None:
    assert ",".join(COLUMNS) == (
        "callee_aor,caller_aor,start_time,connect_time,end_time,failure_status,termination,call_id"
    )
    assert set(COLUMNS) < set(ALL_COLUMNS)


def test_csv_comes_back_as_it_was_but_for_formulas() -> None:
    line = csv_lines(COLUMNS, raw=False)
    text = (line(COLUMNS) + line(ROW)).decode()
    names, cells = csv.reader(io.StringIO(text, newline=""))
    assert tuple(names) == COLUMNS
    assert cells[0] == "'" + ROW[0]
    assert cells[1] == ROW[1]
    assert cells[2:5] == ["2026-01-31T12:00:00.123000Z", "", "2026-01-31T12:01:00.000000Z"]
    assert cells[5:] == ["486", "F", "a\nb@x"]
    raw = csv_lines(COLUMNS, raw=True)(ROW).decode()
    assert next(csv.reader(io.StringIO(raw, newline="")))[0] == ROW[0]


@pytest.mark.parametrize("cell", ["=1", "+1", "-1", "@x", "\tx", "\rx"])
def test_cells_that_a_spreadsheet_would_run(cell: str) -> None:
    assert guarded(cell) == "'" + cell


def test_other_cells_are_left_alone() -> None:
    assert guarded("a=1") == "a=1"
    assert guarded("") == ""


def test_json_lines() -> None:
    told = json.loads(json_lines(COLUMNS)(ROW))
    assert tuple(told) == COLUMNS
    assert told["connect_time"] is None
    assert told["start_time"] == "2026-01-31T12:00:00.123000Z"
    assert told["callee_aor"] == ROW[0]  # nothing runs JSON


def test_times_without_a_zone_are_utc() -> None:
    assert moment("2026-01-31T12:00", "--from") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert moment("2026-01-31T13:00+01:00", "--from") == datetime(2026, 1, 31, 12, tzinfo=UTC)
    with pytest.raises(ConfigError, match="--to 'noon'"):
        moment("noon", "--to")
