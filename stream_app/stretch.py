"""What has come of a partition's records since its last commit.

Owns the way from effects to what is written: the calls' last words, gaps, and the records for
dead letters, references and shared exchanges. Refuses to know when it is cut and who writes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from callstate.effects import (
    AnswerReference,
    AskReference,
    DeadLetter,
    Effect,
    EmitCdr,
    HideCall,
    ShareExchange,
)
from callstate.envelope import (
    EXCHANGE,
    KIND_HEADER,
    REFERENCE_ASKED,
    REFERENCE_KNOWN,
    Gap,
    ReferenceAsked,
    ReferenceKnown,
    exchange_message,
    reference_message,
)
from callstate.exchanges import Exchange
from stream_app.changelog import Headers, OutRecord
from stream_app.dead_letters import dead_letter
from stream_app.effect_log import log_effect
from stream_app.metrics import count_effect
from stream_app.records import KafkaRecord
from stream_app.reused import NAMES_MAX, begun_again, is_another, knowing, names_of
from stream_app.settings import WorkerSettings
from stream_app.sink import CallWrite


@dataclass(slots=True)
class Stretch:
    """What one partition will have committed next.

    Attributes:
        calls: By name, what each was told as last.
        gaps: Each once.
        side_records: For other topics than the changelog.
        batches: Topic and records that it is of, in the order in which they were fed.
        tokens: What their fetcher wants back.
        recalled: Calls that were looked up for it, encoded as they were found.
        records: How many it is of.
    """

    settings: WorkerSettings
    partition: int
    calls: dict[str, CallWrite] = field(default_factory=dict)
    gaps: dict[Gap, None] = field(default_factory=dict)
    side_records: list[OutRecord] = field(default_factory=list)
    batches: list[tuple[str, Sequence[KafkaRecord]]] = field(default_factory=list)
    tokens: list[Any] = field(default_factory=list)
    recalled: dict[str, bytes] = field(default_factory=dict)
    records: int = 0

    def again(self) -> Stretch:
        """The same batches, of which nothing has come yet."""
        return Stretch(
            self.settings,
            self.partition,
            batches=self.batches,
            tokens=self.tokens,
            recalled=self.recalled,
            records=self.records,
        )

    def note(self, effects: Iterable[Effect], source: str) -> None:
        """Takes what has come of records; `source` says which, for dead letters."""
        settings = self.settings
        for effect in effects:
            count_effect(effect)
            if isinstance(effect, EmitCdr):
                self._keep(CallWrite(effect.provenance, effect.cdr))
            elif isinstance(effect, HideCall):
                self._keep(CallWrite(effect.provenance, None, effect.reason))
            elif isinstance(effect, DeadLetter):
                self.set_aside(effect, None, source)
            elif isinstance(effect, AskReference):
                self.side_records.append(
                    _reference(settings, ReferenceAsked(effect.referenced, effect.asker))
                )
            elif isinstance(effect, AnswerReference):
                self.side_records.append(
                    _reference(settings, ReferenceKnown(effect.asker, effect.referenced))
                )
            elif isinstance(effect, ShareExchange):
                self.side_records.extend(self._shared(effect.exchange))
            else:
                log_effect(effect, self.partition)

    def set_aside(self, letter: DeadLetter, key: bytes | None, source: str) -> None:
        """A record that nothing can be made of, to the topic of dead letters."""
        topic = self.settings.dead_letter_topic
        self.side_records.append(dead_letter(topic, letter, key=key, source=source))

    def _keep(self, call: CallWrite) -> None:
        """To be written; a Call-ID that began again within the stretch keeps both its calls."""
        calls = self.calls
        before = calls.get(call.call_id)
        while before is not None and is_another(before.provenance, call.provenance):
            if call.call_id.count(";") >= NAMES_MAX:
                break
            call = CallWrite(*begun_again(call.provenance, call.cdr), call.hidden_reason)
            why = knowing(before.provenance, names_of(call.provenance))
            calls[before.call_id] = replace(before, provenance=why)
            before = calls.get(call.call_id)
        calls[call.call_id] = call

    def _shared(self, exchange: Exchange) -> Iterator[OutRecord]:
        """What a call showed of two clocks, for the partitions that did not see the call."""
        value = orjson.dumps(exchange_message(exchange))
        headers: Headers = [(KIND_HEADER, EXCHANGE.encode())]
        for partition in range(self.settings.partitions):
            if partition != self.partition:
                yield OutRecord(
                    self.settings.references_topic, None, value, partition, headers=headers
                )


def _reference(settings: WorkerSettings, record: ReferenceAsked | ReferenceKnown) -> OutRecord:
    kind = REFERENCE_ASKED if isinstance(record, ReferenceAsked) else REFERENCE_KNOWN
    return OutRecord(
        settings.references_topic,
        record.call_id.encode("utf-8", "replace"),
        orjson.dumps(reference_message(record)),
        headers=[(KIND_HEADER, kind.encode())],
    )
