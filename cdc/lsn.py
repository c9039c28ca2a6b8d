"""Log sequence numbers: positions in a server's write-ahead log.

Owns their two forms: an integer inside the program, PostgreSQL's text (`16/B374D848`) outside.
"""

from __future__ import annotations


def lsn_text(lsn: int) -> str:
    """The form that PostgreSQL prints and takes."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """The position that `text` names.

    Raises:
        ValueError: Where `text` is no LSN.
    """
    high, slash, low = text.partition("/")
    if not slash or len(high) > 8 or len(low) > 8:
        raise ValueError(f"not an LSN: {text[:40]!r}")
    return int(high, 16) << 32 | int(low, 16)
