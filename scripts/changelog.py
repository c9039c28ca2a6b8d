"""The changelog with what the next release will say, for the site.

Owns nothing but that combination: towncrier writes both. `make changelog` shows the news alone.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def draft(version: str) -> str:
    """What `changes/` comes to.

    Raises:
        subprocess.CalledProcessError: towncrier does not understand a file there.
    """
    told = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", version],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return told.stdout


def page() -> str:
    """The whole changelog, what is to come first."""
    start = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"][
        "start_string"
    ]
    head, rest = (ROOT / "CHANGELOG.md").read_text().split(start)
    return f"{head}{draft('Unreleased').strip()}\n\n{rest}"


if __name__ == "__main__":
    print(page())
