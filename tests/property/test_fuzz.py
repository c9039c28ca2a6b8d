"""Hostile rows by the thousand among good traffic: good calls stay as they are, nothing raises.

`FUZZ_ROWS=100000` takes as many; unattended a few thousand do.
"""

from __future__ import annotations

import json
import os
import random
from typing import Any

import orjson
import pytest

from callstate.effects import DeadLetter, EmitCdr, HideCall
from callstate.envelope import Record, event_message, heartbeat_message, read_message
from callstate.events import Clock
from callstate.processor import PartitionProcessor
from ops.row_files import read_line
from ops.simulation.score import differences
from ops.simulation.servers import RowWrite, ServerSpec, installation
from ops.simulation.traffic import Traffic, TrafficSpec, generate
from tests.calls import processor, with_references, written

ROWS = int(os.environ.get("FUZZ_ROWS", "3000"))
SERVERS = ("0", "1", "2")

NASTY: tuple[Any, ...] = (
    None, "", " ", 0, -1, 1, 2**15, 2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 1e308, -0.0, True,
    False, [], {}, [[]], {"R": 1}, "\x00", "a\x00b", "\ud800", "\udfff\ud800", "\u202e", "\ufeff",
    "é" * 4_096, "x" * 65_536, '"' * 999, "<" * 999, "\\" * 999, ";" * 999, "; tag=" * 200,
    "<sip:a@h", "sip:", "@", ";tag=", '"a;tag=x', "~~mh~", "<sip:~~mh~@h>", "';DROP TABLE cdrs;--",
    "=cmd|' /C calc'!A0", "infinity", "-infinity", "0044-03-15 00:00:00 BC", "1970-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999Z", "0001-01-01 00:00:00", "2024-03-04T09:00:00+14:00", "R", "S",
    "F", "T", "E", "RS", "self;rel=chain", "x;rel=chain," * 50, "NaN", "9" * 400, "-", "1e5", "٣",
)  # fmt: skip
BYTES = (b"", b"{", b"null", b"[]", b'"x"', b"\xff\xfe", b"[" * 3_000, b'{"a":NaN}', b"1" * 5_000)


def good_traffic() -> Traffic:
    servers = installation(3, skew_ms=500, drift_ppm=20, seed=9)
    return generate(TrafficSpec(seed=9, calls=150, servers=servers))


def hostile_line(chance: random.Random, like: dict[str, Any]) -> bytes:
    """A good row that has gone bad, or no row at all."""
    if chance.random() < 0.05:
        return chance.choice(BYTES)
    told = like | {"id": chance.randrange(10**9, 10**10), "call_id": f"bad{chance.randrange(300)}"}
    for column in chance.sample(sorted(told), chance.randrange(1, 6)):
        told[column] = chance.choice(NASTY)
        if column == "call_id" and chance.random() < 0.5:
            told[column] = f"bad{chance.randrange(300)}"
    for column in chance.sample(sorted(told), chance.randrange(3)):
        del told[column]
    server = chance.choice(SERVERS)  # whoever can name a server is a reader, and no stranger
    if chance.random() < 0.3:
        envelope = {"v": 1, "clock": None, "row": told}
        for member in chance.sample(sorted(envelope), chance.randrange(3)):
            envelope[member] = chance.choice(NASTY)
        told = envelope
    told["server"] = server
    return json.dumps(told).encode()


@pytest.mark.parametrize("probed", [True, False])
def test_hostile_rows_harm_nobody(probed: bool) -> None:
    chance = random.Random(77)
    traffic = good_traffic()
    good = [
        good_line(write, traffic.spec.servers[write.server], probed) for write in traffic.writes
    ]
    straight = cdrs_of(traffic, good)
    assert len(straight) > 130
    rows = [write.row for write in traffic.writes]
    log = good[:]
    for _ in range(ROWS):
        log.insert(chance.randrange(len(log) + 1), hostile_line(chance, chance.choice(rows)))
    fuzzed = cdrs_of(traffic, log)
    # Without probes the traffic tells the clocks, and hostile calls are traffic: they may sway
    # times, and by no more than the servers' own jitter would.
    tolerance_ms = 0 if probed else 10
    for call_id, cdr in straight.items():
        assert not differences(cdr, fuzzed[call_id], tolerance_ms=tolerance_ms)


def good_line(write: RowWrite, server: ServerSpec, probed: bool) -> bytes:
    if not probed:
        return orjson.dumps({**write.row, "server": server.name})
    stamp = Clock(False, 1_000, server.clock.offset_us(0))
    return orjson.dumps(event_message(server.name, "0/0", None, stamp, write.row))


def cdrs_of(traffic: Traffic, log: list[bytes]) -> dict[str, dict[str, Any]]:
    """What is written when the log is read live, with heartbeats in its middle and at its end."""
    door = processor(*SERVERS, reference="0", late_horizon_seconds=1e9)
    records = [record for line in log if (record := read_line(line, None)) is not None]
    effects = []
    for start in range(0, len(records), 500):
        effects += with_references(door, records[start : start + 500])
        orjson.dumps(door.snapshot())
    for hours in (0, 1, 9, 10, 20):
        effects += with_references(door, beats(traffic, hours))
    for effect in effects:
        if isinstance(effect, EmitCdr):
            orjson.dumps([effect.cdr.columns(), effect.provenance.to_json()])
        elif isinstance(effect, HideCall):
            orjson.dumps(effect.provenance.to_json())
        elif isinstance(effect, DeadLetter):
            json.dumps(effect.raw)
    can_be_kept(door)
    return written(effects)


def beats(traffic: Traffic, hours: int) -> list[Record]:
    at_us = traffic.last_us + hours * 3_600 * 1_000_000
    return [read_message("heartbeat", heartbeat_message(s, at_us, "0/0", None)) for s in SERVERS]


def can_be_kept(door: PartitionProcessor) -> None:
    """The state of every call, good or bad, as the changelog takes it."""
    for call_id, state in door._calls.all():
        call_id.encode()
        orjson.dumps(state.to_wire())
