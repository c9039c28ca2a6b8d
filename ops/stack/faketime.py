"""A wrong clock for one server: Debian's libfaketime before its program.

Measured with libfaketime 0.9.10 before PostgreSQL 15:

- Backends are forked and not executed anew, so they inherit the library's start time: an old and
  a new connection show the same offset within 10 us, and a drift counts from the *server's* start.
- The monotonic clock is left alone (`FAKETIME_DONT_FAKE_MONOTONIC`): `pg_sleep`, keepalives and
  `wal_sender_timeout` take their true time. So are the times of files (`NO_FAKE_STAT`).
- A clock that is *ahead* by s delays timers that fire while a backend waits (`statement_timeout`,
  `lock_timeout`) by the same s: libfaketime shows signal handlers the true time during a wait.
- A clock that can be stepped is read from a file at every call: 0.25 us a call become 4.5 us.
  It is an option, because a signal handler that reads the clock then opens a file, which the C
  library does not promise to survive.

Owns the environment of such a server and the file. Refuses to know PostgreSQL.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from ops.stack.cache import cache_folder, locked
from ops.stack.errors import StackError

_LIBRARY: Final = "libfaketime.so.1"
_FOLDERS: Final = ("/usr/lib", "/usr/local/lib", "/lib", "/usr/lib64")
_INSTALL: Final = ("apt-get", "install", "-y", "-q", "--no-install-recommends", "libfaketime")
_SPEC: Final = re.compile(r"(?P<offset>[+-]\d+(?:\.\d+)?)s?(?:\s+x(?P<rate>\d+(?:\.\d+)?))?")


@dataclass(frozen=True, slots=True)
class Clock:
    """A wrong clock: `offset_seconds` ahead when its server starts, then `rate` s a true second."""

    offset_seconds: float
    rate: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `-5.5s` or `+0.7s x1.00005`.

        Raises:
            StackError: It is written otherwise.
        """
        match = _SPEC.fullmatch(text.strip())
        if match is None or (match["rate"] and float(match["rate"]) <= 0):
            raise StackError(
                f"clock {text!r} is not understood", "write it as '-5.5s' or '+0.7s x1.00005'"
            )
        return cls(float(match["offset"]), float(match["rate"] or 1.0))

    def __str__(self) -> str:
        offset = f"{self.offset_seconds:+.6f}s"
        return offset if self.rate == 1.0 else f"{offset} x{self.rate:.9f}"

    def offset_at(self, elapsed_seconds: float) -> float:
        """Seconds ahead of the true clock, so long after the start of the server."""
        return self.offset_seconds + (self.rate - 1.0) * elapsed_seconds


def environment(clock: Clock, step_file: Path | None) -> dict[str, str]:
    """What a program needs in its environment to see `clock`.

    Args:
        clock: The clock.
        step_file: Read the clock from this file at every call; None takes it once, at the start.
    """
    env = {
        "LD_PRELOAD": str(find_library()),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "LC_ALL": "C",  # the library reads its decimal point by the locale
    }
    if step_file is None:
        return {**env, "FAKETIME": str(clock)}
    write_step(step_file, clock)
    return {**env, "FAKETIME_TIMESTAMP_FILE": str(step_file), "FAKETIME_NO_CACHE": "1"}


def write_step(step_file: Path, clock: Clock) -> None:
    """Sets the clock of the programs that read `step_file`; never seen half written."""
    half = step_file.with_name(step_file.name + ".new")
    half.write_text(f"{clock}\n")
    half.chmod(0o644)
    half.replace(step_file)


def find_library() -> Path:
    """The shared object of libfaketime; root gets it installed when it is missing.

    Raises:
        StackError: It is missing and cannot be installed.
    """
    found = _look()
    if found is None and os.geteuid() == 0 and shutil.which(_INSTALL[0]):
        _install()
        found = _look()
    if found is None:
        raise StackError(
            "libfaketime is missing, which gives a server a wrong clock",
            "install it: sudo apt-get install libfaketime",
        )
    return found


def _look() -> Path | None:
    for folder in _FOLDERS:
        for pattern in (f"*/faketime/{_LIBRARY}", f"faketime/{_LIBRARY}"):
            for found in sorted(Path(folder).glob(pattern)):
                return found
    return None


def _install() -> None:
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with locked(cache_folder() / "apt.lock"):
        if _look() is not None:
            return
        for command in (_INSTALL, ("apt-get", "update", "-q"), _INSTALL):
            done = subprocess.run(command, env=env, capture_output=True, check=False)
            if done.returncode == 0 and command == _INSTALL:
                return
