"""Two versions of a CDR: what differs, what it costs, and what we know of why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ops.diff import Bill, Kind, Tally, classify, classify_several, pair, reasons
from ops.diff.reasons import CLOCK, INCOMPLETE, NOT_YET, SPREAD, UNEXPLAINED, UNKNOWN_CALL


def row(call_id: str = "c@host", **columns: Any) -> dict[str, Any]:
    return {
        "call_id": call_id,
        "from_tag": "f",
        "to_tag": "t",
        "caller_aor": "<sip:a@example.com>",
        "callee_aor": "<sip:b@example.com>",
        "start_time": "2024-03-04T09:00:00.000000Z",
        "connect_time": "2024-03-04T09:00:02.000000Z",
        "end_time": "2024-03-04T09:01:02.000000Z",
        "termination": "C",
        "failure_status": None,
        "failure_reason": None,
        "reference": "",
        "caller_internal": True,
        **columns,
    }


def test_forms_of_the_same_value_are_the_same() -> None:
    old = row(
        id=7,
        start_time=datetime(2024, 3, 4, 9),
        connect_time=datetime(2024, 3, 4, 9, 0, 2, tzinfo=UTC),
        end_time="2024-03-04 09:01:02.000",
        failure_status=0,
        failure_reason="",
        reference=None,
        gateway=3,
    )
    difference = classify(old, row())
    assert difference.same
    assert difference.kind is Kind.SAME
    assert difference.columns == {}
    assert reasons(difference, None) == ()


@pytest.mark.parametrize(
    ("changed", "kind"),
    [
        ({"termination": "U"}, Kind.TERMINATION),
        ({"failure_status": 486}, Kind.TERMINATION),
        ({"end_time": None}, Kind.TIMES),
        ({"start_time": "2024-03-04T08:59:59Z"}, Kind.TIMES),
        ({"to_tag": "x"}, Kind.PARTIES),
        ({"callee_aor": "<sip:c@example.com>"}, Kind.PARTIES),
        ({"reference": "x"}, Kind.OTHER),
        ({"caller_internal": None}, Kind.OTHER),
    ],
)
def test_each_kind(changed: dict[str, Any], kind: Kind) -> None:
    difference = classify(row(**changed), row())
    assert difference.kinds == (kind,)
    assert set(difference.columns) == set(changed)


def test_the_gravest_kind_comes_first_and_all_are_told() -> None:
    old = row(termination="F", to_tag="x", end_time="2024-03-04T09:00:30Z", reference="r")
    kinds = classify(old, row()).kinds
    assert kinds == (Kind.TERMINATION, Kind.TIMES, Kind.PARTIES, Kind.OTHER)


def test_times_within_the_tolerance_are_the_same() -> None:
    later = row(end_time="2024-03-04T09:01:02.001000Z")
    assert classify(row(), later, tolerance_us=1_000).same
    difference = classify(row(), later, tolerance_us=999)
    assert difference.shifts_us == {"end_time": 1_000}
    assert difference.largest_shift_us == 1_000


def test_a_call_that_one_side_lacks() -> None:
    assert classify(row(), None).kinds == (Kind.ONLY_OLD,)
    assert classify(None, row()).kinds == (Kind.ONLY_NEW,)
    assert classify(None, row()).olds == 0
    with pytest.raises(ValueError, match="neither"):
        classify(None, None)


def test_money_counts_begun_units_whole_and_never_below_nothing() -> None:
    longer = row(end_time="2024-03-04T09:01:02.001Z")
    difference = classify(row(), longer)
    assert (difference.old_bill, difference.new_bill) == (Bill(60, 1), Bill(61, 2))
    assert classify(row(connect_time=None), row()).old_bill == Bill()
    assert classify(row(end_time="2024-03-04T09:00:00Z"), row()).old_bill == Bill()


def test_of_several_old_records_the_nearest_is_compared_and_all_are_billed() -> None:
    near = row(reference="near")
    difference = classify_several([row(termination="F", to_tag="x"), near, row("c@host")], row())
    assert difference.kinds == (Kind.DUPLICATE,)
    assert difference.columns == {}
    assert difference.olds == 3
    assert difference.old_bill == Bill(180, 3)
    assert classify_several([row(), row()], None).kinds == (Kind.ONLY_OLD, Kind.DUPLICATE)


def test_pairing_walks_both_sides() -> None:
    olds = [row("a"), row("b"), row("b"), row("d", termination="U")]
    news = [row("b"), row("c"), row("d"), row("e")]
    told = [(one.call_id, one.kind) for one in pair(olds, news)]
    assert told == [
        ("a", Kind.ONLY_OLD),
        ("b", Kind.DUPLICATE),
        ("c", Kind.ONLY_NEW),
        ("d", Kind.TERMINATION),
        ("e", Kind.ONLY_NEW),
    ]
    with pytest.raises(ValueError, match="not sorted"):
        list(pair([row("b"), row("a")], []))
    with pytest.raises(ValueError, match="two new records"):
        list(pair([], [row("b"), row("b")]))


def test_the_tally_adds_up() -> None:
    tally = Tally()
    late = row("b", end_time="2024-03-04T09:01:02.200Z")
    for difference in pair([row("a"), row("b"), row("c")], [row("a"), late, row("d")]):
        tally.add(difference, reasons(difference, None))
    told = tally.as_json()
    assert told["calls"] == sum(told["kinds"].values()) == 4
    assert told["differing"] == 3
    assert told["shifts"]["<= 0.5 s"] == 1
    assert told["billed"] == {
        "old_seconds": 180,
        "new_seconds": 181,
        "old_minutes": 3,
        "new_minutes": 4,
        "calls_seconds_differ": 3,
        "calls_minutes_differ": 3,
    }
    assert told["reasons"]["only_old"] == {UNKNOWN_CALL: 1}


def provenance(**more: Any) -> dict[str, Any]:
    return {"servers": ["a"], "offsets": [], "missing": [], "legs": [], **more}


def test_reasons_of_a_call_that_we_have_not() -> None:
    only_old = classify(row(), None)
    assert reasons(only_old, {"hidden_reason": "leg of a chain"}) == (
        "hidden here: leg of a chain",
    )
    assert reasons(only_old, None, watermark_us=0) == (NOT_YET,)
    assert reasons(only_old, None, watermark_us=2**62) == (UNKNOWN_CALL,)


def test_a_clock_is_the_reason_where_it_accounts_for_the_shift() -> None:
    offset = {"server": "b", "offset_us": 3_200_000, "error_us": 900, "applied": True}
    why = provenance(offsets=[offset], servers=["a", "b"])
    shifted = classify(row(end_time="2024-03-04T09:01:05.200Z"), row())
    assert reasons(shifted, why) == (CLOCK, SPREAD)
    more = classify(row(end_time="2024-03-04T09:02:05.200Z"), row())
    assert reasons(more, provenance(offsets=[offset], missing=["setup"]))[0] == INCOMPLETE


def test_what_nothing_explains_is_said() -> None:
    assert reasons(classify(row(reference="x"), row()), provenance()) == (UNEXPLAINED,)
    assert reasons(classify(None, row()), None) == (UNEXPLAINED,)
