"""Which partition a key belongs to: Kafka's default partitioner, `murmur2_random` in librdkafka.

Owns the hash (MurmurHash2 with Kafka's seed, as `org.apache.kafka.common.utils.Utils.murmur2`).
"""

from __future__ import annotations

from typing import Final

_SEED: Final = 0x9747B28C
_FACTOR: Final = 0x5BD1E995
_SHIFT: Final = 24
_MASK: Final = 0xFFFFFFFF


def partition_of(call_id: str, partitions: int) -> int:
    """Where the records of a call are: what every producer's partitioner says."""
    return (murmur2(call_id.encode("utf-8", "replace")) & 0x7FFFFFFF) % partitions


def murmur2(key: bytes) -> int:
    """The hash, as an unsigned number of 32 bits."""
    whole = len(key) & ~3
    value = (_SEED ^ len(key)) & _MASK
    for start in range(0, whole, 4):
        word = int.from_bytes(key[start : start + 4], "little") * _FACTOR & _MASK
        word = (word ^ word >> _SHIFT) * _FACTOR & _MASK
        value = (value * _FACTOR & _MASK) ^ word
    if whole < len(key):
        value = (value ^ int.from_bytes(key[whole:], "little")) * _FACTOR & _MASK
    value = (value ^ value >> 13) * _FACTOR & _MASK
    return value ^ value >> 15
