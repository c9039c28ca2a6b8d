"""docs/migration.md tells what becomes of every old setting, and its commands are real."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from ops.legacy_config import BARE, KNOWN
from tests.command_lines import parse

PAGE = Path(__file__).resolve().parents[2] / "docs" / "migration.md"


def test_every_old_setting_is_told_and_no_other():
    text = PAGE.read_text()
    table = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([A-Z_]+)`", " ".join(table))) == sorted(KNOWN)
    assert all(f"`{name}`" in text for name in BARE)


def test_its_commands_are_commands():
    commands = re.findall(r"`(?:[A-Z_]+=\S+ )?(cdrstream [^`]+)`", PAGE.read_text())
    assert len(commands) > 5
    for command in commands:
        words = shlex.split(command.replace(" ...", " config show"))
        assert parse(words[1:])
