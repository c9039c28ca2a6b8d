"""Whether a command line is one of `cdrstream`'s, without running it.

Owns the parsing that documents, containers and service units are tested by.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer.main

from ops.cli import app

_COMMAND: Any = typer.main.get_command(app)  # a tenth of a second each time


def parse(arguments: Sequence[str]) -> str:
    """The command's whole name; raises what the command line itself would complain with."""
    command = _COMMAND
    context = command.make_context("cdrstream", list(arguments))
    names = []
    while True:
        rest = [*context._protected_args, *context.args]
        resolve = getattr(command, "resolve_command", None)
        if resolve is None or not rest:
            return " ".join(names)
        name, command, rest = resolve(context, rest)
        names.append(name)
        context = command.make_context(name, rest, parent=context)
