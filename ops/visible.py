"""Text from strangers, made fit for a terminal.

Owns which characters may be shown. SIP headers are written by whoever calls: escape sequences,
bidirectional overrides and invisible characters come out as `<U+202E>`, never as themselves.
"""

from __future__ import annotations

import unicodedata
from typing import Final

# Categories: controls, formats (bidi, zero width), surrogates, private use, unassigned, separators.
_HIDDEN_CATEGORIES: Final = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))


def visible(text: str) -> str:
    """The text with every character that is not seen, or moves others, spelt out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        f"<U+{ord(character):04X}>"
        if unicodedata.category(character) in _HIDDEN_CATEGORIES
        else character
        for character in text
    )


def cut(text: str, columns: int) -> str:
    """The visible text in at most so many columns, with `..` where something was left out."""
    shown = visible(text)
    if columns_of(shown) <= columns:
        return shown
    kept: list[str] = []
    left = columns - 2
    for character in shown:
        left -= columns_of(character)
        if left < 0:
            break
        kept.append(character)
    return "".join(kept) + ".."


def columns_of(text: str) -> int:
    """How many columns of a terminal the text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0
        if unicodedata.combining(character)
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def padded(text: str, columns: int) -> str:
    """The text cut or filled to exactly so many columns."""
    shown = cut(text, columns)
    return shown + " " * (columns - columns_of(shown))


def wrapped(text: str, columns: int, first: str, others: str) -> list[str]:
    """The visible text in lines of at most so many columns, broken at blanks where there are any.

    Args:
        text: Anything.
        columns: Of a line, its beginning included.
        first: What the first line begins with.
        others: What every other line begins with.
    """
    lines: list[str] = []
    line, empty = first, True
    for word in visible(text).split(" "):
        rest = word
        while rest:
            room = columns - columns_of(line) - (0 if empty else 1)
            taken = rest if columns_of(rest) <= room else ""
            if not taken and empty:
                taken = _fitting(rest, room)
            if taken:
                line, empty, rest = line + ("" if empty else " ") + taken, False, rest[len(taken) :]
            if rest:
                lines.append(line)
                line, empty = others, True
    return [*lines, line]


def _fitting(text: str, columns: int) -> str:
    """The longest beginning of the text that takes at most so many columns, one character least."""
    left, count = columns, 0
    for character in text:
        left -= columns_of(character)
        if left < 0:
            break
        count += 1
    return text[: max(1, count)]
