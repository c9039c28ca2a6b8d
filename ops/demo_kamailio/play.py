"""The order of events, from an empty folder to the verdict.

Owns when what is started, broken and waited for, and that nothing is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from ops.demo.interrupts import terminates
from ops.demo.processes import Children
from ops.demo.verdict import read_cdrs
from ops.demo_kamailio import report
from ops.demo_kamailio.phones import Phones, Ports
from ops.demo_kamailio.place import Place, settled
from ops.demo_kamailio.plan import (
    ALL_CALLS,
    ANSWER_SECONDS,
    CALL_AFTER_RESTART,
    CALL_WITHOUT_DATABASE,
    CALLS,
    CALLS_KILLED,
    CLOCKS,
    LATENESS_SECONDS,
    MAX_CALL_SECONDS,
    PHONES,
    REFERENCE,
    TOLERANCE_MS,
)
from ops.demo_kamailio.proxy import EXAMPLE, Proxy
from ops.demo_kamailio.sip_log import read_log
from ops.demo_kamailio.witness import answered_after_seconds, truth_of
from ops.errors import OpsError
from ops.simulation.score import Score, score
from ops.simulation.script import US
from ops.stack import Stack
from ops.stack.debian import find_sip

READY_SECONDS: Final = 180.0
PATIENCE_SECONDS: Final = 120.0
_LOOK_SECONDS: Final = 0.2
_BETWEEN_CALLS_SECONDS: Final = 0.1
_ROWS_SECONDS: Final = 60.0
_ANSWERED: Final = ("call_bye_lost", "call_bye_elsewhere")  # of the calls that are killed
_SLOW_SECONDS: Final = 2.0  # more than the phone's own time, until a call is called slow


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it.

    Attributes:
        score: Every CDR beside its caller's word.
        troubles: Whatever else was not as planned; one line each.
        rows: How many rows each proxy wrote.
    """

    score: Score
    troubles: tuple[str, ...]
    rows: dict[str, int]

    @property
    def exit_code(self) -> int:
        """0 only if all is as it should be."""
        return 0 if self.score.flawless and not self.troubles else 1


def run(*, keep: bool = False) -> int:
    """Plays it and returns the exit code: 0 only if every CDR agrees with its caller.

    Args:
        keep: Leave the folder with all logs.

    Raises:
        OpsError: Something could not be started, or ended by itself.
        KeyboardInterrupt: Ctrl-C; everything is stopped by then.
    """
    begun = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - begun:5.1f} s  {text}", flush=True)

    if not EXAMPLE.is_dir():
        raise OpsError(f"there is no {EXAMPLE}", "run it in the source tree: make demo-kamailio")
    with terminates(), ExitStack() as stack:
        clocks = {name: clock for name, clock in CLOCKS.items() if clock}
        say(f"starting {len(CLOCKS)} PostgreSQL servers and a Kafka broker")
        servers = stack.enter_context(Stack(len(CLOCKS), clocks=clocks))
        place = stack.enter_context(settled(servers))
        children = Children(place.config, place.folder)
        stack.callback(children.stop)
        place.provision()
        for name in CLOCKS:
            children.start(f"reader-{name}", "reader", "--server", name)
        children.start("worker", "worker")
        proxies, phones = _telephony(servers, place, stack)
        say(f"started {', '.join(children.names())}, two Kamailios, {len(PHONES)} kinds of phones")
        _wait(children, place.not_ready, READY_SECONDS)
        troubles = _play(servers, proxies, phones, say)
        last_us = round(time.time() * US)
        say(f"all calls are over; waiting until none can change ({MAX_CALL_SECONDS:g} s)")
        final_us = last_us + round((MAX_CALL_SECONDS + LATENESS_SECONDS) * US)
        _wait(children, lambda: place.not_past(final_us), PATIENCE_SECONDS)
        outcome = _judge(place, proxies, phones, troubles)
        report.tell(outcome.score, outcome.troubles, outcome.rows)
        place.keep_folder = keep or bool(outcome.exit_code)
        if place.keep_folder:
            print(f"all logs are in {place.folder}")
        return outcome.exit_code


def _telephony(servers: Stack, place: Place, stack: ExitStack) -> tuple[dict[str, Proxy], Phones]:
    """Two proxies with phones registered at them; `stack` ends them."""
    sip, free = find_sip(), Ports()
    listens = {name: free.pick() for name in CLOCKS}
    proxies = {}
    for name, clock in CLOCKS.items():
        own = place.folder / f"proxy-{name}"
        own.mkdir()
        proxies[name] = Proxy(
            name,
            sip,
            own,
            port=listens[name],
            peer_port=next(port for other, port in listens.items() if other != name),
            database_port=servers[name].port,
            dsn=place.dsns[name],
            clock=clock,
        )
        stack.callback(proxies[name].stop)
        proxies[name].start()
    phones = Phones(sip, place.folder, listens, free)
    stack.callback(phones.stop)
    phones.start(PHONES)
    for name in proxies:
        phones.register(name)
    return proxies, phones


def _play(
    servers: Stack, proxies: dict[str, Proxy], phones: Phones, say: Callable[[str], None]
) -> list[str]:
    """All calls, with what is broken meanwhile; what the callers complain of."""
    say(f"{len(CALLS)} callers call")
    for call in CALLS:
        phones.call(call)
        time.sleep(_BETWEEN_CALLS_SECONDS)
    troubles = phones.wait()
    b = proxies["b"]
    say("the PostgreSQL of proxy b goes away; a call begins and ends without it")
    servers["b"].stop("fast")
    phones.call(CALL_WITHOUT_DATABASE)
    troubles += phones.wait()
    waited = answered_after_seconds(read_log(phones.message_log(CALL_WITHOUT_DATABASE.name)))
    if waited is None or waited > ANSWER_SECONDS + _SLOW_SECONDS:
        troubles.append(f"calls wait for the database: answered after {waited} s")
    servers["b"].start()
    say(f"it is back; the call was answered after {waited} s")
    _wait_rows(b, CALL_WITHOUT_DATABASE.call_id, "E", 1)
    for call in CALLS_KILLED:
        phones.call(call)
    for call in CALLS_KILLED:
        _wait_rows(b, call.call_id, "S" if call.scenario in _ANSWERED else "R", 1)
    say(f"KILLED proxy b in the midst of {len(CALLS_KILLED)} calls (SIGKILL, pid {b.kill()})")
    troubles += phones.wait()
    b.start()
    phones.register("b")
    say("started it again")
    phones.call(CALL_AFTER_RESTART)
    troubles += phones.wait()
    return troubles


def _judge(place: Place, proxies: dict[str, Proxy], phones: Phones, troubles: list[str]) -> Outcome:
    troubles = [*troubles, *(line for proxy in proxies.values() for line in proxy.refused_rows())]
    truths = []
    for call in ALL_CALLS:
        try:
            log = read_log(phones.message_log(call.name))
            truths.append(truth_of(call.name, log, end_is_heard=call.end_is_heard))
        except ValueError as error:
            troubles.append(f"{call.name}: its caller's log tells nothing: {error}")
    return Outcome(
        score(truths, read_cdrs(place.dsns[REFERENCE]), tolerance_ms=TOLERANCE_MS),
        tuple(troubles),
        {n: p.rows("SELECT count(*) FROM call_state_events") for n, p in proxies.items()},
    )


def _wait_rows(proxy: Proxy, call_id: str, kind: str, count: int) -> None:
    """Until the call's rows of that type are in the proxy's database."""
    query = (
        "SELECT count(*) FROM call_state_events"  # noqa: S608  of names of our own
        f" WHERE call_id = '{call_id}' AND event_type = '{kind}'"
    )
    deadline = time.monotonic() + _ROWS_SECONDS
    while proxy.rows(query) < count:
        if time.monotonic() > deadline:
            raise OpsError(
                f"no row {kind} of {call_id} at proxy {proxy.name}", f"its log is {proxy.log}"
            )
        time.sleep(_LOOK_SECONDS / 4)


def _wait(children: Children, missing: Callable[[], str], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while what := missing():
        children.check()
        if time.monotonic() > deadline:
            raise OpsError(f"waited {seconds:.0f} s for {what}", f"see {children.folder}")
        time.sleep(_LOOK_SECONDS)
