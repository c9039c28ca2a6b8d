"""What is released: the same bytes from the same source, and licences that allow it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import pytest

from scripts import audit, changelog, licences, release

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


def test_what_is_to_come_is_told() -> None:
    """Towncrier understands every file, and each is a sentence."""
    page = changelog.page()
    assert page.startswith("# Changelog\n\n## Unreleased")
    files = [path for path in (ROOT / "changes").iterdir() if path.name != "README.md"]
    for path in files:
        assert re.fullmatch(r"\+[a-z0-9-]+\.(added|changed|fixed|security)\.md", path.name)
        text = path.read_text()
        assert text.endswith(".\n")
        assert f"- {text}" in page, path.name


def test_what_is_wrong_with_a_fragment_is_said(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "CHANGELOG.md", "changes/README.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    news = tmp_path / "changes/+new.added.md"
    news.write_text("Something new.\n")
    assert "- Something new." in changelog.draft("1.0", tmp_path)
    news.rename(tmp_path / "changes/+new.wrong.md")
    with pytest.raises(changelog.NewsError, match=re.escape("+new.wrong.md")) as caught:
        changelog.draft("1.0", tmp_path)
    assert "Loading template" not in str(caught.value)


PIP_AUDIT = """#!{python}
import json, sys
service = [a.partition("=")[2] for a in sys.argv if a.startswith("--vulnerability-service=")][0]
(wanted,) = [a.partition("=")[2] for a in sys.argv if a.startswith("--requirement=")]
told = {answers}[service]
if told is None:
    sys.exit("ERROR: connection refused")
found = [line.split("==", 1) for line in open(wanted) if "==" in line and line[0] != " "]
none = {{"skip_reason": "not on PyPI"}} if told == "a mirror" else {{}}
print(json.dumps({{"dependencies": [
    {{"name": name, **(none or {{"version": rest.split()[0], "vulns": told.get(name, [])}})}}
    for name, rest in found
]}}))
"""
BAD = {"id": "PYSEC-1", "fix_versions": ["9.9"], "description": "lets\nstrangers in"}


@pytest.mark.parametrize(
    ("answers", "strict", "code", "says"),
    [
        ({"pypi": {}}, True, 0, "0 known vulnerabilities (pypi)"),
        ({"pypi": {"aiohttp": [BAD]}}, False, 1, "PYSEC-1: mended in 9.9. lets strangers in"),
        ({"pypi": None, "osv": {"psycopg": [BAD]}}, False, 1, "1 known vulnerabilities (osv)"),
        ({"pypi": None, "osv": None}, False, 0, "NOT AUDITED"),
        ({"pypi": "a mirror", "osv": None}, False, 0, "not on PyPI"),
        ({"pypi": None, "osv": None}, True, 2, "NOT AUDITED"),
    ],
    ids=["clean", "found", "by the other service", "no data", "a mirror", "no data, strict"],
)
def test_an_audit_without_data_is_no_all_clear(
    answers: object,
    strict: bool,
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tool = tmp_path / "pip-audit"
    tool.write_text(PIP_AUDIT.format(python=sys.executable, answers=answers))
    tool.chmod(0o755)
    assert audit.main([*(["--strict"] if strict else []), str(tool)]) == code
    told = capsys.readouterr()
    assert says in told.out + told.err
    if "known" in says or code == 1:
        assert re.search(r"^[3-9]\d dependencies", told.out, re.MULTILINE), told.out
