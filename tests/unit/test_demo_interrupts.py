"""Ctrl-C in any moment of a demo ends it, and nothing that it had just started is left."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ops.demo.interrupts import held_back, terminates
from ops.demo_kamailio.phones import Phones, Ports
from ops.demo_kamailio.plan import CALLS
from ops.stack.debian import Sip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_while_something_is_started_comes_when_it_is_written_down(
    number: signal.Signals,
) -> None:
    known = []
    before = signal.signal(number, signal.SIG_DFL)  # `nohup` ignores one of them
    try:
        with terminates(), pytest.raises(KeyboardInterrupt):
            with held_back():
                os.kill(os.getpid(), number)
                with held_back():
                    known.append("inner")
                known.append("outer")
            known.append("behind")
    finally:
        signal.signal(number, before)
    assert known == ["inner", "outer"]


def test_one_at_any_other_time_comes_at_once() -> None:
    with terminates(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("it went on")


def test_handlers_are_given_back_and_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminates():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_caller_that_was_just_started_is_ended_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sipp = tmp_path / "sipp"
    sipp.write_text("#!/bin/sh\nexec sleep 60\n")
    sipp.chmod(0o755)
    started: list[subprocess.Popen[Any]] = []
    really: Callable[..., subprocess.Popen[Any]] = subprocess.Popen

    def start_and_interrupt(*words: Any, **options: Any) -> subprocess.Popen[Any]:
        started.append(really(*words, **options))
        os.kill(os.getpid(), signal.SIGINT)
        return started[-1]

    phones = Phones(Sip(sipp, tmp_path, sipp), tmp_path, {"a": 1, "b": 2}, Ports())
    monkeypatch.setattr(subprocess, "Popen", start_and_interrupt)
    with terminates(), pytest.raises(KeyboardInterrupt):
        phones.call(CALLS[0])
    phones.stop()
    assert [process.poll() for process in started] == [-signal.SIGKILL]
