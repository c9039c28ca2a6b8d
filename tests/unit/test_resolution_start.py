"""Who called, and when: the start of a CDR."""

from __future__ import annotations

import pytest

from tests.calls import brief, columns, iso, judge, row

S = row("S", 5)
E = row("E", 65, cseq=2)


def test_an_ordinary_call() -> None:
    assert columns(row("R", 0, caller_internal=True, reference="r"), row("S", 5), E) == {
        "call_id": "call",
        "from_tag": "a",
        "to_tag": "b",
        "caller_aor": "<sip:a@x>",
        "callee_aor": "<sip:b@x>",
        "start_time": iso(0),
        "connect_time": iso(5),
        "end_time": iso(65),
        "termination": "C",
        "failure_status": None,
        "failure_reason": None,
        "call_direction": None,
        "reference": "r",
        "caller_contact": "<sip:a@10.0.0.1>",
        "callee_contact": "<sip:b@10.0.0.1>",
        "caller_internal": True,
        "callee_route": "",
    }


def test_the_lowest_cseq_starts_the_call_whatever_the_clocks_say() -> None:
    again = row("R", -3, cseq=2, server="fast", contact="<sip:second@10.0.0.9>")
    told = columns(row("R", 0), again, row("S", 5, cseq=2), row("E", 65, cseq=3))
    assert told["caller_contact"] == "<sip:a@10.0.0.1>"
    assert told["start_time"] == iso(0)


def test_the_outermost_proxy_starts_the_call_whatever_the_clocks_say() -> None:
    inner = row("R", -3, via_count=3, branch_id="z3", server="fast", contact="<sip:inner@1.1.1.1>")
    told = columns(row("R", 0), inner, S, E)
    assert told["caller_contact"] == "<sip:a@10.0.0.1>"
    assert told["start_time"] == iso(0)


def test_of_two_copies_of_the_first_request_the_earlier_one_starts_the_call() -> None:
    assert brief(row("R", 0.4), row("R", 0.1), S, E)[2] == 0.1


def test_of_several_callers_tags_the_earliest_is_the_caller() -> None:
    told = columns(
        row("R", 3, caller="late", cseq=1), row("R", 0, caller="early", cseq=9), row("S", 5), E
    )
    assert told["from_tag"] == "early"


def test_the_earliest_tag_is_the_one_whose_first_request_is_the_earliest() -> None:
    """Not the one that any of its requests is earlier of: a fast clock must not make a caller."""
    told = columns(
        row("R", 0, caller="a", cseq=1),
        row("R", 2, caller="q", cseq=1),
        row("R", -5, caller="q", cseq=2, server="fast"),
    )
    assert told["from_tag"] == "a"


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (False, True, True),
        (True, False, True),
        (False, None, False),
        (None, False, False),
        (None, None, None),
    ],
)
def test_internal_if_any_request_says_so(
    first: bool | None, second: bool | None, said: bool | None
) -> None:
    requests = (
        row("R", 0, caller_internal=first),
        row("R", 0.01, via_count=2, branch_id="z2", caller_internal=second),
    )
    assert columns(*requests, S, E)["caller_internal"] is said


def test_internal_is_null_without_a_request() -> None:
    assert columns(row("S", 5, caller_internal=False), E)["caller_internal"] is None


def test_the_reference_is_the_first_that_is_not_empty() -> None:
    requests = (
        row("R", 0, cseq=1, reference=""),
        row("R", 1, cseq=2, reference="second"),
        row("R", -9, cseq=3, reference="third", server="fast"),
    )
    assert columns(*requests, S, E)["reference"] == "second"


def test_contact_parameters_are_stripped() -> None:
    told = columns(
        row("R", 0, contact='"A;b" <sip:a@h;transport=tcp>;expires=3'),
        row("S", 5, contact="<sip:b@h;x=y>;q=1"),
        E,
    )
    assert told["caller_contact"] == '"A;b" <sip:a@h>'
    assert told["callee_contact"] == "<sip:b@h>"


def test_without_a_request_the_answer_is_the_start() -> None:
    told = columns(S, E)
    assert told["start_time"] == told["connect_time"] == iso(5)
    assert told["caller_contact"] is None
    assert told["from_tag"] == "a"
    assert judge(S, E).missing == ("start",)


def test_without_request_and_answer_nobody_knows_who_called() -> None:
    verdict = judge(E)
    assert verdict.cdr is None
    assert verdict.rule == "end only"


@pytest.mark.parametrize(("kind", "rule"), [("F", "failure only"), ("T", "transfer only")])
def test_other_events_alone_make_no_call_either(kind: str, rule: str) -> None:
    verdict = judge(row(kind, 3))
    assert verdict.cdr is None
    assert verdict.rule == rule


# -- requests with a To tag -----------------------------------------------------------------


def reinvite(at: float, **more: object) -> dict[str, object]:
    return row("R", at, **{"to_tag": "b", "cseq": 4, "branch_id": "z9"} | more)


def test_a_reinvite_does_not_start_a_call() -> None:
    told = columns(row("R", 0), S, reinvite(-4, contact="<sip:new@9.9.9.9>"), E)
    assert told["start_time"] == iso(0)
    assert told["caller_contact"] == "<sip:a@10.0.0.1>"


def test_a_reinvite_of_the_callee_does_not_make_the_callee_the_caller() -> None:
    again = row("R", -4, by_callee=True, to_tag="a", cseq=1, branch_id="z9")
    told = columns(row("R", 0), S, again, row("S", -3.9, by_callee=True, cseq=1), E)
    assert (told["from_tag"], told["to_tag"]) == ("a", "b")
    assert told["start_time"] == iso(0)
    assert told["connect_time"] == iso(5)


def test_a_reinvite_behind_a_setup_of_its_direction_starts_no_call() -> None:
    """The first request is lost: the start is the answer's, not the re-INVITE's."""
    told = columns(S, reinvite(30), row("S", 30.1, cseq=4), row("E", 65, cseq=5))
    assert told["start_time"] == iso(5)
    assert told["caller_contact"] is None
    assert judge(S, reinvite(30), row("E", 65, cseq=5)).missing == ("start",)


def test_a_request_with_a_to_tag_starts_the_call_where_nothing_else_does() -> None:
    told = columns(reinvite(0, cseq=1), S, E)
    assert told["start_time"] == iso(0)


def test_a_reinvites_internal_counts() -> None:
    assert columns(row("R", 0), S, reinvite(9, caller_internal=True), E)["caller_internal"] is True


# -- hidden calls ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("callee", "hidden"),
    [
        ("<sip:~~mh~2000@x>", "music on hold"),
        ("sip:~~mh~@x", "music on hold"),
        ('"~~mh~" <sip:200@x>', ""),
        ("<sip:200@x;note=~~mh~>", ""),
        ("<sip:200@~~mh~.example.com>", ""),
    ],
)
def test_music_on_hold_is_told_by_the_callees_user(callee: str, hidden: str) -> None:
    assert judge(row("R", 0, to_url=callee), S, E).hidden == hidden


def test_the_calls_of_a_chain_are_named() -> None:
    verdict = judge(row("R", 0, reference=" p1 ;rel=chain , q;rel=refer,p2; rel=chain"), S, E)
    assert verdict.chained == ("p1", "p2")
