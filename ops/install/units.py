"""The command `install-units`: systemd units of readers, workers and pages.

Owns which units there are and what differs between them; what they share is `units/service.unit`.
Refuses to call systemctl: what is installed, enabled and started is the operator's to say.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Final

import typer

from ops.errors import OpsError, UsageError
from ops.invocation import Invocation

_TEMPLATE: Final = Path(__file__).with_name("units") / "service.unit"
_CONFIG: Final = Path("/etc/cdrstream/cdrstream.toml")
_HIDDEN: Final = ("/home/", "/root/", "/run/user/", "/tmp/", "/var/tmp/")  # noqa: S108  compared


@dataclass(frozen=True, slots=True)
class Unit:
    """One file.

    Attributes:
        name: Of the file; `@` before the dot where it has instances.
        command: Of `cdrstream`.
        description: For people.
    """

    name: str
    command: str
    description: str


UNITS: Final = (
    Unit("cdrstream-reader.service", "reader", "cdrstream readers of all configured servers"),
    Unit("cdrstream-reader@.service", "reader --server %i", "cdrstream reader of server %i"),
    Unit("cdrstream-worker@.service", "worker", "cdrstream worker %i"),
    Unit("cdrstream-dashboard.service", "dashboard", "cdrstream pages"),
)


def run(
    invocation: Invocation,
    to: Path | None,
    *,
    also_print: bool,
    user: str,
    program: str | None,
) -> None:
    """Prints the units, or writes them into a folder.

    Raises:
        UsageError: A program or an account that units cannot have.
        OpsError: The folder cannot be written.
    """
    if not re.fullmatch(r"[a-z_][a-z0-9_-]{0,30}", user):
        raise UsageError(f"--user {user!r}: no name of an account")
    path = _program(program)
    config = invocation.config_file
    texts = {unit.name: text(unit, path, user, config) for unit in UNITS}
    if to is None or also_print:
        for name, content in texts.items():
            typer.echo(f"# {'-' * 20} {name}\n{content}")
    if to is None:
        return
    for name, content in texts.items():
        try:
            (to / name).write_text(content, encoding="utf-8")
        except OSError as error:
            raise OpsError(
                f"{to / name}: {error.strerror}", "run it as root, or give another folder by --to"
            ) from error
        typer.echo(f"wrote {to / name}", err=True)
    for line in _advice(user):
        typer.echo(line, err=True)


def text(unit: Unit, program: str, user: str, config: Path | None) -> str:
    """The content of one unit's file."""
    stem = unit.name.removesuffix(".service")
    family = stem.rstrip("@")
    state = f"{family}-%i" if stem.endswith("@") else stem
    own = dict.fromkeys((family, state))  # of the role, and then of the instance
    return Template(_TEMPLATE.read_text("utf-8")).substitute(
        name=unit.name,
        description=unit.description,
        command=unit.command,
        program=_quoted(program),
        config=_quoted(str(_CONFIG if config is None else config.absolute())),
        environment="\n".join(f"EnvironmentFile=-/etc/cdrstream/{name}.env" for name in own),
        state=state,
        user=user,
    )


def _program(given: str | None) -> str:
    beside = Path(sys.executable).with_name("cdrstream")
    found = given or (str(beside) if beside.exists() else shutil.which("cdrstream"))
    if found is None:
        raise UsageError("cdrstream is not installed as a program", "give its path by --program")
    path = Path(found).absolute()
    if not os.access(path, os.X_OK) or path.is_dir():
        raise UsageError(f"--program {path}: no program", "give the path of cdrstream")
    if str(path).startswith(_HIDDEN) or re.search(r"[\s$%\"'\\]", str(path)):
        raise UsageError(
            f"--program {path}: the units' sandbox does not see it there",
            "install it into /opt/cdrstream, say: python3 -m venv /opt/cdrstream and its pip",
        )
    return str(path)


def _quoted(value: str) -> str:
    """As a value in a unit; `%` would begin a specifier."""
    return value.replace("%", "%%")


def _advice(user: str) -> Iterator[str]:
    yield "next:"
    yield f"  useradd --system --home-dir /var/lib/cdrstream --shell /usr/sbin/nologin {user}"
    yield "  systemctl daemon-reload"
    yield "  systemctl enable --now cdrstream-reader cdrstream-worker@1 cdrstream-worker@2"
