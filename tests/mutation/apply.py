"""A pytest plugin (`-p tests.mutation.apply`): imports `callstate` with the mutant of `MUTANT`."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from tests.mutation.mutants import MUTANTS


class _Mutated(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: Path, source: str) -> None:
        super().__init__(name, str(path))
        self._source = source

    def get_code(self, fullname: str) -> object:  # type: ignore[override]
        return compile(self._source, self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str, path: Path, source: str) -> None:
        self._name, self._path, self._source = name, path, source

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Mutated(fullname, self._path, self._source)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


def _install(name: str) -> None:
    mutant = next(one for one in MUTANTS if one.name == name)
    path = mutant.module()
    module = f"callstate.{path.stem}"
    if module in sys.modules:
        raise RuntimeError(f"{module} is imported already: the mutant would not be tried")
    source = path.read_text().replace(mutant.text, mutant.instead)
    sys.meta_path.insert(0, _Finder(module, path, source))


if os.environ.get("MUTANT"):
    _install(os.environ["MUTANT"])
