"""The pages of docs/: their commands are commands, their links lead somewhere, nothing is stale."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from scripts import cli_reference, site_nav
from tests.command_lines import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RUN = ("cdrstream", "docker")


def shell_lines(text: str) -> Iterator[str]:
    for block in re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        yield from block.replace("\\\n", " ").splitlines()


def commands(line: str) -> Iterator[list[str]]:
    """The simple commands of a line, without settings before them and redirections behind."""
    words = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    words.whitespace_split = True
    found: list[str] = []
    for word in [*words, ";"]:
        if set(word) <= set("&|;<>"):
            while found and re.fullmatch(r"[A-Z_]+=.*", found[0]):
                del found[0]
            yield found
            found = []
        else:
            found.append(word)


def ours(words: list[str]) -> list[str] | None:
    """The arguments of cdrstream in a command, run here or in a container."""
    if words[:1] == ["cdrstream"]:
        return words[1:]
    if words[:3] == ["docker", "compose", "run"]:
        words = [word for word in words[3:] if word not in ("--rm", "-T", "--no-deps")]
        return words[1:]
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_of_a_page_is_one(page):
    for line in shell_lines(page.read_text()):
        for words in commands(line):
            arguments = ours(words)
            if arguments is not None:
                arguments = ["2024-01-01" if word == "..." else word for word in arguments]
                if arguments[-1:] == ["2"]:  # of `2> file`
                    del arguments[-1]
                assert parse(arguments) is not None, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:", target):
            path = page.parent / target.partition("#")[0]
            assert path.exists(), target


def test_the_command_reference_is_of_today():
    assert cli_reference.PAGE.read_text() == cli_reference.page(), (
        "run: .venv/bin/python -m scripts.cli_reference"
    )


def test_the_site_has_every_page_once():
    told = YAML(typ="safe").load((ROOT / "mkdocs.yml").read_text())
    config = site_nav.on_config({"docs_dir": str(ROOT / "docs"), "nav": told["nav"]})
    named = site_nav._pages(config["nav"])
    assert named == {str(page.relative_to(ROOT / "docs")) for page in PAGES[1:]}


@pytest.mark.parametrize("picture", sorted((ROOT / "docs/img").glob("*.svg")), ids=lambda p: p.name)
def test_pictures_say_what_they_show_and_do_nothing_else(picture):
    root = ElementTree.parse(picture).getroot()
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert {"title", "desc"} <= names
    assert names <= {"svg", "title", "desc", "rect", "path", "g", "text", "circle"}


def test_what_getting_started_does_with_files_works(tmp_path):
    """Typed as it stands there."""
    page = (ROOT / "docs/getting-started.md").read_text()
    script = "\n".join(re.findall(r"<!-- run: files -->\n```sh\n(.*?)```", page, re.DOTALL))
    assert script.count("cdrstream") == 3
    told = subprocess.run(
        ["sh", "-eu", "-c", script],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    assert '"call_id"' in told.stdout.splitlines()[0]
    assert len(told.stdout.splitlines()) > 5, "the explanation"
