"""Build hook: the wheel with a compiled domain, where `CDRSTREAM_COMPILED=1` asks for it.

The same modules of `callstate`, compiled by mypyc, are put beside their sources into the wheel, and
Python takes them first. Without the variable the wheel is pure and runs everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PLAIN = {"__init__.py", "plain_rows.py"}  # msgspec makes classes while it runs


class CompiledCore(BuildHookInterface[Any]):
    """Compiles `callstate` into the wheel."""

    def dependencies(self) -> list[str]:
        """What compiling needs, only where it is asked for."""
        return ["mypy[mypyc]>=2.4", "msgspec>=0.22", "setuptools>=80"] if _wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the compiled modules to the wheel, and says that it fits this platform only."""
        if version == "editable" or not _wanted():
            return
        self._folder = tempfile.mkdtemp(prefix="cdrstream-compiled-")
        compiled = _compile(Path(self.root) / "callstate", Path(self._folder))
        build_data["force_include"].update({str(path): name for path, name in compiled.items()})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Leaves nothing behind."""
        folder = getattr(self, "_folder", None)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _wanted() -> bool:
    return os.environ.get("CDRSTREAM_COMPILED", "") not in ("", "0")


def _compile(package: Path, folder: Path) -> dict[Path, str]:
    """Compiles a copy of the package; returns each extension module and its name in the wheel."""
    copy = shutil.copytree(package, folder / package.name, ignore=shutil.ignore_patterns("*.pyc"))
    modules = sorted(str(path.relative_to(folder)) for path in copy.glob("*.py"))
    told = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypyc",
            *(module for module in modules if Path(module).name not in _PLAIN),
        ],
        cwd=folder,
        env={**os.environ, "MYPYC_OPT_LEVEL": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if told.returncode:
        sys.stderr.buffer.write(told.stdout)
        raise SystemExit("callstate was not compiled; build without CDRSTREAM_COMPILED")
    built = [*folder.glob("*.so"), *copy.glob("*.so"), *folder.glob("*.pyd"), *copy.glob("*.pyd")]
    return {path: str(path.relative_to(folder)) for path in built}
