"""The command `doctor`: which checks there are, how they hang together, how they are printed.

Owns the list, the report and the exit code. Refuses to judge: the modules beside it do.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import typer
from psycopg.conninfo import conninfo_to_dict

from ops.config import Config
from ops.config_sources import Loaded
from ops.doctor import (
    broker,
    certificates,
    clocks,
    dashboard,
    processes,
    server_facts,
    server_slot,
    server_tables,
    servers,
    sink,
    trust,
)
from ops.doctor.checks import (
    TIME_LIMIT_SECONDS,
    Check,
    Checked,
    Finding,
    Outcome,
    fail,
    ok,
    run_all,
    warn,
    worst,
)
from ops.doctor.files import others_may_read
from ops.errors import EXIT_FAILED
from ops.invocation import Invocation
from ops.redaction import scrub

JSON_VERSION = 1
T = TypeVar("T")


class Fact(Generic[T]):
    """What one check gathers for those that need it."""

    def __init__(self, gather: Callable[[], T]) -> None:
        self._gather = gather
        self._ready = threading.Event()
        self.value: T

    def get(self) -> T:
        """The fact; asked for once."""
        if not self._ready.is_set():
            self.value = self._gather()
            self._ready.set()
        return self.value


def run(
    invocation: Invocation,
    *,
    servers: Sequence[str] | None,
    as_json: bool,
    strict: bool,
    verbose: bool,
) -> None:
    """Runs every check, prints what it found; ends with 1 where something cannot work."""
    loaded = invocation.loaded()
    names = list(servers) if servers else list(loaded.config.servers)
    for name in names:
        loaded.config.server(name)  # an unknown one is bad usage
    checked = run_all(checks(loaded, names))
    outcome = worst(result.outcome for result in checked)
    failed = outcome is Outcome.FAIL or (strict and outcome is Outcome.WARN)
    if as_json:
        typer.echo(json.dumps(as_object(checked, failed=failed), indent=2))
    else:
        for line in report(checked, verbose=verbose, failed=failed):
            typer.echo(line)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def checks(loaded: Loaded, names: Sequence[str]) -> list[Check]:
    """Every check, after those that it needs."""
    config = loaded.config
    found = [Check("configuration", "file", lambda: configuration(loaded))]
    for name in names:
        found += _server_checks(config, name)
    found += _broker_checks(config, names)
    found += [_resume_check(config, name) for name in names]
    if config.sink.dsn is not None:
        found += _sink_checks(config)
    return found + _clock_checks(config, names) + _dashboard_checks(config)


def configuration(loaded: Loaded) -> list[Finding]:
    """The file itself: there, and not readable by others where it holds secrets."""
    config, path = loaded.config, loaded.file
    findings = []
    if path is None:
        findings.append(
            warn("no configuration file was found", "cdrstream.toml", "name it with --config FILE")
        )
    elif _holds_secrets(path) and others_may_read(path):
        findings.append(
            warn(f"{path} holds secrets and others may read it", "mode 600", f"chmod 600 {path}")
        )
    if not config.servers:
        findings.append(
            fail("no server is configured", "[[servers]]", "add a table with name and dsn")
        )
    if config.sink.dsn is None:
        findings.append(
            warn("sink.dsn is not set: the sink is not checked", "for a worker's machine: one")
        )
    findings.extend(warn(notice) for notice in loaded.notices)
    return findings or [ok(f"{path}: {len(config.servers)} server(s)")]


def _holds_secrets(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace").lower()
    return "password" in text or scrub(text) != text


def _server_checks(config: Config, name: str) -> list[Check]:
    server = config.servers[name]
    dsn = server.dsn.get_secret_value()
    slot = server.slot or "cdrstream_" + name.replace("-", "_")
    backfill = config.reader.start_mode == "backfill"
    reader = str(conninfo_to_dict(dsn).get("application_name") or "cdrstream")
    group = servers.group_of(name)
    facts = Fact(
        lambda: server_facts.gather(
            dsn, publication=server.publication, slot=slot, tables=server_tables.TABLES
        )
    )

    def check(what: str, run: Callable[[], Sequence[Finding]]) -> Check:
        return Check(group, what, run, (f"{group}/connect",))

    return [
        Check(
            group,
            "connect",
            lambda: [*servers.version(facts.get()), *trust.of_server(dsn, facts.get().server)],
        ),
        check("certificate", lambda: certificates.of_server(dsn)),
        check("rights", lambda: server_tables.rights(name, facts.get())),
        check("settings", lambda: servers.settings(facts.get())),
        Check(
            group,
            "replication",
            lambda: [ok(f"system {server_facts.identify(dsn).system_id}")],
            (f"{group}/rights", f"{group}/settings"),
        ),
        check("tables", lambda: server_tables.tables(facts.get(), backfill=backfill)),
        check(
            "publication", lambda: server_tables.publication(name, server.publication, facts.get())
        ),
        check("slot", lambda: server_slot.slot(name, slot, facts.get(), reader=reader)),
        check("load", lambda: servers.load(facts.get())),
    ]


def _resume_check(config: Config, name: str) -> Check:
    from cdc.position_store import load as load_position  # noqa: PLC0415  Kafka's client is slow

    dsn = config.servers[name].dsn.get_secret_value()
    kafka, topic = config.kafka, config.kafka.topic("reader-positions")
    group = servers.group_of(name)

    def run() -> list[Finding]:
        # First the position: the server's log only grows after it.
        options = {**kafka.client_properties(), "log_level": 0}
        stored = load_position(options, topic, name, TIME_LIMIT_SECONDS)
        return server_slot.resume(stored, server_facts.identify(dsn))

    return Check(group, "resume", run, (f"{group}/replication", "broker/topics"))


def _broker_checks(config: Config, names: Sequence[str]) -> list[Check]:
    kafka = config.kafka
    states = Fact(lambda: broker.topic_states(kafka))
    needs = ("broker/connect",)

    def connect() -> list[Finding]:
        states.get()
        return [ok(f"Kafka at {kafka.bootstrap_servers}"), *trust.of_broker(kafka)]

    return [
        Check("broker", "connect", connect),
        Check("broker", "certificate", lambda: certificates.of_broker(kafka), needs),
        Check("broker", "topics", lambda: broker.topics(states.get()), needs),
        Check("broker", "replicas", lambda: broker.replication(states.get()), needs),
        Check(
            "broker",
            "processes",
            lambda: processes.judge(processes.gather(kafka)),
            ("broker/topics",),
        ),
        Check("broker", "write", lambda: broker.may_write(kafka), ("broker/topics",)),
        Check(
            "broker",
            "heartbeats",
            lambda: broker.heartbeats(broker.newest_heartbeats(kafka), names, kafka.partitions),
            ("broker/topics",),
        ),
    ]


def _sink_checks(config: Config) -> list[Check]:
    from stream_app.migrations import migrations  # noqa: PLC0415  readers' machines need it not

    facts = Fact(
        lambda: sink.gather(config.sink_dsn(), config.sink.schema_name, config.kafka.events_topic)
    )

    def connect() -> list[Finding]:
        return [ok(f"database {facts.get().database['database']}")]

    def schema() -> list[Finding]:
        return sink.schema(facts.get(), len(migrations()))

    return [
        Check("sink", "connect", connect),
        Check("sink", "schema", schema, ("sink/connect",)),
        Check("sink", "privileges", lambda: sink.privileges(facts.get()), ("sink/schema",)),
        Check(
            "sink",
            "workers",
            lambda: sink.workers(facts.get(), config.kafka.partitions),
            ("sink/schema",),
        ),
        Check("sink", "records", lambda: _records(config), ("sink/privileges",)),
        Check(
            "sink",
            "replays",
            lambda: sink.replays(facts.get(), config.kafka.topic("cdrs")),
            ("sink/privileges",),
        ),
    ]


def _records(config: Config) -> list[Finding]:
    from ops.config import worker_settings  # noqa: PLC0415
    from ops.doctor import records  # noqa: PLC0415  readers' machines need it not

    return records.judge(*records.gather(worker_settings(config)))


def _dashboard_checks(config: Config) -> list[Check]:
    section = config.dashboard
    return [
        Check("dashboard", "address", lambda: dashboard.address(section)),
        Check("dashboard", "certificate", lambda: dashboard.certificate(section)),
        Check(
            "dashboard",
            "pages",
            lambda: dashboard.answer(section, dashboard.ask(section)),
            ("dashboard/address",),
        ),
    ]


def _clock_checks(config: Config, names: Sequence[str]) -> list[Check]:
    dsn = config.reference_dsn()
    if dsn is None:
        return []
    rules = config.resolution
    reference = Fact(lambda: clocks.measure(dsn))

    def measured() -> list[Finding]:
        return [ok(f"reference answers within {2_000 * reference.get().error_seconds:.1f} ms")]

    def own() -> list[Finding]:
        return clocks.judge_own(
            clocks.own_clock(), reference.get(), warning_seconds=rules.skew_warning_seconds
        )

    def judged(name: str) -> list[Finding]:
        return clocks.judge(
            clocks.measure(config.servers[name].dsn.get_secret_value()),
            reference.get(),
            warning_seconds=rules.skew_warning_seconds,
            allowed_lateness_seconds=rules.allowed_lateness_seconds,
            corrected=rules.time_correction == "auto",
        )

    found = [
        Check("clocks", "reference", measured),
        Check("clocks", "this machine", own, ("clocks/reference",)),
    ]
    for name in names:
        needs = ("clocks/reference", f"{servers.group_of(name)}/connect")
        found.append(Check("clocks", name, partial(judged, name), needs))
    return found


def report(checked: Sequence[Checked], *, verbose: bool, failed: bool) -> list[str]:
    """A line for each finding, what to do under those that are not in order, the verdict last."""
    lines: list[str] = []
    group = ""
    groups = list(dict.fromkeys(result.check.group for result in checked))
    for result in sorted(checked, key=lambda result: groups.index(result.check.group)):
        shown = [f for f in result.findings if verbose or f.outcome is not Outcome.OK]
        if shown and result.check.group != group:
            group = result.check.group
            lines.append(group)
        for finding in shown:
            lines.append(f"  {finding.outcome:<4}  {result.check.name}: {finding.found}")
            if finding.needed:
                lines.append(f"        needed: {finding.needed}")
            if finding.advice:
                lines.append(f"        do: {finding.advice}")
    return [*lines, verdict(checked, failed=failed)]


def verdict(checked: Sequence[Checked], *, failed: bool) -> str:
    """One line that says it all."""
    counts = {
        outcome: sum(f.outcome is outcome for result in checked for f in result.findings)
        for outcome in Outcome
    }
    told = ", ".join(
        f"{count} {word}"
        for outcome, word in (
            (Outcome.FAIL, "failed"),
            (Outcome.WARN, "to look at"),
            (Outcome.SKIP, "skipped"),
            (Outcome.OK, "in order"),
        )
        if (count := counts[outcome])
    )
    if failed:
        groups = dict.fromkeys(r.check.group for r in checked if r.outcome is Outcome.FAIL)
        return f"NOT in order: {told}" + (f" (first: {next(iter(groups))})" if groups else "")
    return f"In order: {told}"


def as_object(checked: Sequence[Checked], *, failed: bool) -> dict[str, Any]:
    """The same for programs."""
    return {
        "v": JSON_VERSION,
        "ok": not failed,
        "verdict": verdict(checked, failed=failed),
        "findings": [
            {
                "group": result.check.group,
                "check": result.check.name,
                "outcome": finding.outcome.lower(),
                "found": finding.found,
                "needed": finding.needed or None,
                "advice": finding.advice or None,
            }
            for result in checked
            for finding in result.findings
        ],
    }
