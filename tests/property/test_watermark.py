"""The watermark: behind the slowest of those it waits for, and never back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callstate.config import ResolutionConfig
from callstate.envelope import Record
from callstate.held_calls import DictStore
from callstate.processor import PartitionProcessor
from callstate.watermark import Watermark
from tests.calls import US, through_json
from tests.property.strategies import SERVERS, streams

frontiers = st.lists(
    st.tuples(st.sampled_from((*SERVERS, "new")), st.integers(-(10**12), 10**12)), max_size=60
)


@given(streams())
def test_it_never_retreats(log: list[Record]) -> None:
    door = PartitionProcessor(ResolutionConfig(servers=SERVERS), DictStore())
    reached = None
    for record in log:
        door.feed([record])
        if reached is not None:
            assert door.watermark_us is not None
            assert door.watermark_us >= reached
        reached = door.watermark_us


@given(frontiers, st.sampled_from((None, 10, 10**6)))
def test_it_never_passes_a_server_that_it_waits_for(
    told: list[tuple[str, int]], idle_after_us: int | None
) -> None:
    watermark = Watermark(SERVERS, 7, idle_after_us)
    for server, frontier_us in told:
        before = watermark.time_us
        watermark.heartbeat(server, frontier_us, measured=True)
        waited = [one.frontier_us for one in watermark.sources.values() if not one.set_aside]
        if watermark.time_us != before:
            assert waited
            assert None not in waited
            assert watermark.time_us == min(one for one in waited if one is not None) - 7


@given(frontiers)
def test_nobody_is_set_aside_unless_others_advance(told: list[tuple[str, int]]) -> None:
    """Whoever speaks is waited for, and with `never` everybody always is."""
    patient, usual = Watermark(SERVERS, 0, None), Watermark(SERVERS, 0, 100)
    for server, frontier_us in told:
        assert not patient.heartbeat(server, frontier_us, measured=True)
        usual.heartbeat(server, frontier_us, measured=True)
        assert not usual.sources[server].set_aside
    if len({server for server, _ in told}) == 1:
        only = told[0][0]
        assert usual.time_us is None or only not in SERVERS or usual.sources[only].frontier_us


@given(frontiers, st.integers(0, 60))
def test_a_restart_changes_nothing(told: list[tuple[str, int]], cut: int) -> None:
    unbroken = Watermark(SERVERS, 7, 10**6)
    changes = [unbroken.heartbeat(*one, measured=True) for one in told]
    first = Watermark(SERVERS, 7, 10**6)
    before = [first.heartbeat(*one, measured=True) for one in told[:cut]]
    second = Watermark(SERVERS, 7, 10**6)
    second.restore(through_json(first.snapshot()))
    assert [*before, *(second.heartbeat(*one, measured=True) for one in told[cut:])] == changes
    assert second.snapshot() == unbroken.snapshot()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=50))
def test_all_that_go_on_together_are_all_waited_for(steps: list[int]) -> None:
    watermark = Watermark(SERVERS, 0, 2 * US)
    at = 0
    for step in steps:
        at += step * US
        for server in SERVERS:
            watermark.heartbeat(server, at, measured=True)
    assert watermark.time_us == at
    assert not any(source.set_aside for source in watermark.sources.values())
