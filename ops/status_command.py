"""`cdrstream status`: the picture of `ops.monitor` on a terminal, once or again and again.

Owns the layout of 80 columns. What is judged and worded is the monitor's; header text of strangers
is not in it, and names and errors go through `ops.visible` all the same.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ops.config import Config
from ops.errors import EXIT_FAILED
from ops.monitor import Sampler, one_look
from ops.monitor.facts import Json
from ops.monitor.watched import Watched
from ops.monitor.words import NONE, clock, duration, offset, size
from ops.visible import cut, padded, wrapped

WIDTH = 80
WATCH_SECONDS = 2.0
PLAIN_SECONDS = 10.0
_STYLES = {"ok": "green", "warn": "yellow", "bad": "red"}
_MARKS = {"ok": "ok", "warn": "warn", "bad": "FAIL"}


def run(config: Config, server: str | None, *, watch: bool, check: bool, as_json: bool) -> None:
    """Prints how the system is.

    Args:
        config: The configuration.
        server: Only this one, in more detail.
        watch: Again and again, until Ctrl-C.
        check: Exit with 1 when something needs an operator.
        as_json: The picture itself, as one line of JSON each time.

    Raises:
        ConfigError: The sink is not configured, or there is no such server.
    """
    if server is not None:
        config.server(server)
    if watch:
        _watch(config, server, as_json=as_json)
        return
    picture = one_look(Watched.of(config))
    if as_json:
        _print_json(picture)
    else:
        console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        for line in lines(picture, server):
            console.print(line)
    if check and picture["verdict"]["level"] == "bad":
        raise typer.Exit(EXIT_FAILED)


def _watch(config: Config, server: str | None, *, as_json: bool) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    with Sampler(Watched.of(config)) as sampler:
        sampler.wait_for_all()
        if as_json or not console.is_terminal or console.is_dumb_terminal:
            while True:
                picture = sampler.look()
                if as_json:
                    _print_json(picture)
                else:
                    print(f"{clock(picture['at'])}  {picture['verdict']['text']}", flush=True)
                time.sleep(WATCH_SECONDS if as_json else PLAIN_SECONDS)
        with Live(console=console, auto_refresh=False, screen=True) as live:
            while True:
                live.update(Group(*lines(sampler.look(), server)), refresh=True)
                time.sleep(WATCH_SECONDS)


def _print_json(picture: Json) -> None:
    sys.stdout.write(json.dumps(picture) + "\n")
    sys.stdout.flush()


def lines(picture: Json, server: str | None = None) -> Iterator[Text]:
    """The page, a `Text` a line."""
    verdict = picture["verdict"]
    for line in wrapped(verdict["text"], WIDTH, "", ""):
        yield Text(line, style=_STYLES[verdict["level"]])
    yield Text(
        f"as of {clock(picture['at'])} UTC; floor of the watermark"
        f" {duration(picture['floor_seconds'])}"
    )
    yield Text("")
    chosen = [one for one in picture["servers"] if server in (None, one["name"])]
    yield from _servers(chosen)
    if server is not None:
        yield from _server_detail(chosen[0])
    else:
        yield Text("")
        yield from _partitions(picture)
        yield Text("")
        yield from _workers(picture)
    problems = [one for one in picture["problems"] if server in (None, one["server"])]
    if problems:
        yield Text("")
    for problem in problems:
        first = f"{_MARKS[problem['level']]:<5}"
        for line in wrapped(problem["text"], WIDTH, first, "     "):
            yield Text(line, style=_STYLES[problem["level"]])
        for line in wrapped(problem["do"], WIDTH, "     -> ", "        "):
            yield Text(line)


def _row(cells: Iterable[tuple[str, int]]) -> Text:
    """Cells of a width; a negative width is right-justified."""
    text = ""
    for value, width in cells:
        shown = cut(value, abs(width))
        text += (padded(shown, width) if width > 0 else shown.rjust(-width)) + " "
    return Text(text.rstrip())


def _servers(servers: Iterable[Json]) -> Iterator[Text]:
    yield _row(
        (
            *(("server", 9), ("reader", 10), ("lag", -9), ("unread", -9), ("retained", -9)),
            *(("clock", 23), ("holds", -5)),
        )
    )
    for one in servers:
        slot = one["slot"]
        told = {"off": " off", "cannot tell": " unsure"}.get(one["clock"], "")
        yield _row(
            (
                (one["name"], 9),
                (one["state"], 10),
                (_lag(one["capture_lag"]), -9),
                (size(slot["unread"]), -9),
                (size(slot["retained"]), -9),
                (offset(one["offset"], one["error"]) + told, 23),
                (str(one["holding"] or ""), -5),
            )
        )


def _lag(seconds: float | None) -> str:
    return NONE if seconds is None else duration(max(0.0, seconds))


def _server_detail(one: Json) -> Iterator[Text]:
    slot, traffic = one["slot"], one["traffic"]
    facts: dict[str, Any] = {
        "told": "never" if one["age"] is None else f"{duration(one['age'])} ago",
        "progress": f"{clock(one['progress'])} UTC: all before it is in Kafka",
        "newest row": f"{clock(one['last_row'])} UTC",
        "rows": NONE if one["rows"] is None else f"{one['rows']:,} since the reader started",
        "by calls": traffic and f"clock {offset(traffic['offset'], traffic['error'])}",
        "slot": f"{slot['state']}, safe {size(slot['safe'])}"
        + (f", lost in {duration(slot['seconds_left'])}" if slot["seconds_left"] else ""),
        "holds": f"the watermark of {one['holding']} partitions",
        "reconnects": one["reconnects"],
        "gaps": one["gaps"],
    }
    for name, value in facts.items():
        yield Text(cut(f"  {name:<12}{NONE if value is None else value}", WIDTH))
    error = one["last_error"]
    if error:
        for line in wrapped(
            f"{error['text']} -> {error['advice']}", WIDTH, "  error     ", " " * 12
        ):
            yield Text(line)


def _partitions(picture: Json) -> Iterator[Text]:
    late = [part for part in picture["partitions"] if part["why"] != "up to date"]
    fine = len(picture["partitions"]) - len(late)
    yield Text(f"partitions: {fine} of {len(picture['partitions'])} up to date")
    alike: dict[str, list[Json]] = {}
    for part in late:
        alike.setdefault(part["why"], []).append(part)
    for why, parts in alike.items():
        numbers = ", ".join(str(part["number"]) for part in parts)
        lags = [part["lag"] for part in parts if part["lag"] is not None]
        behind = f"{_lag(max(lags))} behind, " if lags else ""
        for line in wrapped(f"{behind}{why}", WIDTH, f"  {numbers}: ", "      "):
            yield Text(line)


def _worker_state(one: Json) -> str:
    if one["state"] in ("away", "gone"):
        return f"{one['state']} {duration(one['age'])}"
    if one["state"] == "recovering" and one["recovery_records"]:
        return f"{one['recovery_records']:,} to read"
    return str(one["state"])


def _workers(picture: Json) -> Iterator[Text]:
    workers = picture["workers"]
    if not workers:
        yield Text("no worker has reported")
        return
    yield _row((("worker", 28), ("state", 16), ("parts", -5), ("open calls", -10), ("cdrs", -9)))
    for one in workers:
        yield _row(
            (
                (one["id"], 28),
                (
                    _worker_state(one),
                    16,
                ),
                (str(len(one["partitions"])), -5),
                (f"{one['open_calls'] or 0:,}", -10),
                (f"{one['cdrs'] or 0:,}", -9),
            )
        )
