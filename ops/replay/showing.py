"""What is printed of replays: the list, one with its changes, one call old against new.

Owns text and JSON of results, on standard output. Refuses to run, apply and undo.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import typer

from ops.config import resolution_config
from ops.errors import OpsError, UsageError
from ops.invocation import Invocation
from ops.replay import comparing, registry, shadow, words
from ops.replay.diff import Kind
from ops.replay.driving import settings_json
from ops.replay.registry import Replay, State
from ops.whole_file import whole_file

if TYPE_CHECKING:
    from ops.config import Config
    from ops.replay.shadow import Connection

JSON_VERSION: Final = 1
_WORST: Final = 10


def run_list(invocation: Invocation, *, as_json: bool) -> None:
    """Prints all replays, the newest first."""
    with sink_of(invocation.config) as connection:
        replays = list(registry.listed(connection))
    if as_json:
        typer.echo(json.dumps([_as_object(replay) for replay in replays], indent=2))
        return
    for line in words.list_lines(replays):
        typer.echo(line)


def run_show(
    invocation: Invocation,
    replay_id: int,
    *,
    changes: bool,
    call_id: str | None,
    kind: str | None,
    as_json: bool,
) -> None:
    """Prints a replay, its changes, or one call old against new.

    Raises:
        UsageError: There is no such replay, kind or change.
    """
    config = invocation.config
    wanted = _kind(kind)
    with sink_of(config) as connection:
        shown = registry.get(connection, replay_id)
        if call_id is not None:
            _show_call(config, connection, shown, call_id, as_json=as_json)
        elif changes or wanted is not None:
            _has_tables(connection, shown)
            found = comparing.changes(connection, replay_id, kind=wanted)
            if as_json:
                write_lines("-", found)
            else:
                for line in words.worst(found):
                    typer.echo(line)
        elif "summary" not in shown.result:
            typer.echo(f"replay {shown.id}: {shown.plan.span}, {shown.state.value}")
            typer.echo(f"  cdrstream replay --resume {shown.id}")
        else:
            show(config, shown, as_json=as_json)


def show(config: Config, replay: Replay, *, as_json: bool) -> None:
    """Prints what a finished replay has found, the worst changes, and what to type next."""
    if as_json:
        typer.echo(json.dumps(_as_object(replay), indent=2))
        return
    for line in words.table(replay, settings_json(resolution_config(config))):
        typer.echo(line)
    if replay.state is not State.DROPPED and replay.result["summary"]["changed"]:
        with sink_of(config) as connection:
            if not _tables_are_there(connection, replay.id):
                return
            typer.echo("")
            for line in words.worst(comparing.changes(connection, replay.id, limit=_WORST)):
                typer.echo(line)
    typer.echo("")
    for line in words.next_steps(replay):
        typer.echo(line)


def _show_call(
    config: Config, connection: Connection, replay: Replay, call_id: str, *, as_json: bool
) -> None:
    from ops.explain import render  # noqa: PLC0415  on demand
    from ops.explain_sink import from_sink  # noqa: PLC0415  on demand

    _has_tables(connection, replay)
    found = list(comparing.changes(connection, replay.id, call_id=call_id))
    if not found:
        raise UsageError(f"replay {replay.id} does not change {call_id!r:.200}")
    change = found[0]
    if as_json:
        typer.echo(json.dumps({"v": JSON_VERSION, **change}, indent=2))
        return
    for line in words.change_lines(change):
        typer.echo(line)
    why = comparing.reasons(connection, replay.id, call_id)
    typer.echo("\n=== as it is")
    try:
        old = from_sink(config.sink_dsn(), call_id, config.sink.schema_name)
    except OpsError:
        typer.echo("the service has told nothing of it")
    else:
        for text in render(*old):
            typer.echo(text.plain)
    typer.echo("\n=== as the replay has it")
    if why is None:
        typer.echo("nothing is known of it")
        return
    for text in render(why, change["new"], str(why.get("hidden_reason") or "")):
        typer.echo(text.plain)


def _has_tables(connection: Connection, replay: Replay) -> None:
    if replay.state is State.RUNNING:
        raise UsageError(
            f"replay {replay.id} is running: it has no changes to show yet",
            f"where it was interrupted: cdrstream replay --resume {replay.id}",
        )
    if not _tables_are_there(connection, replay.id):
        raise UsageError(f"the shadow tables of replay {replay.id} have been dropped")


def _tables_are_there(connection: Connection, replay_id: int) -> bool:
    row = connection.execute(
        "SELECT to_regclass(%s) IS NOT NULL", (f"replay_{replay_id}_changes",)
    ).fetchone()
    return bool(row and row[0])


def _kind(text: str | None) -> Kind | None:
    if text is None:
        return None
    try:
        return Kind(text)
    except ValueError:
        known = ", ".join(f"'{kind.value}'" for kind in Kind)
        raise UsageError(f"--kind {text!r}: must be one of {known}") from None


def _as_object(replay: Replay) -> dict[str, Any]:
    return {
        "v": JSON_VERSION,
        "id": replay.id,
        "state": replay.state.value,
        "untold": replay.is_untold,
        "from_us": replay.plan.span.from_us,
        "to_us": replay.plan.span.to_us,
        "source": replay.plan.source,
        "settings": dict(replay.settings),
        "result": dict(replay.result),
        "version": replay.version,
        "created_at": replay.created_at.isoformat(),
    }


def write_lines(path: str, found: Iterable[dict[str, Any]]) -> None:
    """One object a line; ASCII, for what strangers wrote may be on its way to a terminal."""
    if path == "-":
        for change in found:
            sys.stdout.write(json.dumps(change) + "\n")
        return
    with whole_file(path) as stream:
        for change in found:
            stream.write(json.dumps(change).encode("ascii") + b"\n")


@contextmanager
def sink_of(config: Config) -> Iterator[Connection]:
    """A session in the sink's database."""
    with shadow.connect(config.sink_dsn(), config.sink.schema_name, "cdrstream replay") as found:
        yield found
