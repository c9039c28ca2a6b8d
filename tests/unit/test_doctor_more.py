"""Doctor's judgements of the dashboard, of the processes that run, and of records at random."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from pydantic import SecretStr

from callstate.call import CallState
from callstate.config import ResolutionConfig
from callstate.recall import Told, call_from_provenance
from ops.config_sections import Dashboard
from ops.dashboard.address import hash_password
from ops.doctor import clocks, dashboard, processes, records
from ops.doctor.checks import Check, Finding, Outcome, run_all, worst
from ops.doctor.clocks import Measured
from ops.doctor.dashboard import Answer
from tests.calls import beat, events, processor, row
from tests.self_signed import self_signed

PASSWORD = SecretStr(hash_password("correct horse"))
OPEN = Dashboard()
SHUT = Dashboard(password_hash=PASSWORD)


def outcome(findings: list[Finding]) -> Outcome:
    return worst(finding.outcome for finding in findings)


# -- the address -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "expected", "said"),
    [
        (OPEN, Outcome.OK, "this machine alone"),
        (Dashboard(listen="0.0.0.0:8470"), Outcome.FAIL, "nobody has to log in"),
        (
            Dashboard(listen="10.0.0.7:8470", password_hash=PASSWORD),
            Outcome.FAIL,
            "without encryption",
        ),
        (
            Dashboard(listen="10.0.0.7:8470", password_hash=PASSWORD, tls_by_proxy=True),
            Outcome.OK,
            "others need a login",
        ),
        (
            Dashboard(listen="0.0.0.0:8470", password_hash=PASSWORD, tls_by_proxy=True),
            Outcome.WARN,
            "dashboard.hosts is empty",
        ),
        (
            Dashboard(listen="10.0.0.7:8470", trusted_proxy_header="X-User"),
            Outcome.WARN,
            "may write X-User itself",
        ),
        (Dashboard(password_hash=SecretStr("hunter2")), Outcome.FAIL, "is no hash of ours"),
    ],
)
def test_an_address_is_open_to_nobody_it_should_not_be(
    section: Dashboard, expected: Outcome, said: str
) -> None:
    (result,) = run_all([Check("dashboard", "address", lambda: dashboard.address(section))])
    assert result.outcome is expected
    assert said in result.findings[0].found


@pytest.mark.parametrize(
    ("section", "told", "expected", "said"),
    [
        (OPEN, None, Outcome.OK, "does not run here"),
        (OPEN, Answer(200, is_ours=True), Outcome.OK, "answers"),
        (OPEN, Answer(401, is_ours=True), Outcome.WARN, "another configuration"),
        (OPEN, Answer(200, is_ours=False), Outcome.FAIL, "another program"),
        (SHUT, Answer(401, is_ours=True), Outcome.OK, "asks for a login"),
        (SHUT, Answer(200, is_ours=True), Outcome.FAIL, "without a login"),
    ],
)
def test_pages_that_are_open_though_a_login_is_configured_are_found(
    section: Dashboard, told: Answer | None, expected: Outcome, said: str
) -> None:
    findings = dashboard.answer(section, told)
    assert outcome(findings) is expected
    finding = findings[0]
    assert said in f"{finding.found} {finding.advice}"


@pytest.fixture
def stranger() -> Iterator[int]:
    """The port of a web server that is none of ours."""

    class Quiet(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_who_answers_is_asked(stranger: int) -> None:
    section = Dashboard(listen=f"127.0.0.1:{stranger}")
    assert dashboard.ask(section) == Answer(200, is_ours=False)


def test_nobody_answers_where_nobody_listens() -> None:
    with socket.socket() as shut:
        shut.bind(("127.0.0.1", 0))  # and never listened on
        assert dashboard.ask(Dashboard(listen=f"127.0.0.1:{shut.getsockname()[1]}")) is None


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that is good for thirty days, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


def with_pair(made: Path, key: Path) -> list[Finding]:
    return dashboard.certificate(Dashboard(tls_certificate=str(made), tls_key=str(key)))


def test_a_certificate_says_how_long_it_is_good(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (finding,) = with_pair(*pair)
    assert finding.outcome is Outcome.OK
    assert "good for 30 days" in finding.found
    monkeypatch.setattr(dashboard, "CERTIFICATE_DAYS_WARN", 60.0)
    assert outcome(with_pair(*pair)) is Outcome.WARN
    assert dashboard.certificate(OPEN)[0].outcome is Outcome.OK


def test_a_pair_that_is_none_is_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    made, key = pair
    other = tmp_path / "other.pem"
    subprocess.run(
        (
            *("openssl", "genpkey", "-algorithm", "ec", "-out", other),
            *("-pkeyopt", "ec_paramgen_curve:P-256"),
        ),
        check=True,
        capture_output=True,
    )
    other.chmod(0o600)
    for cert, its_key in ((made, other), (made, tmp_path / "none.pem"), (key, key)):
        assert outcome(with_pair(cert, its_key)) is Outcome.FAIL


def test_a_key_that_all_may_read_is_told(pair: tuple[Path, Path], tmp_path: Path) -> None:
    made, key = pair
    loose = tmp_path / "key.pem"
    loose.write_bytes(key.read_bytes())
    os.chmod(loose, 0o644)  # noqa: PTH101  whatever the umask
    (finding,) = with_pair(made, loose)
    assert finding.outcome is Outcome.WARN
    assert finding.advice == f"chmod 600 {loose}"


# -- processes ---------------------------------------------------------------------------------

HERE = version("cdrstream")


def worker(partitions: int, **more: object) -> dict[str, object]:
    return {"version": HERE, "partitions": {str(n): {} for n in range(partitions)}, **more}


@pytest.mark.parametrize(
    ("told", "expected", "said"),
    [
        ({}, Outcome.OK, "0 process(es)"),
        ({"worker:a": worker(4), "worker:b": worker(4)}, Outcome.OK, "2 process(es)"),
        ({"worker:a": worker(5), "worker:b": worker(3)}, Outcome.WARN, "a has 5, b has 3"),
        ({"worker:a": worker(8, rebalanced_lately=3)}, Outcome.OK, "1 process(es)"),
        ({"worker:a": worker(8, rebalanced_lately=7)}, Outcome.WARN, "anew 7 times"),
        ({"reader:x": {"version": "0.0.1"}}, Outcome.WARN, "0.0.1: reader:x"),
        ({"reader:x": {}}, Outcome.WARN, "an older one: reader:x"),
    ],
)
def test_processes_that_do_not_fit_together_are_named(
    told: dict[str, dict[str, object]], expected: Outcome, said: str
) -> None:
    findings = processes.judge(told)
    assert outcome(findings) is expected
    assert said in findings[0].found


# -- clocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("off", "expected"), [(0.1, Outcome.OK), (3.0, Outcome.WARN), (-3.0, Outcome.WARN)]
)
def test_this_machines_clock_is_looked_at_too(off: float, expected: Outcome) -> None:
    own, reference = Measured(100.0 + off, 0.0), Measured(100.0, 0.01)
    (finding,) = clocks.judge_own(own, reference, warning_seconds=0.5)
    assert finding.outcome is expected
    assert f"{off:+.3f} s" in finding.found


def test_an_error_as_wide_as_the_lateness_allowed_is_told() -> None:
    (finding,) = clocks.judge(
        Measured(0.0, 4.0),
        Measured(0.0, 2.0),
        warning_seconds=10.0,
        allowed_lateness_seconds=5.0,
        corrected=True,
    )
    assert finding.outcome is Outcome.WARN
    assert "no better than the lateness allowed" in finding.found


def test_a_clock_that_is_surely_wrong_fails_however_badly_it_is_measured() -> None:
    (finding,) = clocks.judge(
        Measured(60.0, 4.0),
        Measured(0.0, 2.0),
        warning_seconds=0.5,
        allowed_lateness_seconds=5.0,
        corrected=False,
    )
    assert finding.outcome is Outcome.FAIL


# -- records -----------------------------------------------------------------------------------


def told_once(**config: float) -> tuple[Told, ResolutionConfig]:
    """A call as the sink has it: over two servers, one of them 0.8 s ahead."""
    door = processor("s", "t", **config)
    rows = events(
        row("R", 0),
        row("R", 0.9, server="t", branch_id="z2", via_count=2, clock=None),
        row("S", 2),
        row("E", 9, cseq=2),
    )
    door.feed([*rows, beat("s", 100), beat("t", 100)])
    (told,) = [effect for effect in door.finish() if hasattr(effect, "cdr")]
    return Told(told.provenance.to_json(), told.cdr.columns()), door.config


def test_a_record_is_what_its_events_make() -> None:
    told, rules = told_once()
    state = call_from_provenance("call", told)
    (finding,) = records.judge([records.again("call", state, replace(rules, servers=()))])
    assert finding.outcome is Outcome.OK
    assert "1 CDRs at random" in finding.found


def test_a_record_that_somebody_wrote_into_is_found() -> None:
    told, rules = told_once()
    assert told.cdr is not None
    changed = Told(told.provenance, {**told.cdr, "callee_aor": "<sip:somebody@else>"})
    state = call_from_provenance("call", changed)
    (finding,) = records.judge([records.again("call", state, replace(rules, servers=()))])
    assert finding.outcome is Outcome.WARN
    assert "1 of 1 CDRs at random are not" in finding.found
    assert finding.found.endswith(": call")


def test_no_record_is_no_fault() -> None:
    assert records.judge([])[0].outcome is Outcome.OK
    assert records.judge([], unread=2)[0].outcome is Outcome.WARN, "nothing was compared"
    assert records.again("call", CallState(), ResolutionConfig()) == ("call", None, None)
