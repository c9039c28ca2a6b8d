"""How a call ended: legs, failures, limits, and times that contradict each other."""

from __future__ import annotations

from typing import Any

import pytest

from tests.calls import DAY_US, US, brief, columns, iso, judge, processor, row

R = row("R", 0)
S = row("S", 5)
E = row("E", 65, cseq=2)


def failure(at: float, status: int = 486, **more: Any) -> dict[str, Any]:
    return row("F", at, **{"failure_status": status, "failure_reason": f"why {status}"} | more)


# -- ends ------------------------------------------------------------------------------------


def test_the_first_of_a_dialogs_ends_counts() -> None:
    later = row("E", 65.6, cseq=2, server="other")
    assert brief(R, S, later, E)[4] == 65


def test_the_ends_of_both_sides_are_one_end() -> None:
    assert brief(R, S, E, row("E", 64.9, by_callee=True, cseq=77))[4] == 64.9


def test_the_callee_hangs_up_with_a_lower_cseq() -> None:
    end = row("E", 65, by_callee=True, cseq=1)
    assert brief(row("R", 0, cseq=9), row("S", 5, cseq=9), end) == ("C", "b", 0, 5, 65)


def test_an_end_whose_clock_is_behind_is_raised_to_connect() -> None:
    assert brief(R, S, row("E", 3, cseq=2, server="slow")) == ("C", "b", 0, 5, 5)
    assert judge(R, S, row("E", 3, cseq=2)).notes == ("end raised by 2000000 us",)


def test_a_start_whose_clock_is_ahead_is_lowered_to_connect() -> None:
    assert brief(row("R", 7, server="fast"), S, E) == ("C", "b", 5, 5, 65)


def test_an_end_before_the_start_without_setup_is_raised_to_start() -> None:
    assert brief(row("R", 7), row("E", 3, cseq=2)) == ("C", "b", 7, None, 7)


def test_request_and_end_without_setup_is_completed() -> None:
    assert brief(R, E) == ("C", "b", 0, None, 65)
    assert judge(R, E).missing == ("setup",)
    assert columns(R, E)["callee_contact"] is None


def test_request_and_setup_without_end_is_unknown() -> None:
    assert brief(R, S) == ("U", "b", 0, 5, None)
    assert judge(R, S).missing == ("end",)


def test_the_tag_of_an_end_by_the_callee_is_the_callees() -> None:
    assert brief(R, row("E", 65, by_callee=True, cseq=7))[1] == "b"


def test_a_tag_equal_to_the_callers_is_never_the_to_tag() -> None:
    assert brief(R, row("S", 5, to_tag="a"), row("E", 65, to_tag="a", cseq=2))[1] == ""


# -- connect ---------------------------------------------------------------------------------


def test_the_first_setup_connects_and_reinvites_do_not() -> None:
    again = row("S", 30, cseq=3, branch_id="z8", contact="<sip:moved@9.9.9.9>")
    told = columns(R, S, again, row("E", 65, cseq=4))
    assert told["connect_time"] == iso(5)
    assert told["callee_contact"] == "<sip:b@10.0.0.1>"


def test_the_lower_cseq_connects_whatever_the_clocks_say() -> None:
    again = row("S", 2, cseq=3, server="slow", branch_id="z8")
    assert brief(R, S, again, row("E", 65, cseq=4))[3] == 5


def test_the_innermost_proxy_saw_the_answer_first() -> None:
    inner = row("S", 5.2, via_count=3, branch_id="z3", server="ahead", contact="<sip:in@h>")
    told = columns(R, row("R", 0.1, via_count=3, branch_id="z3"), S, inner, E)
    assert told["connect_time"] == iso(5.2)
    assert told["callee_contact"] == "<sip:in@h>"


def test_the_route_is_the_first_that_is_not_empty_from_the_inside() -> None:
    told = columns(
        R,
        row("S", 5.0, via_count=5, callee_route=""),
        row("S", 5.1, via_count=3, callee_route="inner"),
        row("S", 5.2, via_count=1, callee_route="outer"),
        E,
    )
    assert told["callee_route"] == "inner"


# -- legs ------------------------------------------------------------------------------------


def test_of_two_answers_the_one_that_was_not_ended_at_once_wins() -> None:
    loser = (row("S", 4.9, callee="c", contact="<sip:c@h>"), row("E", 5.1, callee="c", cseq=2))
    assert brief(R, S, *loser, E) == ("C", "b", 0, 5, 65)
    assert columns(R, S, *loser, E)["callee_contact"] == "<sip:b@10.0.0.1>"


def test_a_leg_with_both_times_beats_a_longer_one_without_end() -> None:
    open_leg = row("S", 1, callee="c")
    assert brief(R, open_leg, S, E)[1] == "b"


def test_a_leg_with_both_times_beats_one_without_setup() -> None:
    assert brief(R, S, E, row("E", 3_000, callee="c", cseq=9))[1] == "b"


def test_completed_beats_failed() -> None:
    gone = (row("S", 4, callee="c"), failure(900, 481, callee="c", cseq=7, branch_id="y"))
    assert brief(R, *gone, S, E) == ("C", "b", 0, 5, 65)


def test_the_longer_leg_wins() -> None:
    other = (row("S", 5, callee="c"), row("E", 66, callee="c", cseq=2))
    assert brief(R, S, E, *other)[1] == "c"


def test_among_open_legs_the_earlier_connect_wins() -> None:
    assert brief(R, S, row("S", 4, callee="c")) == ("U", "c", 0, 4, None)


def test_the_losers_are_told_with_the_winner_first() -> None:
    legs = judge(R, S, E, row("S", 4.9, callee="c"), row("E", 5.1, callee="c", cseq=2)).legs
    assert [leg.callee_tag for leg in legs] == ["b", "c"]


# -- transfers -------------------------------------------------------------------------------


@pytest.mark.parametrize("by_callee", [False, True])
def test_transferred_is_refer_and_then_bye(by_callee: bool) -> None:
    refer = row("T", 60, cseq=2, by_callee=by_callee)
    assert brief(R, S, refer, row("E", 65, cseq=3)) == ("T", "b", 0, 5, 65)


def test_a_refer_without_a_bye_is_unknown() -> None:
    assert brief(R, S, row("T", 60, cseq=2)) == ("U", "b", 0, 5, None)


def test_the_refer_of_another_dialog_does_not_transfer_this_one() -> None:
    assert brief(R, S, E, row("T", 60, callee="c", cseq=2))[0] == "C"


def test_a_refer_whose_clock_is_ahead_of_the_byes_still_transfers() -> None:
    assert brief(R, S, row("T", 66, cseq=2, server="fast"), row("E", 65, cseq=3))[0] == "T"


# -- failures before an answer ---------------------------------------------------------------


def test_busy() -> None:
    told = columns(R, failure(3))
    assert (told["termination"], told["failure_status"]) == ("F", 486)
    assert (told["failure_reason"], told["end_time"]) == ("why 486", iso(3))
    assert told["to_tag"] == "b"
    assert told["connect_time"] is None
    assert told["callee_route"] is None


def test_abandoned_is_487() -> None:
    told = columns(R, failure(3, 487))
    assert (told["termination"], told["failure_status"]) == ("A", 487)


def test_an_inner_branchs_failure_is_not_the_callers() -> None:
    inner = row("R", 0.01, via_count=3, branch_id="z3")
    told = columns(R, inner, failure(3, branch_id="z3", via_count=3))
    assert (told["termination"], told["failure_status"]) == ("F", 408)
    assert told["failure_reason"] == "Request Timeout"
    assert told["end_time"] is None


@pytest.mark.parametrize("more", [{"branch_id": "z3"}, {"via_count": 3}])
def test_both_branch_and_via_count_must_match(more: dict[str, Any]) -> None:
    assert columns(R, failure(3, **more))["end_time"] is None


def test_the_branch_names_the_attempt_and_not_the_cseq() -> None:
    assert columns(row("R", 0, cseq=5), failure(3, cseq=4))["failure_status"] == 486


def test_the_last_attempt_decides() -> None:
    again = row("R", 4, cseq=2, branch_id="z2")
    busy, declined = failure(3), failure(9, 603, cseq=2, branch_id="z2")
    told = columns(R, busy, again, declined)
    assert (told["failure_status"], told["start_time"], told["end_time"]) == (603, iso(0), iso(9))


def test_the_last_attempt_decides_whatever_the_clocks_say() -> None:
    again = row("R", -4, cseq=2, branch_id="z2", server="slow")
    declined = failure(1, 603, cseq=2, branch_id="z2", server="slow")
    assert columns(R, failure(3), again, declined)["failure_status"] == 603


def test_an_attempt_without_an_answer_is_a_timeout_even_if_the_one_before_was_refused() -> None:
    told = columns(R, failure(3, 401), row("R", 4, cseq=2, branch_id="z2"))
    assert (told["failure_status"], told["end_time"]) == (408, None)


def test_a_challenge_counts_if_no_attempt_follows() -> None:
    assert columns(R, failure(3, 401))["failure_status"] == 401


def test_408_is_a_final_answer_with_its_time() -> None:
    told = columns(R, failure(30, 408))
    assert (told["termination"], told["failure_status"]) == ("F", 408)
    assert told["end_time"] == iso(30)


def test_a_failed_try_that_a_later_one_answers_is_no_failure() -> None:
    told = columns(
        R,
        failure(3),
        row("R", 9, cseq=2, branch_id="z2"),
        row("S", 12, cseq=2, branch_id="z2"),
        row("E", 65, cseq=3),
    )
    assert told["termination"] == "C"
    assert told["failure_status"] is None
    assert told["failure_reason"] is None
    assert told["start_time"] == iso(0)


def test_a_fork_that_is_cancelled_because_another_answered_is_no_failure() -> None:
    told = columns(R, failure(5.1, 487), S, E)
    assert (told["termination"], told["failure_status"]) == ("C", None)


def test_a_failure_with_no_status_and_reason_leaves_them_null() -> None:
    told = columns(R, failure(3, 0, failure_reason=""))
    assert (told["failure_status"], told["failure_reason"]) == (None, None)


# -- failures after the answer ---------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 481])
def test_408_and_481_end_an_established_dialog(status: int) -> None:
    told = columns(R, S, failure(90, status, cseq=4, branch_id="other", via_count=9))
    assert (told["termination"], told["failure_status"]) == ("F", status)
    assert (told["connect_time"], told["end_time"]) == (iso(5), iso(90))


def test_they_end_it_for_either_side() -> None:
    told = columns(R, S, failure(90, 481, by_callee=True, cseq=1, branch_id="other"))
    assert (told["termination"], told["end_time"]) == ("F", iso(90))


def test_a_bye_goes_before_them() -> None:
    told = columns(R, S, failure(30, 481, cseq=4, branch_id="other"), E)
    assert (told["termination"], told["failure_status"], told["end_time"]) == ("C", None, iso(65))


@pytest.mark.parametrize("status", [401, 486, 488, 491, 500])
def test_other_failures_are_failed_reinvites(status: int) -> None:
    told = columns(R, S, failure(30, status, cseq=4, branch_id="other"))
    assert (told["termination"], told["failure_status"], told["end_time"]) == ("U", None, None)


def test_481_in_another_dialog_ends_nothing() -> None:
    gone = failure(30, 481, cseq=4, branch_id="other", callee="c")
    assert brief(R, S, gone) == ("U", "b", 0, 5, None)


# -- when it is final ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "final"),
    [
        ((R, S, E), 65),
        ((R, failure(3)), 183),
        ((R,), 120.000001),
        ((R, S), 28_800.000001),
        ((R, S, failure(90, 481, cseq=4, branch_id="other")), 270),
        ((E,), 245),
    ],
)
def test_until_when_a_verdict_can_change(rows: tuple[dict[str, Any], ...], final: float) -> None:
    final_us = judge(*rows).final_us
    assert final_us is not None
    assert (final_us - DAY_US) / US == pytest.approx(final, abs=1e-6)


def test_an_answer_after_two_minutes_of_ringing_is_a_call() -> None:
    assert brief(R, row("S", 130), row("E", 200, cseq=2)) == ("C", "b", 0, 130, 200)


@pytest.mark.parametrize(
    ("name", "rows"),
    [("max_ringing_seconds", (R,)), ("max_call_seconds", (R, S))],
)
def test_a_timer_that_is_off_limits_nothing(name: str, rows: tuple[dict[str, Any], ...]) -> None:
    config = processor("s", max_call_seconds=0, **({} if "call" in name else {name: 0})).config
    assert judge(*rows, config=config).final_us is None


def test_a_row_of_the_null_writer_says_the_same() -> None:
    empty = row("E", 65, cseq=2, contact="", branch_id="", via_count=0, failure_status=0)
    null = row("E", 65, cseq=2, contact=None, branch_id=None, via_count=None, failure_status=None)
    assert columns(R, S, empty) == columns(R, S, null) == columns(R, S, E)
