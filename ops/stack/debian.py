"""Programs of Debian that tests and demos need, without installing them: Chromium, Kamailio, ...

Owns where they are looked for, and their download into the cache where the machine has none: apt
resolves and fetches, `dpkg-deb` unpacks into a folder, nothing on the machine is changed. That
needs no root, so that whoever runs the tests can.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ops.stack.cache import cache_folder, fetched
from ops.stack.errors import StackError

_SECONDS: Final = 900
_FONTS: Final = "fonts-dejavu-core"
_FAMILIES: Final = (
    *(("system-ui", "DejaVu Sans"), ("sans-serif", "DejaVu Sans")),
    *(("serif", "DejaVu Serif"), ("monospace", "DejaVu Sans Mono")),
)


@dataclass(frozen=True, slots=True)
class Found:
    """A program and what it needs in its environment."""

    path: Path
    env: Mapping[str, str] = field(default_factory=dict)


def find_chromium() -> Found:
    """A Chromium: `CDRSTREAM_CHROMIUM`, the machine's own, else Debian's in the cache.

    Raises:
        StackError: There is none and none can be fetched; names what to install.
    """
    told = os.environ.get("CDRSTREAM_CHROMIUM")
    if told:
        return Found(Path(told))
    own = shutil.which("chromium") or shutil.which("chromium-browser")
    if own:
        return Found(Path(own))
    root = _unpacked("chromium", ("chromium", _FONTS), with_needed=True)
    libraries = sorted((root / "usr" / "lib").glob("*-linux-gnu"))
    folders = [root / "usr/lib/chromium", *libraries, *(each / "pulseaudio" for each in libraries)]
    return Found(
        root / "usr/lib/chromium/chromium",
        {
            "LD_LIBRARY_PATH": os.pathsep.join(str(each) for each in folders),
            "FONTCONFIG_FILE": str(_fonts(root)),
        },
    )


def find_promtool() -> Found:
    """Prometheus' own checker of rules and metrics.

    Raises:
        StackError: There is none and none can be fetched.
    """
    own = shutil.which("promtool")
    if own:
        return Found(Path(own))
    return Found(_unpacked("prometheus", ("prometheus",), with_needed=False) / "usr/bin/promtool")


@dataclass(frozen=True, slots=True)
class Sip:
    """A SIP proxy and a SIP phone.

    Attributes:
        kamailio: The proxy.
        modules: Folder of its modules, that for PostgreSQL among them.
        sipp: The phone.
        libraries: Folders of libraries that the loader does not know.
    """

    kamailio: Path
    modules: Path
    sipp: Path
    libraries: tuple[Path, ...] = ()

    @property
    def env(self) -> dict[str, str]:
        """What both need in their environment."""
        folders = os.pathsep.join(str(each) for each in self.libraries)
        return {"LD_LIBRARY_PATH": folders} if folders else {}


def find_sip() -> Sip:
    """Kamailio with its PostgreSQL module, and SIPp: the machine's own, else Debian's in the cache.

    Raises:
        StackError: One is missing and cannot be fetched; names what to install.
    """
    kamailio, sipp = shutil.which("kamailio"), shutil.which("sipp")
    for own in sorted(Path("/usr").glob(_KAMAILIO_MODULES)):
        if kamailio and sipp and (own / "db_postgres.so").is_file():
            return Sip(Path(kamailio), own, Path(sipp))
    root = _unpacked("kamailio", _SIP, with_needed=True)
    modules = next(iter(sorted((root / "usr").glob(_KAMAILIO_MODULES))))
    libraries = sorted((*root.glob("usr/lib/*-linux-gnu"), *root.glob("lib/*-linux-gnu")))
    return Sip(
        root / "usr/sbin/kamailio", modules, root / "usr/bin/sipp", (modules.parent, *libraries)
    )


_SIP: Final = ("kamailio", "kamailio-postgres-modules", "sip-tester")
_KAMAILIO_MODULES: Final = "lib*/*-linux-gnu/kamailio/modules"


def _unpacked(name: str, packages: Sequence[str], *, with_needed: bool) -> Path:
    if shutil.which("apt-get") is None:
        raise StackError(f"there is no {name} on this machine", f"install {', '.join(packages)}")

    def fetch(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as scratch:
            for deb in _downloaded(packages, Path(scratch), with_needed=with_needed):
                _run(["dpkg-deb", "-x", str(deb), str(folder)], cwd=folder)

    try:
        return fetched(cache_folder() / f"debian-{name}", fetch)
    except (OSError, subprocess.SubprocessError) as error:
        raise StackError(
            f"there is no {name} on this machine, and it cannot be fetched: {_words(error)}",
            f"install it: sudo apt-get install {' '.join(packages)}",
        ) from error


def _downloaded(packages: Sequence[str], folder: Path, *, with_needed: bool) -> list[Path]:
    """The packages' files, with all that the machine lacks of what they need.

    Apt's lists may be older than the archive, and only root may update those of the machine: a
    second try reads lists of its own.
    """
    try:
        return _download(packages, folder, (), with_needed=with_needed)
    except subprocess.CalledProcessError:
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        options = ("-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}")
        _run(["apt-get", *options, *_PRIVATE, "update", "-q"], cwd=folder)
        return _download(packages, folder, options, with_needed=with_needed)


_PRIVATE: Final = ("-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root")


def _download(
    packages: Sequence[str], folder: Path, options: Sequence[str], *, with_needed: bool
) -> list[Path]:
    wanted = list(packages)
    if with_needed:
        told = _run(
            ["apt-get", *options, *_PRIVATE, "install", "-s", "--no-install-recommends", *packages],
            cwd=folder,
        )
        wanted = sorted({*re.findall(r"^Inst (\S+)", told, re.MULTILINE), *packages})
    _run(["apt-get", *options, *_PRIVATE, "download", "-q", *wanted], cwd=folder)
    return sorted(folder.glob("*.deb"))


def _run(command: Sequence[str], cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        capture_output=True,
        text=True,
        check=True,
        timeout=_SECONDS,
    )
    return done.stdout


def _fonts(root: Path) -> Path:
    """A font configuration that knows the machine's fonts and those that came along."""
    place = root / "fonts.conf"
    if not place.is_file():
        half = Path(tempfile.mkstemp(dir=root)[1])
        half.write_text(
            '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd"><fontconfig>'
            f"<dir>/usr/share/fonts</dir><dir>{root}/usr/share/fonts</dir>"
            "<cachedir prefix='xdg'>fontconfig</cachedir>"
            + "".join(
                f"<alias><family>{family}</family><prefer><family>{font}</family></prefer></alias>"
                for family, font in _FAMILIES
            )
            + "</fontconfig>\n"
        )
        half.chmod(0o644)
        half.replace(place)
    return place


def _words(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = str(error.stderr).strip().splitlines()
        return lines[-1] if lines else str(error)
    return str(error)
