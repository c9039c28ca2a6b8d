"""`python -m ops.simulation`: worlds from seeds until the time is up, or one history again.

Exit code 0 where nothing is lost, doubled, wrong or unrevised; 1 otherwise, with the seed and the
file of a history made small, which belongs into `tests/histories/` once its cause is mended.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from ops.simulation.world import history
from ops.simulation.world_check import Outcome, run
from ops.simulation.world_history import History
from ops.simulation.world_shrink import shrink


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m ops.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to go on (30)")
    parser.add_argument("--worlds", type=int, help="how many seeds at most")
    parser.add_argument("--replay", type=Path, help="play this file and nothing else")
    parser.add_argument("--keep", type=Path, default=Path(), help="folder for failing histories")
    parser.add_argument("--no-shrink", action="store_true", help="keep a failing history whole")
    options = parser.parse_args(arguments)
    if options.replay is not None:
        return 1 if _told(str(options.replay), run(History.read(options.replay))).faults else 0
    until = time.monotonic() + options.seconds
    seed, bad, calls = options.seed, [], 0
    while not calls or time.monotonic() < until:
        if options.worlds is not None and seed - options.seed >= options.worlds:
            break
        one = history(seed)
        outcome = _told(f"seed {seed}", run(one))
        calls += outcome.calls
        if outcome.faults:
            bad.append(seed)
            if not options.no_shrink:
                one = shrink(one, outcome.faults)
            path = options.keep / f"seed-{seed}.json"
            one.write(path)
            sys.stdout.write(f"  kept as {path}: --replay {path} plays it again\n")
        seed += 1
    worlds = seed - options.seed
    verdict = f"FAILED: seeds {', '.join(map(str, bad))}" if bad else "nothing lost, doubled, wrong"
    sys.stdout.write(f"{worlds} worlds, {calls} calls: {verdict}\n")
    return 1 if bad else 0


def _told(name: str, outcome: Outcome) -> Outcome:
    sys.stdout.write(
        f"{name}: {outcome.calls} calls, {outcome.records} records, {outcome.crashes} crashes, "
        f"{outcome.late} late events, {outcome.revised} revisions: "
        f"{'FAILED' if outcome.faults else 'right'}\n"
    )
    for fault in outcome.faults[:5]:
        sys.stdout.write(f"  {fault.kind} {fault.call_id} {fault.detail[:300]}\n")
    sys.stdout.flush()
    return outcome


if __name__ == "__main__":
    raise SystemExit(main())
