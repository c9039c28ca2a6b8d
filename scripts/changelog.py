"""The changelog with what the next release will say, for the site.

Owns nothing but that combination: towncrier writes both, and says why where it cannot. With
`--news` it is what the next release will say alone, for `make changelog`.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Final

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED: Final = "Unreleased"


class NewsError(Exception):
    """towncrier does not understand what is in `changes/`; its own words."""


def draft(version: str, root: Path = ROOT) -> str:
    """What `changes/` comes to.

    Raises:
        NewsError: towncrier does not understand a file there.
    """
    told = subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--version", version],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    if told.returncode:
        progress = ("Loading template...", "Finding news fragments...", "Rendering news")
        lines = [line for line in told.stderr.splitlines() if not line.startswith(progress)]
        raise NewsError("\n".join(lines).strip() or f"towncrier ended with {told.returncode}")
    return told.stdout


def page() -> str:
    """The whole changelog, what is to come first."""
    start = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["towncrier"][
        "start_string"
    ]
    head, rest = (ROOT / "CHANGELOG.md").read_text().split(start)
    return f"{head}{draft(UNRELEASED).strip()}\n\n{rest}"


if __name__ == "__main__":
    try:
        print(draft(UNRELEASED) if "--news" in sys.argv[1:] else page())
    except NewsError as error:
        sys.exit(f"changes/: {error}")
