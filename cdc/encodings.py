"""Text of databases that are not UTF-8.

Owns which codec reads which server encoding. Such a server is asked for its bytes as they are, and
they are decoded here with replacement: converted by the server, one byte that has no counterpart
(0x81 in WIN1252) is an error of the walsender that comes again for ever, and no row may stop the
reader. All server encodings keep ASCII as it is, so that plain text takes the same fast way.
"""

from __future__ import annotations

import codecs
from typing import Final

# PostgreSQL manual, "Character Set Support": those whose codec Python names otherwise.
_CODECS: Final = {
    "SQL_ASCII": "utf-8",  # says nothing about its bytes: UTF-8 is the best guess
    "LATIN5": "iso8859-9",
    "LATIN6": "iso8859-10",
    "LATIN7": "iso8859-13",
    "LATIN8": "iso8859-14",
    "LATIN9": "iso8859-15",
    "LATIN10": "iso8859-16",
    "KOI8R": "koi8-r",
    "KOI8U": "koi8-u",
    "EUC_CN": "gb2312",
}


def codec_of(server_encoding: str) -> str | None:
    """Python's codec for a database's encoding; None for UTF-8.

    What Python does not know (EUC_TW, MULE_INTERNAL) is read as UTF-8 with replacement.
    """
    if server_encoding == "UTF8":
        return None
    name = _CODECS.get(server_encoding, server_encoding)
    if name.startswith("WIN") and name[3:].isdigit():
        name = f"cp{name[3:]}"
    try:
        return codecs.lookup(name).name
    except LookupError:
        return "utf-8"
