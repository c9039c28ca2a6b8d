"""Revisions of CDRs as a stream, for whoever would rather listen than query: topic `sipx.cdrs`.

Owns the record's shape and the number that orders a call's records. Key: the Call-ID (of a later
use its own name). Message:
`{"v", "call_id", "revision", "cdr": columns | null, "hidden", "rule", "changed", "suspect",
"watermark"}`; `cdr` is null where the call has no record (any more), `hidden` then says why;
`changed` is column to [old, new].

Delivery is at least once, in order within a key but for workers that overlap in a rebalance. The
guard on the listener's side: keep the revision with the record, and leave away what has a lower
one. A revision that comes twice says the same twice.

In the database a revision counts what is known of a call. A replay that is applied may say
something else of the same, and one that is taken back brings what rests on less; so what is told
begins with the number of the newest such swap: `swap * REVISIONS_A_SWAP + revision`. That only ever
rises, whatever the table goes through. Where no replay was ever applied it is the revision itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

from callstate.events import format_time
from stream_app.changelog import OutRecord
from stream_app.sink import CallWrite

VERSION: Final = 1


REVISIONS_A_SWAP: Final = 1_000_000
"""More than a call ever has. Swaps are numbered by seconds: 2^53, which JSON bears, is far away."""


def told_revision(swap: int, revision: int) -> int:
    """The number that a listener compares."""
    return swap * REVISIONS_A_SWAP + min(revision, REVISIONS_A_SWAP - 1)


def cdr_record(topic: str, call: CallWrite, swap: int = 0) -> OutRecord:
    """The record of one revision; `swap` is what `Written.swap` says of its batch."""
    why = call.provenance
    return revision_record(
        topic,
        call.call_id,
        told_revision(swap, why.revision),
        None if call.cdr is None else call.cdr.columns(),
        hidden=call.hidden_reason,
        rule=why.rule,
        changed=why.changed,
        suspect=why.suspect,
        watermark_us=why.watermark_us,
    )


def revision_record(
    topic: str,
    call_id: str,
    revision: int,
    cdr: Mapping[str, Any] | None,
    *,
    hidden: str | None,
    rule: str | None,
    changed: Mapping[str, Any],
    suspect: bool,
    watermark_us: int | None,
) -> OutRecord:
    """The same of columns; `revision` is a `told_revision`."""
    message = {
        "v": VERSION,
        "call_id": call_id,
        "revision": revision,
        "cdr": cdr,
        "hidden": hidden,
        "rule": rule,
        "changed": dict(changed),
        "suspect": suspect,
        "watermark": None if watermark_us is None else format_time(watermark_us),
    }
    return OutRecord(topic, call_id.encode("utf-8", "replace"), orjson.dumps(message))
