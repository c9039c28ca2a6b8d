"""What a dead letter looks like: the original bytes with the reason in the headers.

Owns the record's shape. Refuses to know who found it and who produces it.
"""

from __future__ import annotations

from typing import Final

import orjson

from callstate.effects import DeadLetter
from stream_app.changelog import OutRecord

REASON_HEADER: Final = "reason"
SERVER_HEADER: Final = "server"
SOURCE_HEADER: Final = "source"


def dead_letter(topic: str, letter: DeadLetter, *, key: bytes | None, source: str) -> OutRecord:
    """The record of a dead letter.

    Args:
        topic: The topic of dead letters.
        letter: What could not be used; `raw` may be the original bytes, or anything JSON-able.
        key: Key of the original record, so that letters of one call stay together.
        source: `topic:partition` (and `:offset` where it is known) that it was found in.
    """
    return OutRecord(
        topic,
        letter.call_id.encode("utf-8", "replace") or key,
        _bytes_of(letter.raw),
        headers=[
            (REASON_HEADER, letter.reason.encode("utf-8", "replace")),
            (SERVER_HEADER, letter.server.encode("utf-8", "replace")),
            (SOURCE_HEADER, source.encode()),
        ],
    )


def _bytes_of(raw: object) -> bytes:
    if isinstance(raw, bytes):
        return raw
    try:
        return orjson.dumps(raw, default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        return repr(raw).encode("utf-8", "replace")
