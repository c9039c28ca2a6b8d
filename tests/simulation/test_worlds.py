"""A few seeded worlds; `make sim SEED=... SECONDS=...` goes on from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from callstate.envelope import EVENT
from ops.simulation.__main__ import main
from ops.simulation.world import history
from ops.simulation.world_check import run
from ops.simulation.world_history import Append, Fate, History, Step, Work
from ops.simulation.world_shrink import shrink

WITH_CRASHES = 19  # a small world whose workers are killed again and again
SMALL = 74


@pytest.mark.parametrize("seed", range(16, 26))
def test_nothing_is_lost_doubled_wrong_or_left_unrevised(seed: int) -> None:
    outcome = run(history(seed))
    assert outcome.faults == ()
    assert outcome.right == outcome.calls > 0


def test_a_seed_is_a_history_byte_for_byte(tmp_path: Path) -> None:
    for name in ("first", "again"):
        history(WITH_CRASHES).write(tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "again").read_bytes()
    assert History.read(tmp_path / "first").to_json() == history(WITH_CRASHES).to_json()


def test_the_worlds_have_what_they_are_there_for() -> None:
    outcome = run(history(WITH_CRASHES))
    assert outcome.crashes > 100
    assert outcome.late > 0
    assert outcome.revised > 0
    fates = {step.fate for step in history(WITH_CRASHES).steps if isinstance(step, Work)}
    assert fates == set(Fate)


def without_one_event(whole: History) -> History:
    """A reader that loses the BYEs of a call: what the simulation is there to find."""
    call_id = next(t["call_id"] for t in whole.truths if t["cdr"]["termination"] == "C")
    steps: list[Step] = []
    for step in whole.steps:
        if isinstance(step, Append):
            kept = tuple(
                (kind, message)
                for kind, message in step.records
                if kind != EVENT
                or message["row"]["call_id"] != call_id
                or message["row"]["event_type"] != "E"
            )
            steps.append(replace(step, records=kept))
        else:
            steps.append(step)
    return replace(whole, steps=tuple(steps))


def test_what_is_lost_is_found_and_made_small(tmp_path: Path) -> None:
    broken = without_one_event(history(SMALL))
    faults = run(broken).faults
    assert {fault.kind for fault in faults} == {"wrong"}
    small = shrink(broken, faults, runs_max=40)
    assert {fault.kind for fault in run(small).faults} == {"wrong"}
    assert len(small.truths) == 1
    assert len(small.steps) < len(broken.steps) / 2
    small.write(tmp_path / "small.json")
    assert main(["--replay", str(tmp_path / "small.json")]) == 1


def test_the_command_says_what_it_found(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "19", "--worlds", "1", "--seconds", "60"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("seed 19: ")
    assert "1 worlds, 40 calls: nothing lost, doubled, wrong" in told
