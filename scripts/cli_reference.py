"""Writes docs/cli.md from the command line itself: `make docs` does, and a test compares.

Owns the page's form. Every word of it is the commands' own help.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from ops.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "cli.md"
COMMON = ("--config", "--set", "--debug", "--help")
_HEAD = """# Command line

Made from the commands' own help by `scripts/cli_reference.py`.

Every command takes `--config FILE` (default: `cdrstream.toml` here, then in `/etc/cdrstream`),
`--set PATH=VALUE` to override one setting, `--debug` for the trace of a failure, and `--help`.
Results go to standard output, logs and progress to standard error.

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 130 interrupted; services end with 0 on
SIGTERM.
"""


def page() -> str:
    """The whole page."""
    root = typer.main.get_command(app)
    return "\n".join([_HEAD, *_commands(root, "cdrstream")])


def _commands(group: Any, path: str) -> Iterator[str]:
    for name in sorted(group.commands):
        command = group.commands[name]
        if command.hidden:
            continue
        whole = f"{path} {name}"
        commands = getattr(command, "commands", None)
        own = [each for each in command.params if not set(each.opts) & set(COMMON)]
        if commands is None or own:
            yield from _command(command, whole, own)
        if commands is not None:
            yield from _commands(command, whole)


def _command(command: Any, path: str, own: list[Any]) -> Iterator[str]:
    context = command.make_context(path, [], resilient_parsing=True)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    yield f"## `{path.removeprefix('cdrstream ')}`\n"
    yield f"```text\n{usage}\n```\n"
    yield f"{(command.help or '').strip()}\n"
    records = [record for each in own if (record := each.get_help_record(context)) is not None]
    if not records:
        return
    yield "| | |\n|---|---|"
    for name, meaning in records:
        yield f"| `{_cell(name)}` | {_cell(meaning)} |"
    yield ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
