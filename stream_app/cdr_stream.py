"""Revisions of CDRs as a stream, for whoever would rather listen than query: topic `sipx.cdrs`.

Owns the record's shape. Key: the Call-ID (of a later use its own name). Message:
`{"v", "call_id", "revision", "cdr": columns | null, "hidden", "rule", "changed", "suspect",
"watermark"}`; `cdr` is null where the call has no record (any more), `hidden` then says why;
`changed` is column to [old, new].

Delivery is at least once, in order within a key but for workers that overlap in a rebalance. The
guard on the listener's side is the sink's: keep the revision with the record, and leave away what
has a lower one. A revision that comes twice says the same twice.
"""

from __future__ import annotations

from typing import Final

import orjson

from callstate.events import format_time
from stream_app.changelog import OutRecord
from stream_app.sink import CallWrite

VERSION: Final = 1


def cdr_record(topic: str, call: CallWrite) -> OutRecord:
    """The record of one revision."""
    why = call.provenance
    message = {
        "v": VERSION,
        "call_id": call.call_id,
        "revision": why.revision,
        "cdr": None if call.cdr is None else call.cdr.columns(),
        "hidden": call.hidden_reason,
        "rule": why.rule,
        "changed": dict(why.changed),
        "suspect": why.suspect,
        "watermark": None if why.watermark_us is None else format_time(why.watermark_us),
    }
    return OutRecord(topic, call.call_id.encode("utf-8", "replace"), orjson.dumps(message))
