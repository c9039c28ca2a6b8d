"""SIPp's processes: phones that wait for calls, and callers that make one call each.

Owns their command lines, ports and logs. Refuses to know proxies but as addresses.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.demo.interrupts import held_back
from ops.demo_kamailio.plan import (
    DEAD,
    FORWARDS,
    HALF_DEAD,
    NOWHERE,
    PHONES,
    SPREAD,
    Phone,
    PlannedCall,
)
from ops.demo_kamailio.proxy import EXAMPLE
from ops.errors import OpsError
from ops.stack import ports
from ops.stack.debian import Sip
from ops.stack.processes import KeptProcess, Program

SCENARIOS: Final = EXAMPLE / "scenarios"
_PATIENCE_SECONDS: Final = 20  # of a caller, for its whole call
_CUT_SECONDS: Final = 5  # of one that is left ringing
_REGISTER_SECONDS: Final = 30
_POLL_SECONDS: Final = 0.05


class Ports:
    """Loopback ports that are free for UDP, each given once."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def pick(self) -> int:
        """A port.

        Raises:
            StackError: None is free.
        """
        while True:
            port = ports.pick(self._taken)
            self._taken.add(port)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                try:
                    probe.bind((ports.HOST, port))
                except OSError:
                    continue
                return port


@dataclass(slots=True)
class _Caller:
    call: PlannedCall
    process: subprocess.Popen[bytes]
    errors: Path


class Phones:
    """All phones of the demo; everything of them is gone after `stop`."""

    def __init__(self, sip: Sip, folder: Path, proxies: Mapping[str, int], free: Ports) -> None:
        self._sip = sip
        self._folder = folder
        self._proxies = proxies
        self._free = free
        self._env = {**os.environ, **sip.env, "TZ": "UTC", "TERM": "dumb"}
        self._waiting: list[KeptProcess] = []
        self._registered: list[tuple[Phone, int]] = []
        self._callers: list[_Caller] = []
        self._started: list[subprocess.Popen[bytes]] = []
        # takes what is sent to it and never answers
        self._nowhere = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._nowhere.bind((ports.HOST, 0))

    def start(self, phones: Sequence[Phone]) -> None:
        """Starts phones that wait for calls."""
        for number, phone in enumerate(phones):
            port, name = self._free.pick(), f"phone-{number}-{phone.scenario}"
            words = ("-key", "phone", phone.users[0])
            program = Program(
                argv=(*self._command(phone.scenario, port, name, phone.seconds), *words),
                env=self._env,
                cwd=self._folder,
                log=self._folder / f"{name}.log",
            )
            with held_back():
                self._waiting.append(KeptProcess(program))
            self._registered.append((phone, port))

    def register(self, proxy: str) -> None:
        """Tells a proxy where its users' phones are.

        Raises:
            OpsError: It does not take it.
        """
        lines = [
            f"{user};{port};{user}"
            for phone, port in self._registered
            if proxy in phone.proxies
            for user in phone.users
        ]
        nowhere = self._port_of(NOWHERE)
        lines += [f"{DEAD};{nowhere};{DEAD}", f"{HALF_DEAD};{nowhere};{HALF_DEAD}"]
        lines.append(f"{FORWARDS};{self._proxies[proxy]};{PHONES[0].users[0]}")
        if proxy == "a":
            lines += [f"{user};{self._proxies['b']};busy" for user in SPREAD]
        name = f"register-{proxy}"
        table = self._folder / f"{name}.csv"
        table.write_text("\n".join(["SEQUENTIAL", *lines]) + "\n")
        command = [*self._command("register", self._free.pick(), name, 0), "-inf", str(table)]
        command += ["-m", str(len(lines)), "-r", "50", "-timeout", str(_REGISTER_SECONDS)]
        command += ["-timeout_error", f"{ports.HOST}:{self._proxies[proxy]}"]
        if self._run(name, command).wait(2 * _REGISTER_SECONDS):
            raise OpsError(
                f"proxy {proxy} does not register phones", f"see {name}.err in {self._folder}"
            )

    def call(self, planned: PlannedCall) -> None:
        """Starts a caller; returns at once."""
        words: dict[str, str | bytes] = {
            "caller": planned.caller,
            "extra": planned.extra,
            **planned.keys,
        }
        if planned.other:
            words["other_ip"] = ports.HOST
            words["other_port"] = str(self._port_of(planned.other))
        command: list[str | bytes] = [
            *self._command(planned.scenario, self._free.pick(), planned.name, planned.seconds),
            *("-s", planned.user, "-m", "1", "-cid_str", planned.call_id),
            *("-timeout", str(_CUT_SECONDS if planned.is_cut else _PATIENCE_SECONDS)),
            "-timeout_error",
        ]
        for key, value in words.items():
            command += ["-key", key]
            command.append(value)
        if planned.password:
            command += ["-au", "member1", "-ap", planned.password]
        command.append(f"{ports.HOST}:{self._proxies[planned.proxy]}")
        process = self._run(planned.name, command)
        self._callers.append(_Caller(planned, process, self._folder / f"{planned.name}.err"))

    def wait(self) -> list[str]:
        """Waits for all callers; what went wrong with them, one line each."""
        troubles = []
        deadline = time.monotonic() + 2 * _PATIENCE_SECONDS
        for caller in self._callers:
            while caller.process.poll() is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
            code = caller.process.poll()
            if code is None:
                caller.process.kill()
                caller.process.wait()
            if code != 0 and not caller.call.is_cut:
                troubles.append(f"{caller.call.name}: {_first_error(caller.errors, code)}")
        self._callers.clear()
        troubles += [
            f"a phone ended by itself: {phone.last_words()}"
            for phone in self._waiting
            if not phone.alive
        ]
        return troubles

    def message_log(self, name: str) -> Path:
        """Where a caller tells what it sent and received."""
        return self._folder / f"{name}.messages"

    def stop(self) -> None:
        """Ends all of them."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()
        self._callers.clear()
        for phone in self._waiting:
            phone.kill()
        self._waiting.clear()
        self._nowhere.close()

    def _run(self, name: str, command: Sequence[str | bytes]) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("wb") as log, held_back():
            self._started.append(
                subprocess.Popen(
                    command,
                    cwd=self._folder,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        return self._started[-1]

    def _port_of(self, other: str) -> int:
        if other == NOWHERE:
            return int(self._nowhere.getsockname()[1])
        return self._proxies[other]

    def _command(self, scenario: str, port: int, name: str, seconds: float) -> list[str]:
        return [
            *(str(self._sip.sipp), "-sf", str(SCENARIOS / f"{scenario}.xml"), "-nostdin"),
            *("-i", ports.HOST, "-p", str(port), "-ci", ports.HOST, "-cp", str(self._free.pick())),
            *("-d", str(round(seconds * 1_000)), "-trace_msg", "-trace_err"),
            *("-message_file", str(self.message_log(name))),
            *("-error_file", str(self._folder / f"{name}.err")),
        ]


def _first_error(errors: Path, code: int | None) -> str:
    what = "did not end" if code is None else f"ended with {code}"
    if not errors.exists():
        return what
    lines = errors.read_text(errors="replace").splitlines()
    return f"{what}: {' '.join(lines[1:2])[:200]}"
