"""The runbook as a page, so that a problem's link works without the network.

Owns a reading of the little Markdown that `docs/runbook.md` is written in: headings, paragraphs,
lists, code. Everything is escaped; there is no markup in it but what is made here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from markupsafe import Markup, escape

_PLACES: Final = (  # installed beside us, or in the tree
    Path(__file__).parent / "runbook.md",
    Path(__file__).resolve().parents[2] / "docs" / "runbook.md",
)
_CODE: Final = re.compile(r"`([^`]+)`")
_STRONG: Final = re.compile(r"\*\*([^*]+)\*\*")


def runbook() -> Markup:
    """The page's body; empty where the file is not installed."""
    for place in _PLACES:
        if place.is_file():
            return rendered(place.read_text(encoding="utf-8"))
    return Markup("")


def rendered(text: str) -> Markup:
    """Markdown to HTML."""
    html: list[str] = []
    paragraph: list[str] = []
    listing: list[str] = []
    fenced: list[str] | None = None

    def flush() -> None:
        if paragraph:
            html.append(f"<p>{_inline(' '.join(paragraph))}</p>")
            paragraph.clear()
        if listing:
            html.append("<ul>" + "".join(f"<li>{_inline(one)}</li>" for one in listing) + "</ul>")
            listing.clear()

    for line in text.splitlines():
        if line.startswith("```"):
            if fenced is None:
                flush()
                fenced = []
            else:
                html.append(f"<pre><code>{escape(chr(10).join(fenced))}</code></pre>")
                fenced = None
        elif fenced is not None:
            fenced.append(line)
        elif line.startswith("#"):
            flush()
            level, title = line.count("#", 0, 3), line.lstrip("# ")
            html.append(f'<h{level} id="{escape(_anchor(title))}">{_inline(title)}</h{level}>')
        elif line.startswith("- "):
            if paragraph:
                flush()
            listing.append(line[2:])
        elif line.startswith("  ") and listing:
            listing[-1] += " " + line.strip()
        elif not line.strip():
            flush()
        else:
            if listing:
                flush()
            paragraph.append(line)
    flush()
    return Markup("\n".join(html))  # noqa: S704  every part above is escaped


def _anchor(title: str) -> str:
    """As GitHub makes them, so that the same link works there."""
    return re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


def _inline(text: str) -> str:
    escaped = str(escape(text))
    return _STRONG.sub(r"<strong>\1</strong>", _CODE.sub(r"<code>\1</code>", escaped))
