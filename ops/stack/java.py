"""Java and Maven as the machine has them.

Owns finding them and saying in one line what is missing; and asking Maven for files of Maven
Central. Refuses to install: that is `scripts/setup.sh`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ops.stack.cache import cache_folder, locked
from ops.stack.errors import StackError

JAVA_MIN: Final = 17
_ADVICE_JAVA: Final = "install one: sudo apt-get install openjdk-17-jre-headless (or set JAVA_HOME)"
_ADVICE_MAVEN: Final = "install it: sudo apt-get install maven"
_MAVEN_SECONDS: Final = 900.0
_VERSION: Final = re.compile(r'version "(\d+)(?:\.(\d+))?')


def java() -> Path:
    """The Java launcher, 17 or newer: `JAVA_HOME`'s, else the one in PATH.

    Raises:
        StackError: There is none, or it is too old.
    """
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else None
    found = found or shutil.which("java")
    if found is None:
        raise StackError("there is no Java, which Apache Kafka needs", _ADVICE_JAVA)
    try:
        answer = subprocess.run(
            [found, "-version"], capture_output=True, text=True, timeout=60, check=False
        ).stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        raise StackError(f"{found} cannot be run: {error}", _ADVICE_JAVA) from error
    match = _VERSION.search(answer)
    if match is None:
        raise StackError(f"{found} -version says nothing that looks like Java", _ADVICE_JAVA)
    major = int(match[2] or 0) if match[1] == "1" else int(match[1])  # 1.8 is Java 8
    if major < JAVA_MIN:
        raise StackError(
            f"{found} is Java {major}; Apache Kafka 4 needs {JAVA_MIN} or newer", _ADVICE_JAVA
        )
    return Path(found).absolute()


def maven() -> str:
    """Maven's launcher.

    Raises:
        StackError: There is none.
    """
    found = shutil.which("mvn")
    if found is None:
        raise StackError("there is no Maven (mvn), which fetches what is missing", _ADVICE_MAVEN)
    return found


def run_maven(*arguments: str, cwd: Path) -> None:
    """Runs Maven on its own repository in the cache, one run at a time.

    Raises:
        StackError: No Maven, no Java, or it failed; with its first error line.
    """
    launcher = maven()
    java()
    repository = cache_folder() / "maven"
    repository.mkdir(exist_ok=True)
    command = [launcher, "-B", "-q", f"-Dmaven.repo.local={repository}", *arguments]
    with locked(cache_folder() / "maven.lock"):
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_MAVEN_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StackError(
                f"Maven got no answer within {_MAVEN_SECONDS:.0f} s",
                "check the network, or the mirror in ~/.m2/settings.xml, and try again",
            ) from error
    if done.returncode != 0:
        raise StackError(
            f"Maven failed: {_first_error(done.stdout + done.stderr)}",
            "check the network, or the mirror in ~/.m2/settings.xml, and try again",
        )


def _first_error(output: str) -> str:
    for line in output.splitlines():
        if "ERROR" in line:
            return line.partition("ERROR")[2].lstrip("] ").strip() or line
    return output.strip().splitlines()[-1] if output.strip() else "it says nothing"
