"""The Kamailio demo's own judgement: logs are read right, and a wrong CDR is found out."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import pytest

from ops.config_sources import load
from ops.demo_kamailio import report
from ops.demo_kamailio.phones import SCENARIOS
from ops.demo_kamailio.plan import ALL_CALLS, DEAD, FORWARDS, PHONES, TOLERANCE_MS, config_text
from ops.demo_kamailio.play import Outcome, _judge
from ops.demo_kamailio.proxy import EXAMPLE, local_config
from ops.demo_kamailio.sip_log import SipMessage, parse_log
from ops.demo_kamailio.witness import as_stored, truth_of
from ops.simulation.score import Verdict, score

DASHES = "-" * 47
FROM = b'"Caller" <sip:caller@example.com>;tag=c1'
TO = b"<sip:answers@example.com>"


def entry(second: float, direction: str, first: str, cseq: str, **headers: bytes) -> bytes:
    """One message as SIPp 3.6 writes it down."""
    told = {"From": FROM, "To": TO, "Call-ID": b"one@phones", **headers}
    lines = [first.encode(), b"CSeq: " + cseq.encode()]
    lines += [name.replace("_", "-").encode() + b": " + value for name, value in told.items()]
    size = "message sent (9 bytes)" if direction == "sent" else "message received [9] bytes "
    head = f"{DASHES} 2026-11-22 23:36:{second:09.6f}\nUDP {size}:\n\n".encode()
    return head + b"\r\n".join([*lines, b"", b""]) + b"\n"


def invite(second: float = 0.0, cseq: int = 1, **headers: bytes) -> bytes:
    told = {"Contact": b"<sip:caller@127.0.0.1:9;transport=UDP>", **headers}
    return entry(second, "sent", "INVITE sip:answers@127.0.0.1 SIP/2.0", f"{cseq} INVITE", **told)


def answer(second: float, status: str, cseq: int = 1, tag: bytes = b"p1", **more: bytes) -> bytes:
    told = {"To": TO + b";tag=" + tag, "Contact": b"<sip:answers@127.0.0.1:8>", **more}
    return entry(second, "received", f"SIP/2.0 {status}", f"{cseq} INVITE", **told)


def inside(second: float, method: str, cseq: int = 2, tag: bytes = b"p1") -> bytes:
    return entry(second, "sent", f"{method} x SIP/2.0", f"{cseq} {method}", To=TO + b";tag=" + tag)


def record(*entries: bytes, **options: Any) -> dict[str, Any]:
    cdr: dict[str, Any] = truth_of("a call", list(parse_log(b"".join(entries))), **options)["cdr"]
    return cdr


def test_a_log_is_read_with_its_times_directions_and_headers():
    log = invite(1.000001) + answer(2.5, "200 OK")
    first, second = parse_log(log)
    assert first.sent
    assert not second.sent
    assert second.time_us - first.time_us == 1_499_999
    assert (first.method, first.cseq, first.status) == ("INVITE", 1, 0)
    assert (second.status, second.reason, second.tag("to")) == (200, "OK", "p1")
    assert first.tag("to") == ""
    assert first.header("absent") == b""


def test_a_message_that_is_not_whole_yet_is_left_out():
    log = invite() + answer(1, "200 OK")
    assert len(list(parse_log(log))) == 2
    assert len(list(parse_log(log[:-40]))) == 1
    assert list(parse_log(b"")) == []


def test_headers_are_bytes_and_never_stop_the_reading():
    (message,) = parse_log(invite(From=b'"\xff\xfe" <sip:x@y>;tag=c1'))
    assert message.header("from").startswith(b'"\xff\xfe"')


def test_what_is_not_utf_8_is_expected_as_postgresql_escapes_it():
    assert as_stored("Jürgen \\".encode()) == "Jürgen \\"
    assert as_stored(b"J\xfcrgen \\ '") == "J\\374rgen \\\\ '"


def test_answered():
    cdr = record(invite(), answer(0.1, "180 Ringing"), answer(1, "200 OK"), inside(3, "BYE"))
    assert cdr["termination"] == "C"
    assert cdr["start_time"] == "2026-11-22T23:36:00.000000Z"
    assert cdr["connect_time"] == "2026-11-22T23:36:01.000000Z"
    assert cdr["end_time"] == "2026-11-22T23:36:03.000000Z"
    assert (cdr["from_tag"], cdr["to_tag"]) == ("c1", "p1")
    assert cdr["caller_aor"] == '"Caller" <sip:caller@example.com>'
    assert cdr["callee_aor"] == "<sip:answers@example.com>"
    assert cdr["caller_contact"] == "<sip:caller@127.0.0.1:9>"
    assert cdr["callee_contact"] == "<sip:answers@127.0.0.1:8>"
    assert cdr["caller_internal"] is False


def test_an_answer_that_comes_again_does_not_move_the_connect():
    cdr = record(invite(), answer(1, "200 OK"), answer(1.5, "200 OK"), inside(3, "BYE"))
    assert cdr["connect_time"] == "2026-11-22T23:36:01.000000Z"


def test_an_end_that_nobody_heard_is_unknown():
    cdr = record(invite(), answer(1, "200 OK"), inside(3, "BYE"), end_is_heard=False)
    assert (cdr["termination"], cdr["end_time"]) == ("U", None)


def test_transferred():
    cdr = record(invite(), answer(1, "200 OK"), inside(2, "REFER"), inside(3, "BYE", 3))
    assert cdr["termination"] == "T"


@pytest.mark.parametrize(
    ("status", "termination"), [("486 Busy Here", "F"), ("487 Request Terminated", "A")]
)
def test_refused(status, termination):
    cdr = record(invite(), answer(1, status))
    assert cdr["termination"] == termination
    assert f"{cdr['failure_status']} {cdr['failure_reason']}" == status
    assert (cdr["connect_time"], cdr["to_tag"]) == (None, "p1")
    assert cdr["end_time"] == "2026-11-22T23:36:01.000000Z"


def test_a_tag_that_a_proxy_makes_up_is_free():
    assert record(invite(), answer(1, "404 Not Found", Server=b"proxy"))["to_tag"] is None


@pytest.mark.parametrize("challenge", ["401 Unauthorized", "407 Proxy Authentication Required"])
def test_a_challenge_is_no_refusal(challenge):
    log = [invite(), answer(0.1, challenge), invite(0.2, 2), answer(1, "200 OK", 2)]
    cdr = record(*log, inside(3, "BYE", 3))
    assert cdr["termination"] == "C"
    assert cdr["start_time"] == "2026-11-22T23:36:00.000000Z"
    assert cdr["caller_internal"] is challenge.startswith("407")


@pytest.mark.parametrize("log", [[], [answer(0.1, "407 Proxy Authentication Required")]])
def test_left_ringing_and_not_let_in_are_told_alike(log):
    cdr = record(invite(), *log)
    assert (cdr["termination"], cdr["failure_status"], cdr["end_time"]) == ("F", 408, None)
    assert cdr["caller_internal"] is False


def test_of_two_that_answer_the_longer_talk_is_the_call():
    log = [invite(), answer(1, "200 OK"), answer(1.01, "200 OK", tag=b"p2")]
    cdr = record(*log, inside(1.02, "BYE", 2, b"p2"), inside(4, "BYE", 3, b"p1"))
    assert (cdr["to_tag"], cdr["end_time"]) == ("p1", "2026-11-22T23:36:04.000000Z")


def test_a_dialog_that_the_other_side_has_forgotten_ends_there():
    again = entry(2, "sent", "INVITE x SIP/2.0", "2 INVITE", To=TO + b";tag=p1")
    cdr = record(invite(), answer(1, "200 OK"), again, answer(2.5, "481 Gone", 2))
    assert (cdr["termination"], cdr["failure_status"], cdr["to_tag"]) == ("F", 481, "p1")
    assert cdr["connect_time"] == "2026-11-22T23:36:01.000000Z"
    assert cdr["end_time"] == "2026-11-22T23:36:02.500000Z"


def test_a_caller_who_never_called_is_an_error():
    with pytest.raises(ValueError, match="no INVITE"):
        truth_of("a call", [SipMessage(0, True, "OPTIONS x SIP/2.0", (("cseq", b"1 OPTIONS"),))])


TRUTH = truth_of("a call", list(parse_log(invite() + answer(1, "200 OK") + inside(3, "BYE"))))
WRONG = {
    "from_tag": "x",
    "to_tag": "c1",
    "caller_aor": "<sip:caller@example.com>",
    "callee_aor": "<sip:busy@example.com>",
    "start_time": "2026-11-22T23:36:00.600000Z",
    "connect_time": "2026-11-22T23:36:00.300000Z",
    "end_time": None,
    "termination": "U",
    "failure_status": 408,
    "failure_reason": "Request Timeout",
    "reference": "x;rel=chain",
    "caller_contact": None,
    "callee_contact": "<sip:busy@127.0.0.1:8>",
    "callee_route": "gateway",
    "caller_internal": True,
}


def outcome(*cdrs: dict[str, Any], troubles: tuple[str, ...] = ()) -> Outcome:
    return Outcome(score([TRUTH], cdrs, tolerance_ms=TOLERANCE_MS), troubles, {"a": 3})


def test_a_record_that_agrees_is_right(capsys):
    found = outcome({**TRUTH["cdr"], "end_time": "2026-11-22T23:36:03.190000Z"})
    assert found.exit_code == 0
    report.tell(found.score, found.troubles, found.rows)
    assert "1 of 1 CDRs agree with their callers' logs: none wrong" in capsys.readouterr().out


def test_every_column_is_compared():
    assert {"call_id", *WRONG} == set(TRUTH["cdr"])


@pytest.mark.parametrize("column", WRONG)
def test_a_record_that_is_wrong_in_one_column_is_found_out(column, capsys):
    found = outcome({**TRUTH["cdr"], column: WRONG[column]})
    assert found.exit_code == 1
    (fault,) = found.score.faults()
    assert list(fault.wrong) == [column]
    report.tell(found.score, found.troubles, found.rows)
    told = capsys.readouterr().out
    assert f"{column}: the caller says" in told
    assert "0 of 1 CDRs agree" in told


@pytest.mark.parametrize(
    ("cdrs", "verdict"),
    [
        ([], Verdict.MISSING),
        ([TRUTH["cdr"], TRUTH["cdr"]], Verdict.DUPLICATE),
        ([TRUTH["cdr"], {**TRUTH["cdr"], "call_id": "other"}], Verdict.INVENTED),
    ],
)
def test_records_missing_twice_and_of_nobody_are_found_out(cdrs, verdict):
    found = outcome(*cdrs)
    assert found.exit_code == 1
    assert [fault.verdict for fault in found.score.faults()] == [verdict]


def test_a_caller_that_failed_fails_the_demo():
    assert outcome(TRUTH["cdr"], troubles=("answered: ended with 1",)).exit_code == 1


def test_a_caller_whose_log_tells_nothing_is_a_trouble_and_no_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr("ops.demo_kamailio.play.read_cdrs", lambda _dsn: [])
    (tmp_path / "busy.log").write_bytes(
        invite(0.0) + entry(1.0, "received", "SIP/2.0 ?", "1 INVITE")
    )
    place: Any = SimpleNamespace(dsns={"a": ""})
    phones: Any = SimpleNamespace(message_log=lambda name: tmp_path / f"{name}.log")
    found = _judge(place, {}, phones, ["earlier: a trouble"])
    assert found.exit_code == 1
    assert len(found.troubles) == 1 + len(ALL_CALLS)
    assert "answered: its caller's log tells nothing: it holds no INVITE" in found.troubles
    assert any(line.startswith("busy: its caller's log tells nothing: ") for line in found.troubles)


def test_the_plan_names_scenarios_and_users_that_are_there():
    for name in [call.scenario for call in ALL_CALLS] + [phone.scenario for phone in PHONES]:
        ElementTree.parse(SCENARIOS / f"{name}.xml")
    users = {user for phone in PHONES for user in phone.users}
    assert {call.user for call in ALL_CALLS} - users == {"nobody", DEAD, FORWARDS}
    assert len({call.call_id for call in ALL_CALLS}) == len(ALL_CALLS)
    used = {call.scenario for call in ALL_CALLS} | {phone.scenario for phone in PHONES}
    assert {path.stem for path in SCENARIOS.glob("*.xml")} == used | {"register"}


def test_the_configuration_is_one(tmp_path):
    place = tmp_path / "cdrstream.toml"
    dsns = {"a": "host=127.0.0.1 port=1 dbname=SIPXCDR user=cdr_reader"}
    place.write_text(config_text("127.0.0.1:9", dsns, dsns["a"]))
    assert list(load(place).config.servers) == ["a"]


def test_a_proxy_is_told_all_names_that_its_configuration_needs():
    told = local_config("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
    names = set(re.findall(r'substdef "!(\w+)!', told))
    assert names == {"CSE_OBSERVER", "CSE_DB_URL", "LISTEN", "PEER"}
    assert "postgres://kamailio:@127.0.0.1:3/SIPXCDR" in told


def test_no_text_of_a_message_stands_in_the_sql_as_it_came():
    insert = re.findall(r'mq_add\("cse", "[^"]*", "(.*)"\)', (EXAMPLE / "cse.cfg").read_text())
    assert len(insert) == 2
    for statement in insert:
        left = re.sub(r"cse_text\('\$\([^']*\{s\.encode\.base64\}\)'\)", "", statement)
        values = re.findall(r"\$\w*\([^()]*\)|\$\w+", left)
        ours = r"\$TV\(Sn\)|\$vn\(cse_cseq\)|\$var\(cse_(seq|type|failure|internal|vias)\)"
        assert all(re.fullmatch(ours, value) for value in values), values
