"""What each page shows: the picture, the boards and a call, put into templates.

Owns which page needs what, and the sentences of pages that have nothing to show. Refuses to ask:
a page view waits for nobody but a search.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ops.dashboard import drawing
from ops.dashboard.boards import QUALITY_SECONDS, Boards
from ops.dashboard.serving import Serving
from ops.dashboard.text import filters
from ops.explain import MISSING, OUTCOMES
from ops.monitor import Sampler
from ops.monitor.facts import Answer

FOLDER: Final = Path(__file__).parent
PAGES: Final = (
    ("overview", "/", "Overview"),
    ("calls", "/calls", "Calls"),
    ("quality", "/quality", "Quality"),
    ("gaps", "/gaps", "Gaps and dead letters"),
    ("replays", "/replays", "Replays"),
)
LIVE: Final = ("overview", "quality", "gaps", "replays")


class Pages:
    """Renders pages and their live parts."""

    def __init__(self, serving: Serving, sampler: Sampler, boards: Boards) -> None:
        self._sampler = sampler
        self._boards = boards
        self._environment = Environment(
            loader=FileSystemLoader(FOLDER / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= filters(serving.privacy)
        self._environment.globals |= {
            "pages": PAGES,
            "version": version("cdrstream"),
            "outcomes": OUTCOMES,
            "missing_words": MISSING,
            "privacy": serving.privacy,
            "login": serving.door.password_hash is not None,
        }

    def page(self, name: str, **more: Any) -> str:
        """A whole page."""
        template = self._environment.get_template(f"{name}.html")
        return template.render(page=name, live=name in LIVE, **{**self._needs(name), **more})

    def fragment(self, name: str) -> dict[str, Any]:
        """The live part of a page, as an event carries it."""
        needs = self._needs(name)
        html = self._environment.get_template(f"_{name}.html").render(page=name, **needs)
        told: dict[str, Any] = {"html": html, "at": time.time()}
        if name == "overview":
            told["point"] = _point(needs["picture"])
        return told

    def _needs(self, name: str) -> dict[str, Any]:
        picture = self._sampler.picture()
        needs: dict[str, Any] = {"picture": picture}
        self._boards.looked_at(name)
        if name == "overview":
            needs["clocks"] = drawing.clocks(picture["servers"], picture["skew_warning_seconds"])
            needs["lanes"] = drawing.lanes(
                picture["partitions"], picture["floor_seconds"], picture["at"]
            )
        elif name == "quality":
            needs["quality"] = _answer(self._boards.quality.answer, QUALITY_SECONDS)
            needs["day"] = self._boards.day.answer.value
            needs["day_error"] = self._boards.day.answer.error
        elif name == "gaps":
            needs["letters"] = _answer(self._boards.letters.answer, QUALITY_SECONDS)
        elif name == "replays":
            needs["replays"] = _answer(self._boards.replays.answer, QUALITY_SECONDS)
        return needs


def _answer(answer: Answer[Any], every_seconds: float) -> dict[str, Any]:
    age = None if answer.at is None else max(0.0, time.time() - answer.at)
    return {
        "value": answer.value,
        "at": answer.at,
        "age": age,
        "stale": bool(answer.error) or (age is not None and age > 3 * every_seconds),
        "error": answer.error,
    }


def _point(picture: dict[str, Any]) -> dict[str, Any]:
    """What the charts append: as a row of `History`."""
    fresh = picture["sink"]["answers"]
    return {
        "at": picture["at"],
        "visible_lag": picture["visible"]["lag"] if fresh else None,
        "servers": {
            one["name"]: {
                "offset": one["offset"] if one["state"] == "streaming" else None,
                "error": one["error"] if one["state"] == "streaming" else None,
            }
            for one in picture["servers"]
        },
    }
