"""Everything is killed, frozen, cut and restarted by a seed, under traffic; every CDR is right.

`make chaos SECONDS=600 SEED=7` runs it for longer; with an even seed open calls are in RocksDB. A
failure prints its seed and what was done.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import pytest

from ops.demo.plan import final_us
from ops.simulation.script import US
from tests.chaos import verdict
from tests.chaos.place import CLOCKS_SECONDS, Place, installed
from tests.chaos.schedule import Chaos, plan
from tests.chaos.services import Services
from tests.chaos.traffic import LEAD_SECONDS, Writers, make_traffic
from tests.chaos.watch import Watch
from tests.cli_kit import until

SECONDS = float(os.environ.get("CHAOS_SECONDS", "30"))
SEED = int(os.environ.get("CHAOS_SEED", "1"))
STATE_STORE = "memory" if SEED % 2 else "rocksdb"
PATIENCE_SECONDS = 300.0

pytestmark = pytest.mark.timeout(SECONDS * 2 + 900)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with installed(tmp_path, STATE_STORE) as made:
        monkeypatch.setenv("TMPDIR", str(tmp_path))  # what killed workers leave goes with the test
        yield made


def test_chaos_loses_doubles_and_invents_nothing(place: Place) -> None:
    with ExitStack() as parts:
        services = Services(place.config, place.folder)
        parts.callback(services.stop)
        for name in CLOCKS_SECONDS:
            services.add_reader(name)
        services.add_worker()
        services.add_worker()
        watch = Watch(place.sink_dsn)
        parts.callback(watch.stop)
        until(lambda: watch.through > time.time() - 10)
        traffic = make_traffic(SEED, SECONDS)
        writers = Writers(place.dsns, traffic)
        parts.callback(writers.stop)
        chaos = Chaos(place, services, SEED)
        chaos.run(plan(SEED, SECONDS + LEAD_SECONDS))
        final = max(map(final_us, traffic.truths)) / US
        over = time.time()

        def all_is_final() -> bool:
            services.supervise()
            assert writers.failure is None
            return not writers.running and watch.through >= final

        until(all_is_final, max(0.0, final - over) + PATIENCE_SECONDS)
        tell(chaos, watch, services, len(traffic.truths), final)
        wrong = [
            *(f"CDR {one}" for one in verdict.wrong_cdrs(place, traffic)),
            *(f"row {one}" for one in verdict.wrong_rows(place, traffic)),
            *(f"provenance {one}" for one in verdict.incomplete_provenance(place, traffic)),
            *(f"stream {one}" for one in verdict.wrong_stream(place)),
            *(f"sums {one}" for one in verdict.wrong_sums(place)),
        ]
        wrong += [
            f"log {one.name}: {line}" for one in services.everyone() for line in one.unexpected()
        ]
    assert not wrong, f"seed {SEED}, {SECONDS:g} s:\n" + "\n".join(wrong[:50])
    assert len(chaos.done) >= SECONDS / 10, "too few faults happened"


def tell(chaos: Chaos, watch: Watch, services: Services, calls: int, final: float) -> None:
    """What was done, and how long each was felt."""
    felt: defaultdict[str, list[float]] = defaultdict(list)
    for done in chaos.done:
        assert done.over_at is not None
        seconds = watch.felt_seconds(done.over_at)
        if seconds is not None:
            felt[done.kind].append(seconds)
    print(
        f"\nseed {SEED}, {STATE_STORE}: {calls} calls, {len(chaos.done)} faults in {SECONDS:g} s,",
        end="",
    )
    print(f" {chaos.skipped} more hit what was down already")
    begun = min((done.began_at for done in chaos.done), default=0.0)
    for done in chaos.done:
        assert done.over_at is not None
        seconds = watch.felt_seconds(done.over_at)
        print(
            f"+{done.began_at - begun:6.1f} s for {done.over_at - done.began_at:5.1f} s"
            f"  {done.kind:22} {done.target:9}"
            + ("" if seconds is None else f" {seconds:6.1f} s until felt no more")
        )
    print("seconds from a fault's end until all calls that had ended by then were in cdrs;")
    print("without any fault it is the lateness of 2 s, a heartbeat and a commit")
    print(f"{'fault':24} {'times':>5} {'median':>7} {'longest':>8}")
    for kind, seconds in sorted(felt.items()):
        print(f"{kind:24} {len(seconds):5} {median(seconds):7.1f} {max(seconds):8.1f}")
    last = next((look.at for look in watch.looks if look.through >= final), None)
    if last is not None:
        print(f"all final {last - final:.1f} s after the last call's limit")
    for line in services.fell:
        print(f"ended by itself: {line}")
