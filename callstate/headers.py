"""Reading From, To and Contact header values as strangers send them.

Owns the cutting of addresses out of header values (RFC 3261 sections 20.10, 20.20, 20.39 and 25.1),
tolerant of everything: unbalanced quotes, a missing `>`, `; tag=`, `;TAG=`, display names that hold
`;tag=`. Every function is total (text in, text out, no exception) and linear in the length.
"""

from __future__ import annotations

import re

# The display name: up to the first `<` that is outside quoted strings. Each alternative starts with
# a character that no other can start with, so there is nothing to backtrack into.
_DISPLAY_NAME = re.compile(r'[^"<\\]*(?:(?:"(?:[^"\\]|\\.)*"|\\.)[^"<\\]*)*', re.DOTALL)
_TAG = re.compile(r";\s*tag\s*(?:[=;]|\Z)", re.IGNORECASE)
_MUSIC_ON_HOLD = "~~mh~"


def _open_bracket(header: str) -> int:
    """Index of the `<` that opens the address, or -1."""
    bracket = header.find("<")
    if bracket < 0 or ('"' not in header and "\\" not in header):
        return bracket
    match = _DISPLAY_NAME.match(header)
    end = match.end() if match else 0
    if end < len(header) and header[end] == "<":
        return end
    return header.rfind("<")  # quotes do not balance: the last bracket is the likeliest


def _before_tag(header: str, start: int) -> str:
    """The header up to the tag parameter that begins behind `start`, whole where there is none."""
    tag = _TAG.search(header, start)
    if tag is None:
        return header
    end = tag.start()  # backwards by hand: a pattern that takes blanks along is quadratic in them
    while end and (header[end - 1] == ";" or header[end - 1].isspace()):
        end -= 1
    return header[:end]


def address_of_record(header: str) -> str:
    """The header up to the tag parameter behind the address, the display name kept.

    A missing `>` is supplied. A header without a tag is returned whole.
    """
    bracket = _open_bracket(header)
    if bracket >= 0:
        close = header.find(">", bracket)
        if close < 0:
            return _before_tag(header, bracket).rstrip() + ">"
        if close + 1 == len(header) or header.startswith(";tag=", close + 1):
            return header[: close + 1]
        return _before_tag(header, close)
    return _before_tag(header, header.rfind('"') + 1)


def contact_without_parameters(contact: str) -> str:
    """A Contact value without URI parameters and header parameters, the display name kept."""
    bracket = _open_bracket(contact)
    if bracket < 0:
        start = contact.rfind('"') + 1
        semicolon = contact.find(";", start)
        return contact if semicolon < 0 else contact[:semicolon]
    close = contact.find(">", bracket)
    uri_end = len(contact) if close < 0 else close
    semicolon = contact.find(";", bracket, uri_end)
    return contact[: uri_end if semicolon < 0 else semicolon] + ">"


def user_part(header: str) -> str:
    """The user of the address's URI, `''` where it has none."""
    start = _open_bracket(header) + 1
    if start == 0:
        start = header.rfind('"') + 1
    at = header.find("@", start)
    if at < 0:
        return ""
    return header[header.find(":", start, at) + 1 : at]


def is_music_on_hold(callee: str) -> bool:
    """Whether the called user is the music-on-hold service."""
    return _MUSIC_ON_HOLD in callee and _MUSIC_ON_HOLD in user_part(callee)
