"""A demo as a user starts it, and whether anything of it is left over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def demo(*arguments: str, env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """`python -m ARGUMENTS`, ended by Ctrl-C if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=120)


def processes_naming(text: str) -> list[str]:
    """Command lines of all processes, but our own, that hold a text."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                raw = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                line = raw.decode(errors="replace")
            except OSError:
                continue
            if text in line:
                found.append(line)
    return found
