"""What is released: the same bytes from the same source, and licences that allow it."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from scripts import licences, release

ROOT = Path(__file__).resolve().parents[2]
EPOCH = "1700000000"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return release.build(ROOT, tmp_path_factory.mktemp("dist"), EPOCH)


def test_the_same_source_gives_the_same_bytes_elsewhere_and_later(
    made: list[Path], tmp_path: Path
) -> None:
    sdist, wheel = sorted(made, key=lambda path: path.suffix)
    assert (sdist.suffix, wheel.suffix) == (".gz", ".whl")
    again = release.rebuilt(sdist, tmp_path, EPOCH)
    assert release.sums(again) == release.sums(made)
    times = {info.date_time for info in zipfile.ZipFile(wheel).infolist()}
    assert times == {(2023, 11, 14, 22, 13, 20)}


def test_the_wheel_has_what_the_program_reads_and_nothing_else(made: list[Path]) -> None:
    (wheel,) = (path for path in made if path.suffix == ".whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "callstate",
        "cdc",
        "ops",
        "stream_app",
    }
    for needed in (
        "ops/dashboard/runbook.md",
        "ops/dashboard/templates/base.html",
        "ops/install/units/service.unit",
        "stream_app/schema/0001_sipxcdr_version_7.sql",
        "stream_app/statements/write_calls.sql",
    ):
        assert needed in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name]


def test_the_sdist_has_sources_alone(made: list[Path]) -> None:
    (sdist,) = (path for path in made if path.suffix == ".gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 2)[1] for name in archive.getnames()}
    assert names == {
        "callstate", "cdc", "stream_app", "ops", "docs", "hatch_build.py", "CHANGELOG.md",
        "pyproject.toml", "README.md", "LICENSE", "PKG-INFO", ".gitignore",
    }  # fmt: skip


def test_a_difference_is_no_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(sdist: Path, to: Path, _epoch: str) -> list[Path]:
        copy = to / sdist.name
        shutil.copy(sdist, copy)
        with copy.open("ab") as file:
            file.write(os.urandom(1))
        return [copy]

    def pretended(_root: Path, to: Path, _epoch: str) -> list[Path]:
        (to / "x.tar.gz").write_bytes(b"x")
        return [to / "x.tar.gz"]

    monkeypatch.setattr(release, "build", pretended)
    monkeypatch.setattr(release, "rebuilt", other)
    with pytest.raises(release.NotReproducible):
        release.release(tmp_path)


def test_every_dependency_may_be_shipped() -> None:
    packages = licences.dependencies()
    assert {"psycopg", "confluent-kafka", "faust-streaming", "rocksdict"} <= set(packages)
    assert list(licences.refused(packages)) == []


@pytest.mark.parametrize(
    ("told", "fine"),
    [
        ("License-Expression: MIT", True),
        ("License-Expression: MPL-2.0 AND (Apache-2.0 OR MIT)", True),
        ("Classifier: License :: OSI Approved :: BSD License", True),
        ("License: ISC License\n  and more words", True),
        ("License-Expression: AGPL-3.0-only", False),
        ("License-Expression: MIT AND GPL-2.0-only", False),
        ("License-Expression: LGPL-3.0-only", False),
        ("Classifier: License :: Other/Proprietary License", False),
        ("Summary: says nothing", False),
    ],
)
def test_what_is_refused(told: str, fine: bool, tmp_path: Path) -> None:
    folder = tmp_path / "some-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: some\nVersion: 1.0\n{told}\n")
    package = Distribution.at(folder)
    assert (not list(licences.refused({"some": package}))) == fine
