"""What a secret looks like when it has to be shown.

Owns redaction, of connection strings and of free text. Refuses to connect, and to bring pydantic
along: what serves and logs needs this and no configuration.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final

HIDDEN: Final = "********"
_SECRET_KEYWORDS: Final = ("password", "sslpassword", "oauth_client_secret", "scram_client_key")
_IN_URI: Final = re.compile(r"(?P<before>\w+://[^\s:/@]*:)[^\s/]+(?=@)")
_IN_PAIRS: Final = re.compile(
    r"(?P<before>\b(?:password|sslpassword|oauth_client_secret|scram_client_key)\s*=\s*)"
    r"(?:'(?:\\.|[^'\\])*'?|(?:\\.|[^\s\\&])+)",
    re.IGNORECASE,
)


def redact_dsn(dsn: str) -> str:
    """The connection string as `key=value` pairs with every password replaced.

    A string that libpq cannot read is not shown at all: nobody can tell where its password is.
    """
    from psycopg import ProgrammingError  # noqa: PLC0415  libpq is slow to load
    from psycopg.conninfo import conninfo_to_dict, make_conninfo  # noqa: PLC0415

    try:
        parts = conninfo_to_dict(dsn)
    except ProgrammingError:
        return HIDDEN
    hidden = {keyword: HIDDEN for keyword in _SECRET_KEYWORDS if parts.get(keyword)}
    return make_conninfo("", **{**parts, **hidden})


def scrub(text: str) -> str:
    """Free text, such as a library's message or a log line, with passwords in it replaced."""
    return _IN_PAIRS.sub(rf"\g<before>{HIDDEN}", _IN_URI.sub(rf"\g<before>{HIDDEN}", text))


def why_no_dsn(dsn: str) -> str | None:
    """What is wrong with a connection string, without quoting it; None if libpq can read it.

    An unknown keyword is named only where it resembles a known one: it may be half a password.
    """
    from psycopg import ProgrammingError  # noqa: PLC0415
    from psycopg.conninfo import conninfo_to_dict  # noqa: PLC0415

    try:
        conninfo_to_dict(dsn)
    except ProgrammingError as error:
        unknown = re.search(r'(?:option|parameter):? "(\w+)"', str(error))
        near = unknown and get_close_matches(unknown[1], _known_keywords(), 1)
        if unknown and near:
            return f"has no option {unknown[1]!r}; did you mean {near[0]!r}?"
        return "cannot be read by libpq"
    return None


def _known_keywords() -> list[str]:
    from psycopg.pq import Conninfo  # noqa: PLC0415

    return [option.keyword.decode() for option in Conninfo.get_defaults()]
