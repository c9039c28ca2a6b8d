"""The traffic folders of `tests/data`, unpacked once a run."""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def traffic_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of `tests/data` by name, its files unpacked."""
    unpacked: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in unpacked:
            place = tmp_path_factory.mktemp(name)
            for packed in sorted((DATA / name).glob("*.xz")):
                (place / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
            unpacked[name] = place
        return unpacked[name]

    return folder
