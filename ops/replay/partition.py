"""One partition of a replay: records in, what was told of each call out.

Owns the processor, the calls, questions between calls, and what of it must be kept to go on after
a kill. Refuses to know where records come from and where what was told goes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
from cramjam import lz4

from callstate import events as kinds
from callstate.call import CallState
from callstate.config import ResolutionConfig
from callstate.effects import (
    AnswerReference,
    AskReference,
    DeadLetter,
    EmitCdr,
    HideCall,
)
from callstate.envelope import Record, ReferenceAsked, ReferenceKnown
from callstate.processor import PartitionProcessor
from ops.replay.store import ReplayStore
from stream_app.sink import CallWrite

_PROVES_A_CALL: Final = frozenset((kinds.REQUEST, kinds.SETUP))
_VERSION: Final = 1
_TIMERS_EVERY: Final = 5_000  # calls told

Question = tuple[str, str]
"""Asking call, named call."""


@dataclass(slots=True)
class Told:
    """What came of the records since it was taken last.

    Attributes:
        calls: Newest revision of each call that was told.
        nobody: Calls of which nobody knows who called, with the reason.
        dead_letters: Records that nothing could be made of.
    """

    calls: dict[str, CallWrite] = field(default_factory=dict)
    nobody: dict[str, str] = field(default_factory=dict)
    dead_letters: int = 0


class PartitionReplay:
    """One partition from the plan's first offset to its last."""

    def __init__(
        self,
        config: ResolutionConfig,
        partition: int,
        *,
        explaining: bool = False,
        keep: Collection[str] = (),
        over_max: int = 1_000,
    ) -> None:
        """`keep`: calls never to be forgotten; `over_max`: of those over and held besides."""
        self.partition = partition
        self.store = ReplayStore(keep, over_max)
        self.processor = PartitionProcessor(config, self.store, explaining=explaining)
        self.told = Told()
        self.asked: set[Question] = set()
        self.answered: set[Question] = set()
        self.mail: list[ReferenceAsked | ReferenceKnown] = []  # for any partition
        self.dead_letters = 0
        self.next_offset = 0
        self.records = 0
        self.crc = 0
        self._told_calls = 0

    def feed(self, records: Sequence[Record]) -> None:
        """A batch in offset order."""
        told = self.told
        calls = told.calls
        for effect in self.processor.feed(records):
            kind = type(effect)
            if kind is EmitCdr:
                assert isinstance(effect, EmitCdr)
                calls[effect.cdr.call_id] = CallWrite(effect.provenance, effect.cdr)
            elif isinstance(effect, HideCall) and not effect.unknown:
                calls[effect.call_id] = CallWrite(effect.provenance, None, effect.reason)
            elif isinstance(effect, DeadLetter):
                if effect.call_id and effect.reason.endswith(" only"):
                    told.nobody[effect.call_id] = effect.reason
                else:
                    self.dead_letters += 1
            elif isinstance(effect, AskReference):
                self.asked.add((effect.asker, effect.referenced))
                self.mail.append(ReferenceAsked(effect.referenced, effect.asker))
            elif isinstance(effect, AnswerReference):
                self.mail.append(ReferenceKnown(effect.asker, effect.referenced))

    def note_answers(self, answers: Iterable[ReferenceKnown]) -> None:
        """Answers that are among the records fed."""
        self.answered.update((answer.call_id, answer.referenced) for answer in answers)

    def take_told(self) -> Told:
        """What was told since the last time."""
        told, self.told = self.told, Told()
        self.store.told(told.calls)
        self._told_calls += len(told.calls)
        if self._told_calls >= _TIMERS_EVERY:
            # Timers that were set for a call's longest time outlive it by hours: set anew, only
            # those of the calls that are held remain.
            self._told_calls = 0
            self.processor.restore(None)
        return told

    def open_questions(self) -> set[Question]:
        """Questions that nobody has answered."""
        return self.asked - self.answered

    def open_calls(self) -> Iterator[str]:
        """Calls not told yet of which a request or setup is held."""
        for call_id, state in self.store.items():
            if any(event.type in _PROVES_A_CALL for event in state.events.values()):
                yield call_id

    # -- over a kill ---------------------------------------------------------------------------

    def snapshot(self, *, done: bool = False) -> bytes:
        """Everything but what was told, which must be taken and written first.

        Of a partition that is `done` only what `result_of` asks for: calls that are over are left.
        """
        state = {
            "v": _VERSION,
            "processor": self.processor.snapshot(),
            "calls": [
                [call_id, state.to_wire()]
                for call_id, state in self.store.items()
                if not (done and state.closed)
            ],
            "returning": sorted(self.store.returning),
            "asked": sorted(self.asked),
            "answered": sorted(self.answered),
            "dead_letters": self.dead_letters,
            "records": self.records,
            "crc": self.crc,
        }
        return bytes(lz4.compress_block(orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS)))

    def restore(self, snapshot: bytes, next_offset: int) -> None:
        """Takes up where `snapshot` was made."""
        state: dict[str, Any] = orjson.loads(bytes(lz4.decompress_block(snapshot)))
        assert state["v"] == _VERSION
        for call_id, wire in state["calls"]:
            self.store.put(call_id, CallState.from_wire(wire))
        self.processor.restore(state["processor"])
        self.store.returning = set(state["returning"])
        self.asked = {(asker, referenced) for asker, referenced in state["asked"]}
        self.answered = {(asker, referenced) for asker, referenced in state["answered"]}
        self.dead_letters = state["dead_letters"]
        self.records = state["records"]
        self.crc = state["crc"]
        self.next_offset = next_offset
