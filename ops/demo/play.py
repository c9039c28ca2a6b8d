"""The order of events of the demo, from an empty folder to the verdict.

Owns when what is started, killed and waited for, and that nothing is left behind. Every wait is on
a condition, bounded, and says what it waited for when it fails.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from rich.console import Console

from ops.demo import report
from ops.demo.installation import Installation, installed
from ops.demo.interrupts import terminates
from ops.demo.plan import (
    CLOCK_CHECK_MS,
    CLOCKS,
    FAILED_WAIT_SECONDS,
    LATENESS_SECONDS,
    MAX_CALL_SECONDS,
    MAX_RINGING_SECONDS,
    PARTITIONS,
    REFERENCE,
    final_us,
    traffic_spec,
)
from ops.demo.processes import Children
from ops.demo.screen import Screen, watermark_words
from ops.demo.source import TrafficSource, clock_errors_ms
from ops.demo.verdict import Outcome, judge, read_cdrs
from ops.demo.watch import Watch
from ops.errors import OpsError
from ops.simulation.script import US
from ops.simulation.traffic import Traffic, generate
from ops.simulation.truth import Expect

READY_SECONDS: Final = 180.0
PATIENCE_SECONDS: Final = 180.0  # beyond the moment at which the last call should be final
LOOK_SECONDS: Final = 0.5
_LEAD_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Fault:
    """At a share of the traffic's time: kill one process, later start another in its place."""

    at: float
    victim: str
    heir: str
    arguments: tuple[str, ...]
    heir_after_seconds: float


_FAULTS: Final = (
    _Fault(0.40, "reader-b", "reader-b-2", ("reader", "--server", "b"), 2.0),
    _Fault(0.65, "worker-1", "worker-3", ("worker",), 1.0),
)


def run(*, keep: bool = False, calls: int = 300, seed: int = 1, secure: bool = False) -> int:
    """Plays the demo and returns the exit code: 0 only if every CDR is right.

    Args:
        keep: Leave everything running at the end, until Ctrl-C.
        calls: How many calls to make; transfers and chains add more.
        seed: Of the traffic.
        secure: TLS, passwords and the least rights everywhere; what nobody may do is tried too.

    Raises:
        OpsError: Something could not be started, or ended by itself.
        KeyboardInterrupt: Ctrl-C; everything is stopped by then.
    """
    console = Console(highlight=False)
    with terminates(), ExitStack() as stack:
        screen = stack.enter_context(Screen(console))
        place = stack.enter_context(installed(screen.say, secure=secure))
        children = Children(place.config, place.folder, place.config_of)
        stack.callback(children.stop)
        _start_services(children, place, screen)
        watch = Watch(place.bootstrap, place.dsns, place.dsns[REFERENCE], place.kafka)
        stack.callback(watch.close)
        _wait_until_ready(children, watch, screen)
        if keep or secure:
            place.dashboard_url = _start_dashboard(children, screen)
        traffic = _make_traffic(place, screen, calls, seed)
        source = TrafficSource(place.dsns, traffic.writes)
        stack.callback(source.stop)
        source.start()
        in_time = _Run(traffic, source, children, watch, screen).until_final()
        outcome = judge(traffic, read_cdrs(place.dsns[REFERENCE]))
        let_in = _try_what_nobody_may(place, screen) if secure else 0
        screen.close()
        _tell(console, outcome, place, in_time=in_time)
        code = outcome.exit_code if in_time and not let_in else 1
        if code:
            place.keep_folder = True
            console.print(f"the logs are in {place.folder}", markup=False, soft_wrap=True)
        if keep:
            _hold(console, place)
        return code


def _start_services(children: Children, place: Installation, screen: Screen) -> None:
    place.provision()
    screen.say("schema, publications, slots and topics are provisioned")
    for name in place.dsns:
        children.start(f"reader-{name}", "reader", "--server", name)
    for number in (1, 2):
        children.start(f"worker-{number}", "worker")
    names = ", ".join(children.names())
    screen.say(f"started {names}; their logs are in {place.folder}")


def _try_what_nobody_may(place: Installation, screen: Screen) -> int:
    """How often somebody got what they must not."""
    from ops.demo.refused import everything  # noqa: PLC0415  only the closed demo needs it

    failed = 0
    for where, attempts in everything(place):
        wrong = [attempt for attempt in attempts if attempt.let_in]
        failed += len(wrong)
        refused = len(attempts) - len(wrong)
        screen.say(f"{where}: {refused} of {len(attempts)} tries refused")
        for attempt in wrong:
            screen.say(f"  NOT REFUSED: {attempt.who}: {attempt.what}: {attempt.let_in}")
    return failed


def _start_dashboard(children: Children, screen: Screen) -> str:
    """The pages, on a free port; where they are."""
    children.start("dashboard", "dashboard", "--listen", "127.0.0.1:0")
    found: list[str] = []

    def missing() -> str:
        log = children.log("dashboard")  # made by the process itself, a moment later
        told = log.read_text() if log.exists() else ""
        found.extend(re.findall(r"^dashboard: (\S+)", told, re.MULTILINE))
        return "" if found else "the dashboard to serve its pages"

    _wait(children, missing, READY_SECONDS)
    screen.say(f"the dashboard shows all of it: {found[0]}")
    return found[0]


def _wait_until_ready(children: Children, watch: Watch, screen: Screen) -> None:
    def missing() -> str:
        readers = sorted(set(CLOCKS) - watch.streaming())
        if readers:
            return f"readers of {', '.join(readers)} to stream and to measure their clocks"
        sink = watch.sink()
        if sink is None or sink.behind:
            behind = PARTITIONS if sink is None else len(sink.behind)
            return f"a first watermark in {behind} of {PARTITIONS} partitions"
        if len(sink.holders) < 2:
            return "the second worker to take partitions"
        return ""

    _wait(children, missing, READY_SECONDS)
    screen.say("readers stream, workers have their partitions")


def _make_traffic(place: Installation, screen: Screen, calls: int, seed: int) -> Traffic:
    start_us = round((time.time() + _LEAD_SECONDS) * US)
    spec = traffic_spec(calls, seed, start_us, place.started_us)
    clocks = {server.name: server.clock for server in spec.servers}
    for name, (meant, read, half) in clock_errors_ms(place.dsns, clocks, start_us).items():
        screen.say(
            f"clock of {name}: set to {meant / 1_000:+.4f} s, reads {read / 1_000:+.4f} s "
            f"+- {half / 1_000:.4f}"
        )
        if abs(read - meant) > CLOCK_CHECK_MS + half:
            raise OpsError(
                f"the clock of server {name} does not follow what was set: {meant:.1f} ms was "
                f"asked for, {read:.1f} ms is read",
                "is this machine's own clock being stepped just now? run the demo again",
            )
    traffic = generate(spec)
    screen.say(
        f"{len(traffic.truths)} calls (seed {seed}) begin within {spec.within_seconds:.0f} s; "
        f"{len(traffic.writes)} rows on {len(place.dsns)} servers"
    )
    screen.say(
        f"limits: lateness {LATENESS_SECONDS:g} s, ringing {MAX_RINGING_SECONDS:g} s, retry "
        f"{FAILED_WAIT_SECONDS:g} s, longest call {MAX_CALL_SECONDS:g} s"
    )
    return traffic


class _Run:
    """From the first row to the moment when no CDR can change any more."""

    def __init__(
        self,
        traffic: Traffic,
        source: TrafficSource,
        children: Children,
        watch: Watch,
        screen: Screen,
    ) -> None:
        self._traffic = traffic
        self._source = source
        self._children = children
        self._watch = watch
        self._screen = screen
        self._clocks = {server.name: server.clock for server in traffic.spec.servers}
        self._begin = traffic.spec.start_us / US
        self._span = traffic.spec.within_seconds or 0.0
        self._final_us = max(map(final_us, traffic.truths))
        self._expected = sum(
            truth.expect in (Expect.CDR, Expect.UNDEFINED) for truth in traffic.truths
        )
        self._plot = sorted(
            (
                step
                for fault in _FAULTS
                for step in (
                    (self._begin + fault.at * self._span, fault, False),
                    (self._begin + fault.at * self._span + fault.heir_after_seconds, fault, True),
                )
            ),
            key=lambda step: step[0],
        )

    def until_final(self) -> bool:
        """Runs until the watermark has passed every call; False if it did not in time."""
        deadline = self._final_us / US + PATIENCE_SECONDS
        while True:
            self._act()
            self._children.check()
            waiting = self._waiting_for()
            picture = self._watch.picture(
                self._source,
                self._clocks,
                self._traffic.spec.start_us,
                expected=self._expected,
                waiting_for=waiting or "nothing more",
            )
            self._screen.show(picture)
            if not waiting:
                late_ms = max(p.late_us_max for p in self._source.progress.values()) / 1_000
                self._screen.say(f"done; the latest row was {late_ms:.0f} ms behind its plan")
                return True
            if time.time() > deadline:
                self._screen.say(f"TIME IS UP, still waiting for {waiting}")
                self._screen.say(watermark_words(picture))
                return False
            time.sleep(LOOK_SECONDS)

    def _waiting_for(self) -> str:
        if self._source.running or self._plot:
            left = sum(p.planned - p.written for p in self._source.progress.values())
            return f"{left} rows to be written"
        sink = self._watch.sink()
        if sink is None or sink.watermark_us is None:
            return "the sink's watermark"
        left_us = self._final_us - sink.watermark_us
        if left_us > 0:
            return f"the watermark to pass the last call's limit, {left_us / US:.1f} s to go"
        return ""

    def _act(self) -> None:
        while self._plot and time.time() >= self._plot[0][0]:
            _, fault, heir = self._plot.pop(0)
            if heir:
                self._children.start(fault.heir, *fault.arguments)
                self._screen.say(f"started {fault.heir} in its place")
            else:
                pid = self._children.kill(fault.victim)
                self._screen.say(f"KILLED {fault.victim} (SIGKILL, pid {pid})")


def _wait(children: Children, missing: Callable[[], str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while what := missing():
        children.check()
        if time.monotonic() > deadline:
            raise OpsError(
                f"waited {seconds:.0f} s for {what}",
                f"the logs in {children.folder} say why it did not come",
            )
        time.sleep(LOOK_SECONDS / 2)


def _tell(console: Console, outcome: Outcome, place: Installation, *, in_time: bool) -> None:
    from ops.explain_command import show  # noqa: PLC0415
    from ops.explain_sink import from_sink  # noqa: PLC0415

    report.print_outcome(console, outcome)
    if outcome.example is not None:
        console.print(f"\ncdrstream explain {outcome.example}", markup=False)
        try:
            show(from_sink(place.dsns[REFERENCE], outcome.example), as_json=False)
        except OpsError as error:
            console.print(str(error), markup=False)
    console.print()
    console.print(report.sentence(outcome), markup=False)
    if not in_time:
        console.print("the watermark did not get there in time: see above", markup=False)


def _hold(console: Console, place: Installation) -> None:
    """Tells how to connect, and waits for Ctrl-C."""
    for line in place.how_to_connect():
        console.print(line, markup=False, soft_wrap=True)
    console.print("Ctrl-C stops everything.", markup=False)
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        return
