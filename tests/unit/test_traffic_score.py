"""The scorer: it must find every way in which a CDR can be wrong."""

from __future__ import annotations

from typing import Any

import pytest

from ops.simulation.score import Verdict, score
from ops.simulation.traffic import TrafficSpec, generate

LINES = list(generate(TrafficSpec(seed=1, calls=200)).truth_lines())
OWED = [line["cdr"] for line in LINES if line["expect"] == "cdr"]


def _changed(index: int, **columns: Any) -> list[dict[str, Any]]:
    return [*OWED[:index], {**OWED[index], **columns}, *OWED[index + 1 :]]


def test_the_truth_itself_is_right() -> None:
    result = score(LINES, OWED)
    assert result.flawless
    assert result.count(Verdict.RIGHT) == result.expected == len(OWED)


def test_a_missing_cdr() -> None:
    result = score(LINES, OWED[1:])
    assert [one.call_id for one in result.faults()] == [OWED[0]["call_id"]]
    assert result.count(Verdict.MISSING) == 1
    assert not result.flawless


def test_a_cdr_too_many() -> None:
    result = score(LINES, [*OWED, OWED[0]])
    assert result.count(Verdict.DUPLICATE) == 1
    assert not result.flawless


def test_a_hidden_call_that_leaks() -> None:
    hidden = next(line["cdr"] for line in LINES if line["expect"] == "hidden")
    assert score(LINES, [*OWED, hidden]).count(Verdict.LEAKED) == 1


def test_a_cdr_of_no_call() -> None:
    result = score(LINES, [*OWED, {**OWED[0], "call_id": "nobody"}])
    assert result.count(Verdict.INVENTED) == 1
    assert not result.flawless


@pytest.mark.parametrize(
    "column", ["from_tag", "to_tag", "caller_aor", "callee_aor", "termination", "caller_contact"]
)
def test_a_wrong_column(column: str) -> None:
    result = score(LINES, _changed(0, **{column: "other"}))
    assert result.count(Verdict.WRONG) == 1
    assert dict(result.wrong_columns()) == {column: 1}


def test_times_within_the_tolerance_are_right() -> None:
    truth = [{**LINES[0], "expect": "cdr", "cdr": {"start_time": "2024-03-04T09:00:00.000000Z"}}]
    call_id = truth[0]["call_id"]

    def judged(time: str | None) -> Verdict:
        cdr = {"call_id": call_id, "start_time": time}
        return score(truth, [cdr], tolerance_ms=25).judged[0].verdict

    assert judged("2024-03-04T09:00:00.025000Z") is Verdict.RIGHT
    assert judged("2024-03-04T09:00:00.025001Z") is Verdict.WRONG
    assert judged("2024-03-04T08:59:59.975000Z") is Verdict.RIGHT
    assert judged(None) is Verdict.WRONG


def test_an_undefined_call_may_have_one_cdr_or_none() -> None:
    free = {**LINES[0], "expect": "undefined", "cdr": None}
    cdr = {"call_id": free["call_id"]}
    assert score([free], []).flawless
    assert score([free], [cdr]).flawless
    assert not score([free], [cdr, cdr]).flawless
