"""Real calls through two Kamailios: every CDR agrees with its caller's log, nothing left over."""

from __future__ import annotations

import re
import signal

import pytest

from ops.demo_kamailio.plan import ALL_CALLS
from ops.stack.debian import find_sip
from tests.demo_process import demo, processes_naming

COMMAND = "ops.demo_kamailio"


@pytest.fixture(scope="module", autouse=True)
def _programs() -> None:
    """Fetched before the clock of a test runs."""
    find_sip()


@pytest.mark.timeout(900)
def test_every_cdr_agrees_with_its_callers_log(tmp_path):
    with demo(COMMAND, env={"TMPDIR": str(tmp_path)}) as process:
        output, _ = process.communicate(timeout=800)
    assert process.returncode == 0, output
    assert f"{len(ALL_CALLS)} of {len(ALL_CALLS)} CDRs agree with their callers' logs" in output
    assert "KILLED proxy b" in output
    assert [
        call.name for call in ALL_CALLS if not re.search(rf"right +{call.name}\n", output)
    ] == []
    assert not processes_naming(str(tmp_path))
    assert not list(tmp_path.glob("cdrstream-*"))


@pytest.mark.timeout(900)
def test_ctrl_c_in_the_midst_of_calls_stops_everything(tmp_path):
    with demo(COMMAND, env={"TMPDIR": str(tmp_path)}) as process:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if "callers call" in line:
                break
        assert processes_naming(str(tmp_path)), told
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=200)
    assert process.returncode == 130, told + rest
    assert not processes_naming(str(tmp_path))
    assert not list(tmp_path.glob("cdrstream-*"))
