"""Hook of the site: pages that nav does not name go behind it, decisions under a heading.

Owns nothing but that order, so that a new page needs no second place to be written down in.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Completes nav with what lies in docs/."""
    folder = Path(config["docs_dir"])
    named = _pages(config["nav"])
    left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.md"))
    left = [page for page in left if page not in named]
    more = [page for page in left if not page.startswith("decisions/")]
    inside = next(part["Inside"] for part in config["nav"] if "Inside" in part)
    inside.extend(more)
    inside.append({"Decisions": [page for page in left if page.startswith("decisions/")]})
    return config


def _pages(nav: Any) -> set[str]:
    if isinstance(nav, str):
        return {nav}
    parts = nav.values() if isinstance(nav, dict) else nav
    return set().union(*(_pages(part) for part in parts))
