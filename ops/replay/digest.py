"""What is equal about two runs: digests of CDRs, of inputs and of settings.

Owns what a digest covers (docs/decisions/0041) and its arithmetic. A digest of CDRs is a number of
records and the sum of their hashes: the same in any order, so for any number of workers and any
batching. It covers the columns of `cdrs` by Call-ID and nothing that depends on arrival: no
revisions, no watermarks, no row ids.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import orjson

_KEY_BYTES: Final = 8
_HASH_BYTES: Final = 16
_MODULUS: Final = 2 ** (8 * _HASH_BYTES)
_ENTRY: Final = struct.Struct(f">{_KEY_BYTES}sIH{_HASH_BYTES}s")
_ABSENT: Final = bytes(_HASH_BYTES)


class CdrDigest(NamedTuple):
    """A set of CDRs; two sets with the same digest are the same."""

    records: int
    total: int

    def __str__(self) -> str:
        return f"{self.records}-{self.total:032x}"


class Compared(NamedTuple):
    """Calls of two ledgers: the same, another record, only here, only there."""

    same: int
    different: int
    only_here: int
    only_there: int

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.different or self.only_here or self.only_there)


def digest_of(lines: Iterable[bytes]) -> CdrDigest:
    """Of COPY lines of distinct calls, in any order; a newline at a line's end does not count."""
    count = total = 0
    for line in lines:
        count += 1
        total += int.from_bytes(_hash(line.rstrip(b"\n")), "big")
    return CdrDigest(count, total % _MODULUS)


def key_of(call_id: str) -> bytes:
    """What a ledger knows a call by."""
    return blake2b(call_id.encode("utf-8", "replace"), digest_size=_KEY_BYTES).digest()


def _hash(line: bytes) -> bytes:
    return blake2b(line, digest_size=_HASH_BYTES).digest()


class Ledger:
    """Which record each call has, by hashes: 30 bytes a telling, so that ten millions fit.

    A call may be told again: of its tellings that with the highest revision counts, then the
    last one. A telling without a line says that the call has no record in the range.
    """

    def __init__(self) -> None:
        self._buckets = [bytearray() for _ in range(256)]

    def add(self, call_id: str, line: bytes | None, revision: int, partition: int) -> None:
        """A call was told."""
        key = key_of(call_id)
        hashed = _ABSENT if line is None else _hash(line)
        self._buckets[key[0]] += _ENTRY.pack(key, revision, partition, hashed)

    def merge(self, other: Ledger) -> None:
        """Takes all of another worker's tellings."""
        for mine, theirs in zip(self._buckets, other._buckets, strict=True):
            mine.extend(theirs)

    def digest(self) -> CdrDigest:
        """Of the records that count."""
        count = total = 0
        for bucket in self._buckets:
            for hashed in _newest(bucket).values():
                count += 1
                total += int.from_bytes(hashed, "big")
        return CdrDigest(count, total % _MODULUS)

    def compare(self, other: Ledger, leaving: Collection[bytes] = ()) -> Compared:
        """Call by call; `leaving` are keys that do not count."""
        same = different = only_here = only_there = 0
        for mine, theirs in zip(self._buckets, other._buckets, strict=True):
            here, there = _newest(mine), _newest(theirs)
            for key in here.keys() | there.keys():
                if key in leaving:
                    continue
                one, two = here.get(key), there.get(key)
                if one is None:
                    only_there += 1
                elif two is None:
                    only_here += 1
                elif one == two:
                    same += 1
                else:
                    different += 1
        return Compared(same, different, only_here, only_there)

    def told(self, call_ids: Iterable[str]) -> Iterator[str]:
        """Those of some calls that were told, with or without a record."""
        for call_id in call_ids:
            key = key_of(call_id)
            if any(entry[0] == key for entry in _ENTRY.iter_unpack(self._buckets[key[0]])):
                yield call_id


def _newest(bucket: bytearray) -> dict[bytes, bytes]:
    """Key to hash of the telling that counts; calls without a record are left away."""
    newest: dict[bytes, tuple[int, int, bytes]] = {}
    for key, revision, partition, hashed in _ENTRY.iter_unpack(bucket):
        held = newest.get(key)
        if held is None or (revision, partition) >= held[:2]:
            newest[key] = (revision, partition, hashed)
    return {key: hashed for key, (_, _, hashed) in newest.items() if hashed != _ABSENT}


def digest_of_settings(settings: Mapping[str, Any]) -> str:
    """Of the rules' settings: the same values, the same digest."""
    return _hash(orjson.dumps(settings, option=orjson.OPT_SORT_KEYS)).hex()


class PartInput(NamedTuple):
    """What was read of one partition: offsets, records, and a running CRC over their values."""

    partition: int
    start: int
    end: int
    records: int
    crc: int


def digest_of_inputs(parts: Iterable[PartInput]) -> str:
    """Of everything that was read, byte for byte and in order, whoever read which partition."""
    return _hash(orjson.dumps([list(part) for part in sorted(parts)])).hex()
