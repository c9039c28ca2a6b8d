"""The faults and when they happen: a function of the seed and of the time that there is.

Owns the plan, the performing of each fault and its being over. Whatever is already broken is left
alone by a second fault; the plan has enough of them. Blocking work is done in threads, the
processes are touched by one thread only.
"""

from __future__ import annotations

import heapq
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

from ops.stack import PostgresServer
from ops.stack.kafka import KafkaBroker
from tests.chaos.place import BROKER, CLOCKS_SECONDS, SINK, Place
from tests.chaos.services import STOP_SECONDS, Service, Services

EVERY_SECONDS = 4.5  # on average; some find their victim down already
WORKERS_MIN, WORKERS_MAX = 1, 4
SERVERS = tuple(CLOCKS_SECONDS)
LINKS = (*SERVERS, SINK, BROKER)
MACHINE = "machine"

# What happens, to whom, for how long (seconds), and how often among all.
KINDS: dict[str, tuple[tuple[str, ...], tuple[float, float], float]] = {
    "reader killed": (SERVERS, (0.2, 3.0), 10),
    "reader ended in order": (SERVERS, (0.2, 2.0), 5),
    "reader frozen": (SERVERS, (1.0, 9.0), 8),
    "worker killed": (("worker",), (0.2, 3.0), 10),
    "worker ended in order": (("worker",), (0.2, 2.0), 5),
    "worker frozen": (("worker",), (1.0, 12.0), 10),
    "worker added": (("worker",), (0.0, 0.0), 6),
    "worker removed": (("worker",), (0.0, 0.0), 5),
    "broker killed": ((BROKER,), (0.2, 2.0), 6),
    "broker restarted": ((BROKER,), (0.0, 1.0), 3),
    "broker frozen": ((BROKER,), (1.0, 8.0), 5),
    "sink killed": ((SINK,), (0.2, 4.0), 7),
    "sink killed with a reader": ((SINK,), (2.0, 5.0), 4),
    "sink restarted": ((SINK,), (0.0, 2.0), 4),
    "sink frozen": ((SINK,), (1.0, 6.0), 4),
    "server killed": (SERVERS, (0.2, 3.0), 6),
    "server restarted": (SERVERS, (0.0, 1.0), 3),
    "link cut": (LINKS, (0.0, 0.0), 8),
    "link silent": (LINKS, (1.0, 8.0), 8),
    "link refused": (LINKS, (0.5, 5.0), 6),
    # As a host that is migrated, or that others use: nothing is lost, everything is late at once.
    "machine paused": ((MACHINE,), (0.5, 10.0), 5),
    "machine busy": ((MACHINE,), (3.0, 15.0), 8),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """At `at_seconds` from the beginning `kind` happens to `target`, for `seconds`."""

    at_seconds: float
    kind: str
    target: str
    seconds: float


@dataclass(slots=True)
class Done:
    """A fault that happened; times are wall time."""

    kind: str
    target: str
    began_at: float = field(default_factory=time.time)
    over_at: float | None = None


def plan(seed: int, seconds: float) -> list[Fault]:
    """All faults in their order."""
    rng = random.Random(seed)
    faults: list[Fault] = []
    names, weights = list(KINDS), [weight for _, _, weight in KINDS.values()]
    at = rng.uniform(1.0, 4.0)
    while at < seconds - 3.0:
        kind = rng.choices(names, weights)[0]
        targets, span, _ = KINDS[kind]
        faults.append(Fault(at, kind, rng.choice(targets), rng.uniform(*span)))
        at += rng.uniform(0.4, 2 * EVERY_SECONDS - 0.4)
    return faults


class Chaos:
    """Performs a plan on a place."""

    def __init__(self, place: Place, services: Services, seed: int) -> None:
        self._place, self._services = place, services
        self._rng = random.Random(f"{seed}:who")
        self._pool = ThreadPoolExecutor(max_workers=4)
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()
        self._broken: set[str] = set()
        self._working: list[Future[None]] = []
        self.done: list[Done] = []
        self.skipped = 0

    def run(self, faults: list[Fault]) -> None:
        """Until the last fault is over."""
        begun = time.monotonic()
        for fault in faults:
            self._at(begun + fault.at_seconds, lambda fault=fault: self._begin(fault))
        while self._due or self._working:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                heapq.heappop(self._due)[2]()
            for job in [job for job in self._working if job.done()]:
                self._working.remove(job)
                job.result()
            self._services.supervise()
            time.sleep(0.02)
        self._pool.shutdown()

    def _at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._number), what))

    def _begin(self, fault: Fault) -> None:
        kind, target = fault.kind, fault.target
        subject, _, what = kind.partition(" ")
        if subject in ("reader", "worker"):
            service = self._service(subject, target, what)
            if service is not None:
                self._hit(service, kind, what, fault.seconds)
            elif what == "added" and len(self._services.of("worker")) < WORKERS_MAX:
                done = self._note(kind, self._services.add_worker().name)
                done.over_at = time.time()
            else:
                self.skipped += 1
            return
        place = f"link {target}" if subject == "link" else target
        if place in self._broken:
            self.skipped += 1
            return
        if what == "paused":
            self._pause_machine(kind, fault.seconds)
            return
        self._broken.add(place)
        if what.endswith(" with a reader"):
            # It starts again while the reference of all clocks is away.
            reader = self._service("reader", self._rng.choice(SERVERS), "killed")
            if reader is not None:
                self._hit(reader, "reader killed", "killed", 0.2)
            what = "killed"
        done = self._note(kind, target)
        self._working.append(
            self._pool.submit(self._break_and_mend, subject, target, what, fault.seconds, done)
        )

    def _note(self, kind: str, target: str) -> Done:
        done = Done(kind, target)
        self.done.append(done)
        return done

    # -- processes ---------------------------------------------------------------------------

    def _service(self, subject: str, target: str, what: str) -> Service | None:
        """One that runs as it should."""
        if what == "added":
            return None
        able = [one for one in self._services.of(subject) if _as_it_should(one)]
        if subject == "reader":
            able = [one for one in able if one.name == f"reader-{target}"]
        elif what == "removed" and len(self._services.of("worker")) <= WORKERS_MIN:
            return None
        return self._rng.choice(able) if able else None

    def _hit(self, service: Service, kind: str, what: str, seconds: float) -> None:
        done = self._note(kind, service.name)
        back_at = time.monotonic() + seconds
        if what == "frozen":
            service.freeze()

            def thaw() -> None:
                service.thaw()
                done.over_at = time.time()

            self._at(back_at, thaw)
            return
        if what == "killed":
            service.kill()
        else:
            service.ask_to_end()
        if what == "removed":
            self._services.remove(service)
            done.over_at = time.time()
            self._insist(service)
            return
        if what == "killed":
            service.starts_at = back_at
        else:
            # In order takes a while; it is started again when it is gone.
            service.starts_at = back_at
            self._insist(service)

        def over() -> None:
            if service.name not in self._services.running or (
                service.alive and not service.starts_at
            ):
                done.over_at = time.time()
            else:
                self._at(time.monotonic() + 0.1, over)

        self._at(back_at, over)

    def _insist(self, service: Service) -> None:
        """SIGTERM must have ended it in time."""
        life = service.starts

        def check() -> None:
            assert not service.alive or service.starts > life, (
                f"{service.name} did not end within {STOP_SECONDS} s of SIGTERM"
            )

        self._at(time.monotonic() + STOP_SECONDS, check)

    # -- the machine -------------------------------------------------------------------------

    def _pause_machine(self, kind: str, seconds: float) -> None:
        """All of the system at once; what is broken already, or is about to end, stays as it is."""
        done = self._note(kind, MACHINE)
        services = [one for one in self._services.running.values() if _as_it_should(one)]
        names = [name for name in (*SERVERS, SINK, BROKER) if name not in self._broken]
        self._broken.update(names)
        for service in services:
            service.freeze()
        for name in names:
            self._server(name).pause()

        def resume() -> None:
            for name in names:
                self._server(name).resume()
            for service in services:
                service.thaw()
            self._broken.difference_update(names)
            done.over_at = time.time()

        self._at(time.monotonic() + seconds, resume)

    # -- servers, broker, links --------------------------------------------------------------

    def _break_and_mend(
        self, subject: str, target: str, what: str, seconds: float, done: Done
    ) -> None:
        if subject == "link":
            self._on_link(target, what, seconds)
        elif subject == MACHINE:
            _keep_busy(seconds)
        else:
            self._on_server(target, what, seconds)
        done.over_at = time.time()
        self._broken.discard(f"link {target}" if subject == "link" else target)

    def _on_link(self, target: str, what: str, seconds: float) -> None:
        link = self._place.links[target]
        if what == "cut":
            link.cut()
        elif what == "silent":
            link.silence(True)
            time.sleep(seconds)
            link.silence(False)
        else:
            link.refuse(True)
            time.sleep(seconds)
            link.refuse(False)

    def _on_server(self, target: str, what: str, seconds: float) -> None:
        server = self._server(target)
        if what == "frozen":
            server.pause()
            time.sleep(seconds)
            server.resume()
            return
        if what == "killed":
            server.kill()
        else:
            server.stop()
        time.sleep(seconds)
        server.start()

    def _server(self, name: str) -> PostgresServer | KafkaBroker:
        stack = self._place.stack
        return stack.broker if name == BROKER else stack[name]


def _as_it_should(service: Service) -> bool:
    return service.alive and not service.frozen and not service.starts_at


def _keep_busy(seconds: float) -> None:
    """Somebody else's work: two processes for every core."""
    work = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: pass"
    busy = [
        subprocess.Popen([sys.executable, "-I", "-S", "-c", work])
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    for process in busy:
        process.wait()
