"""The traffic generator: a function of its seed, and honest about what it wrote."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import orjson
import pytest

from callstate.events import parse_time_us, read_row
from ops.simulation.folder import simulate
from ops.simulation.scenarios import SCENARIOS, read_mix
from ops.simulation.servers import Absent, ClockSpec, installation
from ops.simulation.traffic import Traffic, TrafficSpec, generate
from ops.simulation.truth import Expect

EVERY = TrafficSpec(seed=11, calls=2 * len(SCENARIOS), mix="even", every_scenario=True)


@pytest.fixture(scope="module")
def every() -> Traffic:
    return generate(EVERY)


def test_the_same_spec_gives_the_same_traffic(every: Traffic) -> None:
    again = generate(EVERY)
    assert again.writes == every.writes
    assert again.truths == every.truths


def test_another_seed_gives_other_calls(every: Traffic) -> None:
    other = generate(replace(EVERY, seed=12))
    assert not {t.call_id for t in other.truths} & {t.call_id for t in every.truths}


def test_a_call_does_not_depend_on_how_many_others_there_are() -> None:
    few = generate(TrafficSpec(seed=5, calls=20))
    many = generate(TrafficSpec(seed=5, calls=60))
    cdrs = {truth.call_id: truth.cdr for truth in many.truths}
    assert all(cdrs[truth.call_id] == truth.cdr for truth in few.truths)


def test_every_scenario_is_played(every: Traffic) -> None:
    played = {truth.scenario for truth in every.truths}
    assert set(SCENARIOS) <= played
    legs = {"transfer_blind_leg", "transfer_consult_final", "chain_leg", "page_chain_leg"}
    assert legs <= played


def test_truth_is_told_in_the_order_of_a_call(every: Traffic) -> None:
    for truth in every.truths:
        if truth.cdr is None:
            assert truth.expect in (Expect.NONE, Expect.UNDEFINED)
            continue
        known = [truth.cdr.start_us, truth.cdr.connect_us, truth.cdr.end_us]
        times = [time for time in known if time is not None]
        assert times == sorted(times), truth.scenario
        assert truth.cdr.end_us is None or truth.cdr.end_us <= truth.last_us


def test_rows_can_be_read_and_have_the_columns_of_the_table(every: Traffic) -> None:
    keys = {tuple(write.row) for write in every.writes}
    assert len(keys) == 1
    assert len(keys.pop()) == 22
    types = Counter(read_row("x", write.row).type for write in every.writes)
    assert set(types) == set("RSFTE")


def test_a_row_has_one_identity_and_redeliveries_repeat_it() -> None:
    traffic = generate(TrafficSpec(seed=3, calls=400, redeliver=0.05))
    rows = defaultdict(list)
    for write in traffic.writes:
        rows[write.server, write.row["id"]].append(write)
    assert any(len(same) > 1 for same in rows.values())
    for same in rows.values():
        assert sum(not write.again for write in same) == 1
        assert all(write.row == same[0].row for write in same)


def test_commits_are_in_order_and_ids_are_not() -> None:
    writes = generate(TrafficSpec(seed=4, calls=1_000)).writes
    commits = [write.commit_us for write in writes]
    assert commits == sorted(commits)
    ids = [write.row["id"] for write in writes if write.server == 0 and not write.again]
    assert ids != sorted(ids)
    assert sorted(ids) == list(range(1, len(ids) + 1))


def test_event_seq_has_gaps_and_restarts() -> None:
    first, *others = installation(2)
    restarting = replace(first, restarts_at_seconds=(60.0,))
    traffic = generate(TrafficSpec(seed=6, calls=400, servers=(restarting, *others)))
    own = sorted(
        (write.row["id"], write.row["event_seq"])
        for write in traffic.writes
        if write.server == 0 and not write.again
    )
    steps = Counter(b[1] - a[1] for a, b in pairwise(own))
    assert sum(step < 0 for step in steps) == 1
    assert max(steps) > 1
    assert len(list(traffic.observers[0].state_rows())) == 2


@pytest.mark.parametrize("form", Absent)
def test_both_writers_of_absent_values(form: Absent) -> None:
    servers = installation(2, absent=form.value)
    traffic = generate(TrafficSpec(seed=7, calls=50, servers=servers))
    ends = [w.row for w in traffic.writes if w.row["event_type"] == "E"]
    nothing = ("", 0) if form is Absent.EMPTY else (None, None)
    assert {(row["branch_id"], row["via_count"]) for row in ends} == {nothing}
    assert all(
        w.row["from_url"] is not None and w.row["to_url"] is not None for w in traffic.writes
    )


def test_a_clock_has_offset_drift_and_steps() -> None:
    clock = ClockSpec(offset_ms=700, drift_ppm=50, steps=((100, -1_500),))
    assert clock.offset_us(0) == 700_000
    assert clock.offset_us(60_000_000) == 703_000
    assert clock.offset_us(100_000_000) == -795_000


def test_event_time_is_what_the_servers_clock_shows() -> None:
    servers = installation(3, skew_ms=5_000, drift_ppm=40, seed=8)
    spec = TrafficSpec(seed=8, calls=100, servers=servers)
    for write in generate(spec).writes:
        clock = servers[write.server].clock
        shown = write.message_us + clock.offset_us(write.message_us - spec.start_us)
        assert 0 <= shown - parse_time_us(write.row["event_time"]) < 1_000


def test_truth_is_told_by_the_reference() -> None:
    ahead = ClockSpec(offset_ms=250)
    first, *others = installation(3)
    traffic = generate(TrafficSpec(seed=9, calls=5, servers=(replace(first, clock=ahead), *others)))
    for truth, line in zip(traffic.truths, traffic.truth_lines(), strict=True):
        if truth.cdr is not None:
            assert parse_time_us(line["cdr"]["start_time"]) == truth.cdr.start_us + 250_000


def test_a_folder_has_the_files_that_resolve_reads(tmp_path: Path) -> None:
    meta = simulate(tmp_path, TrafficSpec(seed=10, calls=40))
    names = {path.name for path in tmp_path.iterdir()}
    assert {"rows.0.jsonl", "rows.1.jsonl", "rows.2.jsonl", "truth.jsonl", "meta.json"} <= names
    rows = [len((tmp_path / f"rows.{n}.jsonl").read_bytes().splitlines()) for n in range(3)]
    assert rows == meta["rows"]
    truth = [orjson.loads(line) for line in (tmp_path / "truth.jsonl").read_bytes().splitlines()]
    assert len(truth) == meta["calls"] >= 40
    assert {"call_id", "scenario", "expect", "why", "observers", "cdr", "upstream_wrong"} == set(
        truth[0]
    )


def test_all_calls_can_start_within_a_given_time() -> None:
    traffic = generate(TrafficSpec(seed=1, calls=300, within_seconds=20.0, mix="plain"))
    starts = [t.cdr.start_us for t in traffic.truths if t.cdr]
    assert max(starts) - min(starts) <= 20_000_000


def test_a_mix_can_be_written_out() -> None:
    assert read_mix("simple=3, busy") == {"simple": 3.0, "busy": 1.0}
    traffic = generate(TrafficSpec(seed=1, calls=30, mix="busy"))
    assert {truth.scenario for truth in traffic.truths} == {"busy"}


def test_an_unknown_scenario_is_named() -> None:
    with pytest.raises(ValueError, match="unknown mix or scenario 'nonsense'; known are: usual"):
        read_mix("simple,nonsense")


def test_traffic_works_on_a_single_server() -> None:
    traffic = generate(replace(EVERY, servers=installation(1)))
    assert {write.server for write in traffic.writes} == {0}
