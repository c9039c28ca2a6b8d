"""A stack ends with its owner, however that one ends, and runs as any user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.stack.accounts import Account, can_enter
from tests.demo_process import processes_naming

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).parents[2]
OWNER = """
import os, sys
from ops.stack import Stack
with Stack(1, clocks={"a": "-5.5s"}) as stack:
    with stack["a"].connect() as conn:
        conn.execute("SELECT pg_sleep(0)")
        print(stack.folder, stack["a"].pid, stack.broker.pid, flush=True)
        sys.stdin.read()
print("ended", flush=True)
"""


def until(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def owner(*prefix: str, python: str = sys.executable, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, python, "-c", OWNER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_an_owner(number) -> None:
    process = owner()
    assert process.stdout is not None
    folder = process.stdout.readline().split()[0]
    assert len(processes_naming(folder)) >= 4  # two servers, two keepers
    process.send_signal(number)
    process.communicate(timeout=120)
    assert process.returncode != 0
    until(lambda: not processes_naming(folder), "all processes end")
    until(lambda: not Path(folder).exists(), "the folder goes")


def test_an_owner_killed_while_its_stack_starts() -> None:
    process = owner()
    mine = f" owner={process.pid} "
    until(lambda: bool(processes_naming(mine)), "the first keeper")
    process.kill()
    process.communicate(timeout=120)
    until(lambda: not processes_naming(mine), "all keepers end")


def ordinary_user() -> tuple[list[str], str]:
    """How to become a user that is not root, and a Python that he can run."""
    if os.geteuid() != 0:
        return [], sys.executable
    entry = pwd.getpwnam("nobody")
    account = Account("nobody", entry.pw_uid, entry.pw_gid)
    become = ["setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups"]
    wanted = f"{sys.version_info.major}.{sys.version_info.minor}"
    for each in (sys.executable, f"/usr/bin/python{wanted}", f"/usr/local/bin/python{wanted}"):
        if Path(each).exists() and can_enter(Path(each).resolve().parent, account):
            return become, each
    pytest.fail(f"no Python {wanted} that `nobody` may run; `make setup` prefers the system's")


def copy_code(place: Path) -> None:
    """What a stack is made of, where every user can read it, though the clone may be root's."""
    for package in ("ops", "callstate"):
        shutil.copytree(ROOT / package, place / package)
    site = Path(sysconfig.get_path("purelib"))
    for pattern in ("psycopg*", "confluent_kafka*", "typing_extensions.py"):
        for each in site.glob(pattern):
            if each.is_dir():
                shutil.copytree(each, place / each.name)
            else:
                shutil.copy(each, place)


def test_as_an_ordinary_user() -> None:
    become, python = ordinary_user()
    place = Path(tempfile.mkdtemp(prefix="cdrstream-test-", dir="/var/tmp"))
    place.chmod(0o755)
    try:
        copy_code(place)
        process = subprocess.run(
            [*become, python, "-c", OWNER],
            cwd=place,
            env={
                **{name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"},
                "HOME": os.environ["HOME"] if not become else "/nonexistent",
                "PYTHONPATH": str(place),
                "PYTHONDONTWRITEBYTECODE": "1",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
    finally:
        shutil.rmtree(place)
    assert process.returncode == 0, process.stderr
    folder, *_, last = process.stdout.split()
    assert last == "ended"
    assert not processes_naming(folder)
    assert not Path(folder).exists()
