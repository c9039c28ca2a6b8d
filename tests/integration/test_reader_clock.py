"""Clock offsets, measured on servers whose clocks are really wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from ops.stack.faketime import Clock
from ops.stack.postgres import ServerSpec
from ops.stack.stack import Stack
from tests.reader_kit import Bed, Record, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module", autouse=True)
def others(servers: Callable[[Sequence[ServerSpec]], None]) -> None:
    servers(
        [
            ServerSpec("behind", clock="-5.5s"),
            ServerSpec("drifting", clock="+0.7s x1.0001"),
            ServerSpec("stepped", clock="+0s", steppable=True),
        ]
    )


async def test_offset_is_stamped_on_rows_and_heartbeats(
    stack: Stack, make_bed: Callable[..., Bed]
) -> None:
    bed = make_bed("behind")
    settings = bed.settings(reference=False, reference_dsn=stack["a"].dsn_for(), probe_seconds=0.2)
    bed.insert(5)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(5)
        await all_arrived(bed)
        await until(lambda: any(record.kind == "heartbeat" for record in bed.records()))
    clocks = [record.value["clock"] for record in bed.records()]
    assert 0 < min(clock["error_ms"] for clock in clocks) < 500
    for clock in clocks:
        assert abs(clock["offset_ms"] + 5_500) <= clock["error_ms"] + 1


async def test_rows_go_on_while_the_reference_is_away(
    stack: Stack, make_bed: Callable[..., Bed]
) -> None:
    bed = make_bed("behind")
    nowhere = "host=127.0.0.1 port=1 dbname=x user=x"
    settings = bed.settings(reference=False, reference_dsn=nowhere, probe_seconds=0.2)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(5)
        await all_arrived(bed)
        await until(lambda: reader.metrics.clock_probe_failures_total >= 2)
        await until(lambda: any(record.kind == "heartbeat" for record in bed.records()))
    assert all(record.value["clock"] is None for record in bed.records())


async def test_a_reader_that_starts_without_the_reference_goes_on_with_what_was_known(
    stack: Stack, make_bed: Callable[..., Bed]
) -> None:
    bed = make_bed("behind")
    settings = bed.settings(reference=False, reference_dsn=stack["a"].dsn_for(), probe_seconds=0.2)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        await until(lambda: len(beats(bed)) > 3)
    nowhere = "host=127.0.0.1 port=1 dbname=x user=x"
    async with bed.reading(replace(settings, reference_dsn=nowhere)) as reader:
        await streaming(reader)
        bed.insert(5)
        await all_arrived(bed)
        await until(lambda: reader.metrics.clock_probe_failures_total)
    rows = [record for record in bed.records() if record.kind == "event"]
    assert len(rows) == 5
    for record in rows:
        clock = record.value["clock"]
        assert abs(clock["offset_ms"] + 5_500) <= clock["error_ms"] + 1 < 500


def beats(bed: Bed) -> list[Record]:
    return [record for record in bed.records() if record.kind == "heartbeat"]


def too_far(beat: Record, truth_ms: float) -> float:
    """By how much a stamp misses the truth beyond its own bound, in ms; 0 within it."""
    clock = beat.value["clock"]
    return float(max(0.0, abs(clock["offset_ms"] - truth_ms) - clock["error_ms"]))


async def test_the_bound_holds_on_a_drifting_clock(
    stack: Stack, make_bed: Callable[..., Bed]
) -> None:
    server = stack["drifting"]
    bed = make_bed("drifting")
    # Few probes: between them the bound has to widen by what the clock may drift.
    settings = bed.settings(reference=False, reference_dsn=stack["a"].dsn_for(), probe_seconds=4.0)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(5)
        first = None
        await until(lambda: beats(bed), what="heartbeats")
        first = beats(bed)[0].value["progress_us"]
        await until(lambda: beats(bed)[-1].value["progress_us"] > first + 9_000_000)
    assert isinstance(server.clock, Clock)
    assert server.started_at is not None
    for beat in beats(bed):
        at = beat.value["progress_us"] / 1e6 - server.clock.offset_seconds
        truth = server.clock.offset_at(at - server.started_at) * 1_000
        assert too_far(beat, truth) <= 0.02, "ms; the start of the drift is known that well"
    assert reader.metrics.clock_steps_total == 0, "a drift is no step"


async def test_a_step_is_noticed_within_two_heartbeats(
    stack: Stack, make_bed: Callable[..., Bed]
) -> None:
    server = stack["stepped"]
    bed = make_bed("stepped")
    settings = bed.settings(reference=False, reference_dsn=stack["a"].dsn_for(), probe_seconds=60.0)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        await until(lambda: beats(bed))
        server.set_clock("-1.5s")
        with server.connect() as conn:
            (stepped_us,) = conn.execute(
                "select (extract(epoch from clock_timestamp()) * 1000000)::int8"
            ).fetchone() or (0,)
        await until(lambda: reader.metrics.clock_steps_total == 1)
        bed.insert(5)
        await all_arrived(bed)
        # Progress never goes back: it stands until the clock has caught up.
        await until(lambda: beats(bed)[-1].value["progress_us"] > stepped_us + 3_000_000)
    heartbeat_us = round(settings.heartbeat_seconds * 1_000_000)
    after = [
        b for b in beats(bed) if b.value["progress_us"] > stepped_us + 1_500_000 + heartbeat_us
    ]
    assert after
    assert max(too_far(beat, -1_500.0) for beat in after) <= 0.1
    for event in bed.events():
        assert too_far(event, -1_500.0) <= 0.1
