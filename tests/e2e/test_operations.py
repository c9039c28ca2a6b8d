"""What operators are told, against the truth: lag that was made on purpose is the lag shown."""

from __future__ import annotations

import asyncio
import csv
import io
import itertools
import json
import re
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import psycopg
import pytest
from psycopg import IsolationLevel
from psycopg.rows import dict_row

from ops.dashboard.calls import Search, _listed, begun
from ops.dashboard.scan import scan
from ops.export import ALL_COLUMNS, COLUMNS
from ops.monitor.watched import Broker
from tests.cli_kit import cdrstream, environment, service, until
from tests.site_kit import PARTITIONS, Site, row, samples, whole_call

STATUS_SECONDS = 2.0  # how old a status may be
HEARTBEAT_SECONDS = 1.0
FLOOR_SECONDS = 2.0  # lateness and heartbeat, as the site is configured
VIEWERS = 100
RSS_MAX_KIB = 80 * 1024


def metrics(site: Site, name: str) -> dict[tuple[str, ...], float]:
    return samples(site.told_port(name, "metrics_served"))


def lag_of_b(site: Site) -> float:
    lag = site.picture()["servers"][1]["capture_lag"]
    assert lag is not None
    return float(lag)


@pytest.fixture
def calm(installation: Site) -> Iterator[Site]:
    """Nothing is late before the test, nor after it."""

    def is_calm() -> bool:
        picture = installation.picture()
        return all(part["why"] == "up to date" for part in picture["partitions"]) and all(
            server["state"] == "streaming" for server in picture["servers"]
        )

    until(is_calm)
    yield installation
    until(is_calm)


def test_an_idle_server_is_not_late(calm: Site) -> None:
    """b wrote nothing for a while; its clock is 5.5 s behind, which is no lag either."""
    lags = []
    deadline = time.monotonic() + 6
    while time.monotonic() < deadline or len(lags) < 20:
        lags.append(lag_of_b(calm))
        time.sleep(0.2)
    assert min(lags) > -0.5
    assert median(lags) < HEARTBEAT_SECONDS + STATUS_SECONDS, lags

    def late() -> float:
        told = metrics(calm, "reader-b")
        local = told["cdrstream_clock_local_offset_seconds",]
        return time.time() - local - told["cdrstream_reader_progress_timestamp_seconds", "b"]

    until(lambda: -0.5 < late() < HEARTBEAT_SECONDS + 1.5)


def test_a_frozen_reader_has_the_lag_that_it_has(calm: Site) -> None:
    with calm.frozen("reader-b") as since:
        until(lambda: calm.picture()["servers"][1]["state"] == "away")
        for _ in range(10):
            picture = calm.picture()
            shown, true = picture["servers"][1]["capture_lag"], picture["at"] - since
            # Its last word may have been a status old, of progress a heartbeat old, and more on a
            # busy machine; but not the 5.5 s of its clock.
            assert -0.5 < shown - true < HEARTBEAT_SECONDS + STATUS_SECONDS + 2.0
            time.sleep(0.3)
        until(
            lambda: (
                metrics(calm, "worker")["cdrstream_stream_holding_partitions", "b"] == PARTITIONS
            )
        )
        told = metrics(calm, "worker")
        behind = time.time() - min(
            value for key, value in told.items() if "stream_watermark_timestamp" in key[0]
        )
        frozen = time.time() - since
        assert -STATUS_SECONDS < behind - frozen - FLOOR_SECONDS < STATUS_SECONDS + 3.0
        assert told["cdrstream_stream_holding_partitions", "a"] == 0
        page = cdrstream("status", config=calm.config)
        words = " ".join(page.stdout.split())
        assert "b holds the watermark: its reader has been away for" in words
        assert cdrstream("status", "--check", config=calm.config).returncode == 1
        detail = cdrstream("status", "b", config=calm.config)
        assert "-> start it: cdrstream reader --server b" in detail.stdout
        assert max(map(len, page.stdout.splitlines())) <= 80


def test_a_dead_reader_is_seen_by_others(calm: Site, tmp_path: Path) -> None:
    calm.signal("reader-b", signal.SIGKILL)
    dashboard = calm.told_port("dashboard", "metrics_served")

    def inactive() -> bool:
        return samples(dashboard)["cdrstream_slot_active", "b", "cdrstream_b"] == 0

    until(inactive)
    told = samples(dashboard)
    assert told["cdrstream_config_server", "b"] == 1
    assert told["cdrstream_slot_state", "b", "cdrstream_b", "reserved"] == 1
    assert told["cdrstream_slot_unread_wal_bytes", "b", "cdrstream_b"] >= 0
    until(lambda: samples(dashboard)["cdrstream_dashboard_problems", "critical"] >= 1)
    log = calm.folder / "reader-b.log"
    again = service("reader", "--server", "b", config=calm.config, log=log)
    calm.processes["reader-b"] = again.__enter__()
    calm.ends.push(again.__exit__)
    until(lambda: samples(dashboard)["cdrstream_slot_active", "b", "cdrstream_b"] == 1)


def test_rows_are_counted_as_they_were_written(calm: Site) -> None:
    def rows() -> float:
        return metrics(calm, "reader-a")["cdrstream_reader_rows_total", "published", "a"]

    def records() -> float:
        return metrics(calm, "worker")["cdrstream_stream_records_total", "applied"]

    before, applied = rows(), records()
    inserted = metrics(calm, "worker")["cdrstream_sink_cdrs_total", "inserted"]
    for number in range(20):
        calm.put(whole_call(f"counted-{number}@example.com"))
    until(lambda: rows() == before + 60)
    until(lambda: records() == applied + 60)
    until(lambda: metrics(calm, "worker")["cdrstream_sink_cdrs_total", "inserted"] == inserted + 20)
    until(lambda: metrics(calm, "worker")["cdrstream_stream_held_records",] < 200)
    told = metrics(calm, "worker")
    assert told["cdrstream_stream_calls_told_total", "bye"] >= 20
    assert told["cdrstream_stream_recovery_remaining_records",] == 0
    assert told["cdrstream_sink_end_to_visible_seconds_count",] >= 20


def test_the_oldest_call_is_the_one_that_talks_longest(calm: Site) -> None:
    calm.put([row("long@example.com", "R", 2_000), row("long@example.com", "S", 1_990, to_tag="t")])

    def began() -> float:
        told = metrics(calm, "worker")
        return time.time() - told.get(("cdrstream_stream_oldest_call_timestamp_seconds",), 0.0)

    until(lambda: 1_990 < began() < 2_200)
    told = calm.picture
    until(lambda: 1_990 < told()["at"] - (told()["sink"]["oldest_call"] or 0) < 2_200)
    calm.put([row("long@example.com", "E", to_tag="t", cseq=2)])
    until(lambda: began() < 1_900)


def test_the_way_to_kafka_is_measured_by_the_servers_own_clock(calm: Site) -> None:
    """b's clock is 5.5 s behind: taken for the process's, each row would seem that old."""

    def told() -> tuple[float, float]:
        name = "cdrstream_reader_commit_to_ack_seconds"
        found = metrics(calm, "reader-b")
        return found.get((f"{name}_count", "b"), 0.0), found.get((f"{name}_sum", "b"), 0.0)

    before, seconds = told()
    for number in range(5):
        calm.put(whole_call(f"way-{number}@example.com"), server="b")
    until(lambda: told()[0] > before)
    count, total = told()
    assert 0 < (total - seconds) / (count - before) < 5.0


def test_calls_tell_of_clocks_what_the_probe_tells(calm: Site) -> None:
    """Where probes do, traffic is looked at now and then: calls are made until one was."""
    offset, error = (f"cdrstream_clock_traffic_{what}_seconds" for what in ("offset", "error"))
    numbers = itertools.count()

    def heard() -> bool:
        call = f"crossing-{next(numbers)}@example.com"
        there = {"via_count": 2, "branch_id": "z9hG4bK2"}
        calm.put([row(call, "R", 5)])
        calm.put([row(call, "R", 4.9, **there), row(call, "S", 4, to_tag="t", **there)], server="b")
        calm.put([row(call, "S", 3.9, to_tag="t"), row(call, "E", 3, to_tag="t", cseq=2)])
        return (offset, "b") in metrics(calm, "worker")

    until(heard)

    def probed() -> float:
        return metrics(calm, "reader-b")["cdrstream_clock_offset_seconds", "b"]

    until(lambda: probed() == pytest.approx(-5.5, abs=0.1))  # a slow probe tells less
    told, known = metrics(calm, "worker"), metrics(calm, "reader-b")
    probe, half_width = (
        known[f"cdrstream_clock_{what}_seconds", "b"] for what in ("offset", "error")
    )
    assert abs(told[offset, "b"] - probe) <= told[error, "b"] + max(half_width, 0.02)
    until(lambda: calm.picture()["servers"][1]["traffic"] is not None)


def test_health(calm: Site) -> None:
    for name in ("reader-a", "worker", "dashboard"):
        port = calm.told_port(name, "metrics_served")
        for path in ("/healthz", "/readyz"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
                assert answer.read() == b"ok\n"


def test_a_call_of_long_ago_is_found_by_when_it_began(
    calm: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hours of records lie behind it; here three do."""
    monkeypatch.setattr("ops.dashboard.scan.RECORDS_MAX", 3)
    monkeypatch.setattr("ops.dashboard.scan.LOOK_SECONDS", 60.0)  # how far, and not how fast
    broker = Broker({"bootstrap.servers": calm.stack.broker.bootstrap_servers}, "sipx.", PARTITIONS)
    topic, call = broker.events_topic, "talking@example.com"
    until(lambda: not scan(broker, topic, call).found)
    with psycopg.connect(calm.stack.sink.dsn, row_factory=dict_row) as sink:
        until(lambda: len(begun(sink, call)) == 2)
        moments = begun(sink, call)
        assert begun(sink, "nobody@example.com") == ()
    told = scan(broker, topic, call, moments)
    assert len(told.found) == 2
    offsets = [record.offset for record in told.found]
    assert offsets == sorted(set(offsets))


def test_a_search_looks_at_so_many_records_and_then_further_back(
    calm: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ops.dashboard.calls.LOOK_ROWS", 10)

    def all_of(**asked: str) -> tuple[int, list[str]]:
        """How many pages it takes, and what is on them."""
        before, pages, found = "", 0, list[str]()
        while pages == 0 or before:
            rows, before, looked = _listed(sink, Search(before=before, **asked))
            pages += 1
            found += [each["call_id"] for each in rows]
            assert (looked is None) == (not before)
        return pages, found

    with psycopg.connect(calm.stack.sink.dsn, row_factory=dict_row) as sink:
        sink.isolation_level = IsolationLevel.REPEATABLE_READ  # while calls go on
        row = sink.execute("SELECT count(*) AS calls FROM cdrs").fetchone()
        assert row is not None
        pages, found = all_of(text="no such user")
        assert found == []
        assert pages == row["calls"] // 10 + 1
        users = sink.execute("SELECT call_id FROM cdrs WHERE caller_aor ILIKE '%alice%'").fetchall()
        pages, found = all_of(text="ALICE")
        assert sorted(found) == sorted(user["call_id"] for user in users)
        assert all_of(text="usual-7@example.com") == (1, ["usual-7@example.com"])
        assert all_of(outcome="T")[1] == []


def test_status_as_json_is_the_picture(calm: Site) -> None:
    pictures = []

    def is_measured_well() -> bool:
        told = cdrstream("status", "--json", config=calm.config)
        assert told.returncode == 0, told.stderr
        pictures.append(json.loads(told.stdout))
        return bool(pictures[-1]["servers"][1]["offset"] == pytest.approx(-5.5, abs=0.1))

    until(is_measured_well)  # a slow probe tells less
    picture = pictures[-1]
    assert picture["v"] == 1
    assert [server["name"] for server in picture["servers"]] == ["a", "b"]
    assert picture["clock_ahead"] == pytest.approx(0, abs=0.5)
    assert cdrstream("status", "nobody", config=calm.config).returncode == 2


def test_export_is_all_of_the_range(calm: Site, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    ago = now - timedelta(hours=1)
    span = ("--from", ago.isoformat(), "--to", now.isoformat())
    out = tmp_path / "cdrs.csv"
    looks = [-1, -2]

    def count() -> int:
        with psycopg.connect(calm.stack.sink.dsn) as sink:
            row = sink.execute(
                "SELECT count(*) FROM cdrs WHERE start_time >= %s AND start_time < %s", (ago, now)
            ).fetchone()
            assert row is not None
            return int(row[0])

    while looks[-1] != looks[-2]:  # a call of an earlier test may be told meanwhile
        looks = [count()]
        told = cdrstream("export", *span, "--out", str(out), config=calm.config)
        assert told.returncode == 0, told.stderr
        looks.append(count())
    assert told.stderr.splitlines()[0] == f"{looks[0]:,} CDRs"
    rows = list(csv.DictReader(io.StringIO(out.read_text(), newline="")))
    assert len(rows) == looks[0]
    assert tuple(rows[0]) == COLUMNS
    formula = next(each for each in rows if each["call_id"].startswith("formula"))
    assert formula["caller_aor"].startswith("'=cmd")
    lines = cdrstream("export", *span, "--format", "jsonl", "--all-columns", config=calm.config)
    first = json.loads(lines.stdout.splitlines()[0])
    assert tuple(first) == ALL_COLUMNS
    backwards = cdrstream("export", "--from", span[3], "--to", span[1], config=calm.config)
    assert backwards.returncode == 2
    assert "is not before" in backwards.stderr


async def test_a_hundred_look_at_once(calm: Site) -> None:
    port = int(calm.url.rpartition(":")[2])

    async def look() -> float:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4 * 1024 * 1024)
        writer.write(b"GET /live?page=overview HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        seen, began = 0, time.monotonic()
        while seen < 4:
            line = await asyncio.wait_for(reader.readline(), 60)
            assert line
            seen += line.startswith(b"data: ")
        took = time.monotonic() - began
        writer.close()
        await writer.wait_closed()
        return took

    took = await asyncio.gather(*(look() for _ in range(VIEWERS)))
    assert max(took) < 30
    status = Path(f"/proc/{calm.processes['dashboard'].pid}/status").read_text()
    rss = int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1])
    assert rss < RSS_MAX_KIB  # with a hundred connections; the target is for one
    port = calm.told_port("dashboard", "metrics_served")
    await asyncio.to_thread(until, lambda: samples(port)["cdrstream_dashboard_clients",] == 0)


def test_an_open_address_is_refused(calm: Site) -> None:
    told = cdrstream("dashboard", "--listen", "0.0.0.0:0", config=calm.config)
    assert told.returncode == 2
    assert "can be reached by others" in told.stderr


def test_the_dashboard_ends_in_order(calm: Site, tmp_path: Path) -> None:
    log = tmp_path / "second.log"
    with service("dashboard", config=calm.config, log=log) as process:
        until(lambda: '"dashboard_served"' in log.read_text())
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_two_workers_hold_what_they_have_and_no_more(calm: Site) -> None:
    """What the other one writes to the changelog is none of ours to hold."""
    log = calm.folder / "worker-2.log"
    with service("worker", config=calm.config, log=log) as second:
        calm.processes["worker-2"] = second
        names = ("worker", "worker-2")

        def parted() -> bool:
            return all(
                metrics(calm, name)["cdrstream_stream_assigned_partitions",] == 1 for name in names
            )

        until(parted)
        for number in range(100):
            calm.put(whole_call(f"parted-{number}@example.com"))
        told = f"{calm.url}/calls?q=parted-99@example.com"
        until(lambda: "completed" in urllib.request.urlopen(told, timeout=60).read().decode())
        # A moment's worth of heartbeats, and not a hundred calls' changelog.
        until(
            lambda: all(
                metrics(calm, name)["cdrstream_stream_held_records",] < 30 for name in names
            )
        )
    del calm.processes["worker-2"]
    until(lambda: metrics(calm, "worker")["cdrstream_stream_assigned_partitions",] == 2)


def test_status_again_and_again(calm: Site) -> None:
    with subprocess.Popen(
        (sys.executable, "-m", "ops.cli", "status", "--watch", "--json", "--config", calm.config),
        stdout=subprocess.PIPE,
        env=environment(),
    ) as process:
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert 1.0 < second["at"] - first["at"] < 60.0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        (
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
            *("-keyout", str(key), "-out", str(made)),
        ),
        check=True,
        capture_output=True,
    )
    return made, key


def test_with_tls_and_a_password_others_may_look(
    calm: Site, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    made, key = certificate
    hashed = subprocess.run(
        (sys.executable, "-m", "ops.cli", "dashboard", "--hash-password"),
        input="correct horse\n",
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    ).stdout.strip()
    log = tmp_path / "open.log"
    settings = {"tls_certificate": made, "tls_key": key, "password_hash": hashed}
    options = [f"--set=dashboard.{name}={value}" for name, value in settings.items()]
    options += ["--set=dashboard.metrics_listen="]
    with service(
        "dashboard", "--listen", "0.0.0.0:0", *options, config=calm.config, log=log
    ) as process:
        until(lambda: '"dashboard_served"' in log.read_text())
        port = re.search(r"https://0\.0\.0\.0:(\d+)/", log.read_text())
        assert port
        url = f"https://localhost:{port[1]}/"
        trusted = ssl.create_default_context(cafile=made)
        until(lambda: _code(url + "healthz", trusted) == 200)
        assert _code(url, trusted) == 401
        assert _code(url + "status.json", trusted) == 401
        jar = urllib.request.HTTPCookieProcessor()
        web = urllib.request.build_opener(urllib.request.HTTPSHandler(context=trusted), jar)
        with web.open(url + "login", data=b"password=correct+horse", timeout=60) as answer:
            assert "Watermarks" in answer.read().decode()
        (cookie,) = jar.cookiejar
        assert cookie.secure
        tries = []

        def asks_for_a_login() -> bool:
            tries.append(_doctor(calm, *options, f"--set=dashboard.listen=0.0.0.0:{port[1]}"))
            return "answers, and asks for a login" in tries[-1]

        until(asks_for_a_login)  # doctor gives a busy machine three seconds
        told = tries[-1]
        assert "pages: 0.0.0.0:" in told
        assert "is good for 2 more days" in told
        told = _doctor(calm, f"--set=dashboard.listen=0.0.0.0:{port[1]}")
        assert "FAIL  address: dashboard.listen" in told
        assert "nobody has to log in" in told
        assert "skip  pages: needs dashboard/address" in told
        assert process.poll() is None
    assert "correct horse" not in log.read_text()
    assert hashed not in log.read_text()


def _doctor(site: Site, *options: str) -> str:
    return cdrstream("doctor", "-v", *options, config=site.config).stdout


def _code(url: str, trusted: ssl.SSLContext) -> int:
    try:
        with urllib.request.urlopen(url, timeout=60, context=trusted) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code
    except urllib.error.URLError:
        return 0
