"""Kafka's records as the domain knows them.

Owns the way from a record's header and bytes to what it says, the same for the worker, a replay and
whoever only looks. Refuses to judge: what cannot be read comes back as that, with its bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

import orjson

from callstate.envelope import EVENT, KIND_HEADER, Malformed, Record, read_message
from callstate.plain_rows import event_of_message

_EVENT_HEADER: Final = (KIND_HEADER, EVENT.encode())


class KafkaRecord(Protocol):
    """What aiokafka and the tests hand in."""

    offset: int
    key: bytes | None
    value: bytes | None

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Names and values; a stranger's may have none."""


def read_record(record: KafkaRecord) -> Record:
    """A Kafka record as the domain knows it; what cannot be read keeps its original bytes."""
    return read_value(kind_of(record.headers), record.value, record.key)


def read_value(kind: str, value: bytes | None, key: bytes | None) -> Record:
    """The same of a record's parts: the value of its header `kind`, its bytes, its key."""
    if value is None:
        return Malformed("the record has no value", "", key or b"")
    if kind == EVENT:
        try:
            event = event_of_message(value)
        except RecursionError:  # nested without end: the tolerant reader says so
            event = None
        if event is not None:
            return event
    try:
        message = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        return Malformed(f"the record is not JSON: {error!s:.100}", "", value)
    parsed = read_message(kind, message)
    if isinstance(parsed, Malformed):
        return parsed._replace(raw=value)
    return parsed


def kind_of(headers: Sequence[tuple[str, bytes | None]]) -> str:
    """What a record's headers say that it is; empty where they do not."""
    if headers and headers[0] == _EVENT_HEADER:
        return EVENT
    for name, value in headers:
        if name == KIND_HEADER:
            return "" if value is None else value.decode("utf-8", "replace")
    return ""
