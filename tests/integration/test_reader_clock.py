"""Clock offsets, measured on servers whose clocks are really wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.stack.stack import Stack
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(2, clocks={"b": "-5.5s"}) as running:
        yield running


async def test_offset_is_stamped_on_rows_and_heartbeats(stack: Stack) -> None:
    bed = Bed(stack, "b")
    bed.provision()
    settings = bed.settings(reference=False, reference_dsn=stack["a"].dsn_for(), probe_seconds=0.2)
    bed.insert(5)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(5)
        await all_arrived(bed)
        await until(lambda: any(record.kind == "heartbeat" for record in bed.records()))
    for record in bed.records():
        clock = record.value["clock"]
        assert 0 < clock["error_ms"] < 500
        assert abs(clock["offset_ms"] + 5_500) <= clock["error_ms"] + 1


async def test_rows_go_on_while_the_reference_is_away(stack: Stack) -> None:
    bed = Bed(stack, "b")
    bed.provision()
    nowhere = "host=127.0.0.1 port=1 dbname=x user=x"
    settings = bed.settings(reference=False, reference_dsn=nowhere, probe_seconds=0.2)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(5)
        await all_arrived(bed)
        await until(lambda: reader.metrics.clock_probe_failures_total >= 2)
        await until(lambda: any(record.kind == "heartbeat" for record in bed.records()))
    assert all(record.value["clock"] is None for record in bed.records())
