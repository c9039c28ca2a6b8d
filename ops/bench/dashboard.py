"""The dashboard's figures beside their targets: `python -m ops.bench.dashboard`.

Owns both experiments: a running system at a steady rate with one viewer and with a hundred, and a
million CDRs with fifty servers. Viewers are HTTP clients that hold the live feed; what a browser
takes is not the dashboard's. CPU and memory are `/proc`'s of the process that serves.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gzip
import json
import re
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Final
from urllib.parse import urlsplit

import psycopg

from ops.bench.dashboard_million import FIFTY, filled, statuses
from ops.bench.live_calls import LiveCalls
from ops.bench.parts import Part, arguments, run_parts
from ops.bench.stream_bed import Line, Process, cpu_seconds, rss_mb, say, wait_until
from ops.bench.stream_live import all_move, config_for, provisioned
from ops.stack import Stack

CPU_SHARE_MAX: Final = 0.03
RSS_MB_MAX: Final = 80.0
FIRST_VIEW_SECONDS_MAX: Final = 1.0
WEIGHT_KB_MAX: Final = 150.0
MANY: Final = 100
_WARM_SECONDS: Final = 10.0
_LOOKS: Final = 5
_FIGURES: Final = {
    "figures of the hour": re.compile(rb'Calls</th><td class="n">[\d,]+<'),
    "figures of the day": re.compile(rb'Calls</th><td class="n">[\d,]+</td><td class="n">[\d,]+<'),
}
_ASSETS: Final = re.compile(rb'(?:src|href)="(/static/[^"]+)"')


def live(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """Traffic through the whole system, and who looks at it."""
    with Stack(3) as stack, contextlib.ExitStack() as ends:
        config = _config(stack, folder)
        provisioned(stack, config)
        running = {}
        for name in ("reader", "worker", "dashboard"):
            running[name] = Process("ops.cli", [name, "--config", str(config)], folder, name)
            ends.callback(running[name].end)
        with stack.sink.connect() as connection:
            wait_until(lambda: all_move(connection), "all partitions move", *running.values())
        shown = running["dashboard"]
        url = _url(shown)
        with LiveCalls([server.dsn for server in stack.servers], given.rate) as calls:
            time.sleep(_WARM_SECONDS)
            yield from _view(url, "/")
            begun, rows = time.time(), calls.rows
            yield from _watched(shown, url, 1, given.seconds)
            say(f"  {(calls.rows - rows) / (time.time() - begun):,.0f} events/s")
            yield from _watched(shown, url, MANY, given.seconds / 2)
            for path in ("/calls", "/quality", "/gaps", "/replays"):
                _timed(url + path)
            yield Line("memory after every page was looked at", *_memory(shown))


def million(given: argparse.Namespace, folder: Path) -> Iterator[Line]:
    """A million CDRs of a day and fifty servers."""
    with Stack(1) as stack, contextlib.ExitStack() as ends:
        config = _config(stack, folder)
        provisioned(stack, config)
        _more_servers(config, stack.servers[0].dsn_for(user="cdr_reader"))
        say(f"  writing {given.cdrs:,} CDRs")
        filled(stack.sink.dsn, given.cdrs)
        ends.enter_context(statuses(stack.broker.bootstrap_servers))
        shown = Process("ops.cli", ["dashboard", "--config", str(config)], folder, "dashboard")
        ends.callback(shown.end)
        url = _url(shown)
        wait_until(lambda: b"streaming" in _get(url + "/"), "the servers are there", shown)
        say("  looking")
        yield from _view(url, "/")
        with psycopg.connect(stack.sink.dsn) as connection:
            row = connection.execute(
                "SELECT call_id, start_time, id FROM cdrs ORDER BY start_time LIMIT 1 OFFSET %s",
                (given.cdrs // 2,),
            ).fetchone()
        assert row is not None
        for what, path in {
            "newest calls": "/calls",
            "a page in the middle": f"/calls?before={row[1].isoformat()},{row[2]}",
            "one Call-ID": f"/calls?q={row[0]}",
            "a user of whom there are many calls": "/calls?q=sip:17@",
            "a user of whom there is none": "/calls?q=nobody-at-all",
            "a rare outcome": "/calls?outcome=U",
            "suspect ones": "/calls?suspect=1",
            "one call": f"/calls/{row[0]}",
        }.items():
            yield _quick(f"{what}, of {given.cdrs:,}", url + path)
        _get(url + "/quality")
        began = time.monotonic()
        for what, told in _FIGURES.items():
            wait_until(lambda told=told: told.search(_get(url + "/quality")), what, shown)  # type: ignore[misc]
            yield Line(f"{what}, after the first look", f"{time.monotonic() - began:.2f} s")
        yield from _watched(shown, url, 1, given.seconds / 2, f", {FIFTY} servers")


def _config(stack: Stack, folder: Path) -> Path:
    """With the dashboard on a port of its own."""
    path = config_for(stack, folder, 5.0)
    path.write_text(path.read_text() + '[dashboard]\nlisten = "127.0.0.1:0"\n')
    return path


def _more_servers(config: Path, dsn: str) -> None:
    """Up to fifty, all of them one database's."""
    lines = []
    for number in range(1, FIFTY):
        lines += ["[[servers]]", f'name = "s{number}"', f"dsn = {json.dumps(dsn)}"]
    config.write_text(config.read_text() + "\n".join(lines) + "\n")


def _url(dashboard: Process) -> str:
    dashboard.wait_logged("dashboard_served")
    told = re.search(r"dashboard: (http://\S+)/", dashboard.log.read_text())
    assert told is not None
    return told[1]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:  # noqa: S310  loopback
        body: bytes = answer.read()
        return body


def _timed(url: str) -> float:
    """The median of a few looks; the searches of one client are limited to two a second."""
    took = []
    for _ in range(_LOOKS):
        began = time.monotonic()
        _get(url)
        took.append(time.monotonic() - began)
        time.sleep(0.5)
    return median(took)


def _quick(what: str, url: str) -> Line:
    seconds = _timed(url)
    return Line(
        what,
        f"{1_000 * seconds:.0f} ms",
        f"<= {1_000 * FIRST_VIEW_SECONDS_MAX:.0f} ms",
        seconds <= FIRST_VIEW_SECONDS_MAX,
    )


def _view(url: str, path: str) -> Iterator[Line]:
    """A first view: the page and all that it needs, one after the other, as they are sent."""
    looks = [_one_view(url, path) for _ in range(_LOOKS)]
    seconds, kb = median(look[0] for look in looks), looks[0][1] / 1_024
    yield Line(
        "overview with all it needs",
        f"{1_000 * seconds:.0f} ms",
        f"<= {1_000 * FIRST_VIEW_SECONDS_MAX:.0f} ms",
        seconds <= FIRST_VIEW_SECONDS_MAX,
    )
    yield Line("  its weight", f"{kb:.0f} KB", f"<= {WEIGHT_KB_MAX:.0f} KB", kb <= WEIGHT_KB_MAX)


def _one_view(url: str, path: str) -> tuple[float, int]:
    """Seconds and bytes."""
    began = time.monotonic()
    packed = _packed(url + path)
    page = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    weight = len(packed)
    for asset in _ASSETS.findall(page):
        weight += len(_packed(url + asset.decode()))
    return time.monotonic() - began, weight


def _packed(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"accept-encoding": "gzip"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310  loopback
        body: bytes = answer.read()
        return body


def _memory(shown: Process) -> tuple[str, str, bool]:
    megabytes = rss_mb(shown.pid)
    return f"{megabytes:.1f} MB", f"<= {RSS_MB_MAX:.0f} MB", megabytes <= RSS_MB_MAX


def _watched(
    shown: Process, url: str, viewers: int, seconds: float, more: str = ""
) -> Iterator[Line]:
    """What the process takes while so many look."""
    before, began = 0.0, 0.0

    def begin() -> None:
        nonlocal before, began
        before, began = cpu_seconds(shown.pid), time.monotonic()

    events = asyncio.run(_look(url, viewers, seconds, begin))
    share = (cpu_seconds(shown.pid) - before) / (time.monotonic() - began)
    what = f"{viewers} viewer{'s' if viewers > 1 else ''}{more}"
    yield Line(
        f"{what}: CPU, of a core",
        f"{100 * share:.2f} %",
        f"<= {100 * CPU_SHARE_MAX:.0f} %" if viewers == 1 else "",
        share <= CPU_SHARE_MAX if viewers == 1 else None,
    )
    figure, target, met = _memory(shown)
    yield Line("  memory", figure, *((target, met) if viewers == 1 else ()))
    yield Line("  events each of them got a second", f"{events:.2f}", ">= 0.9", events >= 0.9)


async def _look(url: str, viewers: int, seconds: float, begin: Callable[[], None]) -> float:
    """Events a second of the viewer that got the fewest."""
    host, port = urlsplit(url).hostname, urlsplit(url).port
    ready = asyncio.Barrier(viewers + 1)

    async def view() -> int:
        reader, writer = await asyncio.open_connection(host, port, limit=8 * 2**20)
        writer.write(b"GET /live?page=overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        while not (await reader.readline()).startswith(b"data: "):
            pass
        await ready.wait()
        seen, until = 0, time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with contextlib.suppress(TimeoutError):
                seen += (await asyncio.wait_for(reader.readline(), left)).startswith(b"data: ")
        writer.close()
        return seen

    looking = [asyncio.create_task(view()) for _ in range(viewers)]
    await ready.wait()
    begin()
    return min(await asyncio.gather(*looking)) / seconds


PARTS: Final[dict[str, Part]] = {"live": live, "million": million}


def main() -> int:
    """Runs the parts that are asked for and prints one table."""
    asked = arguments("Figures of the dashboard.", PARTS)
    asked.add_argument("--rate", type=float, default=1_000.0, help="events a second")
    asked.add_argument("--seconds", type=float, default=40.0, help="with one viewer")
    asked.add_argument("--cdrs", type=int, default=1_000_000, help="of a day")
    run_parts(PARTS, asked.parse_args())
    return 0


if __name__ == "__main__":
    sys.exit(main())
