"""How the options of `replay` and `export-events` meet the configuration.

Owns that, and the answer to Ctrl-C. Refuses to read, compare, apply and print changes.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ops.config import resolution_config, worker_settings
from ops.errors import EXIT_FAILED, OpsError, UsageError
from ops.invocation import Invocation
from ops.replay import applying, comparing, registry, shadow, telling, words
from ops.replay.driving import Stopped, Tell, drive, settings_json, verify
from ops.replay.pace import step_back
from ops.replay.plan import Plan, Span, plan_topic, span_of
from ops.replay.reading import Reached
from ops.replay.registry import Replay, State
from ops.replay.share import Job
from ops.replay.showing import JSON_VERSION, show, sink_of, write_lines
from ops.replay.watching import Watching
from ops.topics import demand_broker

if TYPE_CHECKING:
    from ops.config import Config
    from ops.replay.shadow import Connection


def run_replay(
    invocation: Invocation,
    *,
    from_text: str | None,
    to_text: str | None,
    server: str | None,
    calls: str | None,
    source: str | None,
    from_servers: bool,
    workers: int | None,
    resume: int | None,
    diff: str | None,
    as_json: bool,
    exit_code: bool,
) -> None:
    """Makes the CDRs of a range again and says what is different; nothing that is billed changes.

    Raises:
        UsageError: A range that cannot be, an unknown server, no export.
        OpsError: The broker is away, or another process is at it.
    """
    step_back()
    config = invocation.config
    _workers(config, workers)  # what is wrong is said before anything is begun
    if resume is None:
        span = _span(from_text, to_text)
        plan = _plan(config, span, server, calls, source, from_servers=from_servers)
    with sink_of(config) as connection:
        if resume is None:
            begun = registry.add(connection, plan, settings_json(resolution_config(config)))
            shadow.create(connection, begun.id)
        else:
            begun = registry.get(connection, resume)
            if begun.is_untold:
                _tell_rest(config, connection, begun)
                return
            if begun.state is not State.RUNNING:
                raise UsageError(f"replay {resume} is {begun.state.value}: nothing to resume")
            if begun.settings != settings_json(resolution_config(config)):
                raise UsageError(
                    f"replay {resume} was begun with other settings", "give the same --set again"
                )
    sys.stderr.write(f"replay {begun.id}: {begun.plan.span}, {begun.plan.records} records\n")
    if begun.plan.missing_until_us is not None:
        sys.stderr.write("records of the range are gone: the topic's retention has eaten them\n")
    done = _driven(config, begun, workers)
    if diff is not None:
        with sink_of(config) as connection:
            write_lines(diff, comparing.changes(connection, done.id))
    show(config, done, as_json=as_json)
    # Of what is gone nobody can say that it is the same.
    if exit_code and (done.result["summary"]["changed"] or done.result["missing_until"]):
        raise typer.Exit(EXIT_FAILED)


def run_verify(
    invocation: Invocation,
    *,
    from_text: str | None,
    to_text: str | None,
    source: str | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Compares the digests of a range's CDRs and of their replay; fails where they differ.

    Raises:
        OpsError: They differ, records of the range are gone, or there are none at all.
    """
    step_back()
    config = invocation.config
    plan = _plan(config, _span(from_text, to_text), None, None, source, from_servers=False)
    job = _job(config, plan, None, workers)
    with Watching(plan.records) as watching, _stoppable() as is_stopped:
        try:
            verified = verify(job, _workers(config, workers), watching.tell, is_stopped)
        except Stopped:
            raise typer.Exit(130) from None
    if as_json:
        told = {
            "v": JSON_VERSION,
            "equal": verified.compared.equal,
            **verified.compared._asdict(),
            "service": str(verified.service),
            "replay": str(verified.replay),
            "inputs": verified.inputs,
            "settings": verified.settings,
            "records": verified.records,
            "newer": verified.later,
        }
        typer.echo(json.dumps(told, indent=2))
    else:
        for line in words.verified_lines(verified):
            typer.echo(line)
    if verified.missing_until_us is not None:
        raise OpsError("records of the range are gone", "a range inside the topic's retention")
    if not verified.records:
        raise OpsError(
            "nothing was compared: no record of the range was read",
            "is it the right topic, or export, and range? Readers write heartbeats all the time",
        )
    if not verified.compared.equal:
        raise OpsError(
            "the service's CDRs are not those of the replay",
            "see what differs: cdrstream replay with the same range",
        )


def run_apply(
    invocation: Invocation, replay_id: int, *, accept_missing: bool, is_sure: bool
) -> None:
    """Puts a replay's records in the place of the service's.

    Raises:
        OpsError: It may not be applied, or nobody has agreed.
    """
    config = invocation.config
    with sink_of(config) as connection:
        chosen = registry.get(connection, replay_id)
        if chosen.is_untold and chosen.state is State.APPLIED:
            _tell_rest(config, connection, chosen)
            return

        def check() -> None:
            applying.check(
                chosen,
                settings_json(resolution_config(config)),
                accept_missing=accept_missing,
                newest=applying.newest_applied(connection, chosen),
            )

        check()
        summary = chosen.result["summary"]
        if not summary["applicable"]:
            raise OpsError(f"replay {replay_id} changes nothing")
        typer.echo(
            f"{summary['applicable']} calls, {summary['minutes']['difference']:+.2f} minutes",
            err=True,
        )
        has_listeners = _demand_listeners_way(config)
        if not is_sure:
            _agree(f"Apply replay {replay_id}?")
        with registry.held(connection, replay_id):
            check()  # who was asked may have taken his time
            if chosen.is_untold and has_listeners:
                telling.tell(connection, config, replay_id)
            done = applying.apply(connection, chosen, listeners=has_listeners)
            told = telling.tell(connection, config, replay_id) if has_listeners else None
    typer.echo(f"replay {replay_id} applied: {done.replaced} calls replaced, {done.left} left")
    if done.left:
        typer.echo("  left: the service has learnt more of them since")
    _say_told(config, told)
    typer.echo(f"  take it back: cdrstream replay undo {replay_id}")


def run_undo(invocation: Invocation, replay_id: int, *, is_sure: bool) -> None:
    """Puts back what an applied replay has replaced.

    Raises:
        OpsError: It is not applied, or nobody has agreed.
    """
    config = invocation.config
    with sink_of(config) as connection:
        chosen = registry.get(connection, replay_id)
        if chosen.is_untold and chosen.state is State.UNDONE:
            _tell_rest(config, connection, chosen)
            return
        has_listeners = _demand_listeners_way(config)
        if not is_sure:
            _agree(f"Take replay {replay_id} back?")
        with registry.held(connection, replay_id):
            if chosen.is_untold and has_listeners:
                telling.tell(connection, config, replay_id)
            done = applying.undo(connection, chosen, listeners=has_listeners)
            told = telling.tell(connection, config, replay_id) if has_listeners else None
    typer.echo(f"replay {replay_id} undone: {done.replaced} calls put back, {done.left} left")
    if done.left:
        typer.echo("  left: the service has learnt more of them since")
    _say_told(config, told)


def run_drop(invocation: Invocation, replay_id: int) -> None:
    """Removes a replay's shadow tables; what an applied one has replaced is kept.

    Raises:
        UsageError: There is no such replay.
    """
    with sink_of(invocation.config) as connection:
        chosen = registry.get(connection, replay_id)
        with registry.held(connection, replay_id):
            shadow.drop(connection, replay_id)
            registry.forget_parts(connection, replay_id)
            if chosen.state is not State.APPLIED:
                registry.set_state(connection, replay_id, State.DROPPED)
    typer.echo(f"replay {replay_id}: shadow tables dropped")


def run_export(
    invocation: Invocation, *, from_text: str | None, to_text: str | None, out: Path
) -> None:
    """Writes the records of a range into a folder.

    Raises:
        UsageError: A range that cannot be, or a folder that holds something.
        OpsError: The broker is away, or not all of the range was there to be written.
    """
    from ops.replay.exporting import export_events  # noqa: PLC0415  on demand

    config = invocation.config
    plan = _plan(config, _span(from_text, to_text), None, None, None, from_servers=False)
    kafka = config.kafka
    with Watching(plan.records) as watching:
        done = export_events(
            kafka.client_properties(),
            kafka.events_topic,
            kafka.topic("call-references"),
            plan,
            out,
            lambda reached: watching.tell("exporting", reached),
        )
    records = sum(file.records for file in done.files)
    typer.echo(f"{records} records in {len(done.files)} files: {out}")
    if plan.missing_until_us is not None:
        raise OpsError(
            "records of the range are gone: the export holds what the topic's retention has left",
            "a range inside the retention; a replay of this export will say the same",
        )
    if not records:
        raise OpsError(
            "nothing was exported: the topic holds no record of the range",
            "is it the right topic and range? Readers write heartbeats all the time",
        )


# -- parts ---------------------------------------------------------------------------------------


def _demand_listeners_way(config: Config) -> bool:
    """Whether revisions are told to anybody; said before anything is swapped if they cannot be."""
    if not config.worker.cdr_stream:
        return False
    telling.demand_listeners_way(config.kafka, config.kafka.topic("cdrs"))
    return True


def _tell_rest(config: Config, connection: Connection, replay: Replay) -> None:
    """What an apply or undo has changed and was not told: it was killed, or Kafka went away.

    Raises:
        OpsError: Kafka is away still.
    """
    topic = config.kafka.topic("cdrs")
    if not _demand_listeners_way(config):
        raise OpsError(
            f"replay {replay.id} is {replay.state.value}, and who listens to {topic} does not know",
            "worker.cdr_stream is off here: resume it where it is on",
        )
    with registry.held(connection, replay.id):
        told = telling.tell(connection, config, replay.id)
    typer.echo(f"replay {replay.id} is {replay.state.value}")
    _say_told(config, told)


def _say_told(config: Config, told: int | None) -> None:
    if told is not None:
        typer.echo(f"  {told} revisions told on {config.kafka.topic('cdrs')}")


def _span(from_text: str | None, to_text: str | None) -> Span:
    if from_text is None or to_text is None:
        raise UsageError("--from and --to are needed", "times like 2024-03-04T09:00:00Z, in UTC")
    return span_of(from_text, to_text)


def _plan(
    config: Config,
    span: Span,
    server: str | None,
    calls: str | None,
    source: str | None,
    *,
    from_servers: bool,
) -> Plan:
    if server is not None and server not in config.server_names:
        known = ", ".join(config.server_names) or "none"
        raise UsageError(f"--server {server}: no such server; configured: {known}")
    names = () if calls is None else _call_ids(Path(calls))
    if source is not None and from_servers:
        raise UsageError("--source and --from-servers: give one of them")
    if source is not None:
        from ops.replay.exported import plan_export  # noqa: PLC0415  on demand

        return plan_export(Path(source), span, server=server, calls=names)
    margin_us = round(config.replay.margin_seconds * 1_000_000)
    if from_servers:
        from ops.replay.from_servers import plan_servers  # noqa: PLC0415  on demand

        return plan_servers(config, span, margin_us, server=server, calls=names)
    kafka = config.kafka
    demand_broker(kafka)
    return plan_topic(
        kafka.client_properties(),
        kafka.events_topic,
        kafka.topic("call-references"),
        span,
        margin_us,
        server=server,
        calls=names,
    )


def _call_ids(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        raise UsageError(f"--calls {path}: no such file") from None
    except UnicodeDecodeError:
        raise UsageError(f"--calls {path}: is not UTF-8 text") from None
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UsageError(f"--calls {path}: holds no Call-ID", "one a line")
    return names


def _job(config: Config, plan: Plan, replay_id: int | None, workers: int | None) -> Job:
    settings = worker_settings(config)
    section = config.replay
    return Job(
        plan=plan,
        resolution=resolution_config(config),
        kafka=settings.librdkafka(),
        topic=settings.events_topic,
        references_topic=settings.references_topic,
        replay_id=replay_id,
        dsn=settings.sink_dsn,
        schema=settings.sink_schema,
        records_per_second_max=section.records_per_second_max / _workers(config, workers),
        queue_kbytes_max=section.queue_kbytes_max,
        checkpoint_seconds=section.checkpoint_seconds,
        servers=_dsns(config) if plan.source == "servers" else {},
    )


def _dsns(config: Config) -> dict[str, str]:
    """Connection strings of the servers, and of the clocks' reference under its own key."""
    from ops.replay.from_servers import REFERENCE  # noqa: PLC0415  on demand

    found = {name: server.dsn.get_secret_value() for name, server in config.servers.items()}
    reference = config.reference_dsn()
    return found if reference is None else {**found, REFERENCE: reference}


def _workers(config: Config, workers: int | None) -> int:
    wanted = config.replay.workers if workers is None else workers
    if not 1 <= wanted <= 64:
        raise UsageError(f"--workers {wanted}: must be from 1 to 64")
    return wanted


def _driven(config: Config, begun: Replay, workers: int | None) -> Replay:
    job = _job(config, begun.plan, begun.id, workers)
    with (
        Watching(begun.plan.records) as watching,
        _measured(config, begun.plan, watching.tell) as tell,
        _stoppable() as is_stopped,
    ):
        try:
            return drive(job, _workers(config, workers), tell, is_stopped)
        except Stopped:
            sys.stderr.write(f"\ninterrupted; go on with: cdrstream replay --resume {begun.id}\n")
            raise typer.Exit(130) from None


@contextmanager
def _measured(config: Config, plan: Plan, tell: Tell) -> Iterator[Tell]:
    """Progress goes to who scrapes this process, too, where it is configured to be scraped."""
    listen = config.replay.metrics_listen
    if not listen:
        yield tell
        return
    from ops.metrics_http import served  # noqa: PLC0415  on demand
    from ops.replay.metrics import ReplayCollector  # noqa: PLC0415

    collector = ReplayCollector(plan.records)

    def both(step: str, reached: Reached) -> None:
        tell(step, reached)
        collector.tell(step, reached.records, reached.event_us)

    with served(listen, collector, lambda: True, lambda: True):
        yield both


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM end the work at the next chunk, with a point to go on from."""
    heard: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: heard.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(heard)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agree(question: str) -> None:
    if not sys.stdin.isatty():
        raise UsageError("nobody is there to agree", "give --yes")
    if not typer.confirm(question, default=False, err=True):
        raise OpsError("nothing was changed")
