"""The one door: a partition's records in, effects out.

The live stream, replay, the offline command, the simulation and the tests all drive this object and
nothing below it. Same records in the same order, same effects, byte for byte, however they are cut
into batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from callstate.call import CallState
from callstate.config import ResolutionConfig
from callstate.effects import Effect
from callstate.envelope import Record


class CallStore(Protocol):
    """Where the open calls of one partition live: a dict here, a Faust table in the stream app.

    The processor `get`s a call once in a batch, keeps it, changes it, and `put`s it once at the
    end of the batch, so a store may encode on `put` and decode on `get`.
    """

    def get(self, call_id: str) -> CallState | None: ...
    def put(self, call_id: str, state: CallState) -> None: ...
    def delete(self, call_id: str) -> None: ...
    def items(self) -> Iterable[tuple[str, CallState]]: ...


class PartitionProcessor:
    def __init__(self, config: ResolutionConfig, calls: CallStore) -> None: ...
    def feed(self, records: Sequence[Record]) -> list[Effect]: ...
    def finish(self) -> list[Effect]:
        """End of input: every call is final. For files; a live stream never ends."""

    @property
    def watermark_us(self) -> int | None: ...
    def snapshot(self) -> dict[str, Any]:
        """The partition's own state (frontiers, watermark, clocks), JSON-able; calls are in the store."""

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Takes up where `snapshot` was made, and sets the timers of the calls in the store."""
