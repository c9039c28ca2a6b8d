"""What a newcomer types, in the order of the README, against real servers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from ops.stack import ServerSpec, Stack
from tests.cli_kit import admins, cdrstream, service, until, write_config

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with Stack(2) as running:
        yield running


@pytest.fixture(scope="module")
def config(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("path") / "path.toml", stack, stack.servers[:2])


INSERT = (
    "INSERT INTO call_state_events (observer, event_seq, event_time, event_type, cseq, call_id,"
    " from_tag, to_tag, from_url, to_url, branch_id, via_count)"
    " VALUES (%s, %s, timestamp '2024-03-04 09:00:00' + %s * interval '1 second', %s, %s, %s,"
    " 'f', %s, '\"[red]A\" <sip:1@h>;tag=f', '<sip:2@h>', 'b', 1)"
)


def test_provision_reader_worker_explain_doctor(stack: Stack, config: Path, tmp_path: Path) -> None:
    before = cdrstream("doctor", config=config)
    assert before.returncode == 1
    assert before.stdout.splitlines()[-1].startswith("NOT in order")

    first = cdrstream("provision", *admins(stack.servers[:2]), config=config)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "created        topic path.call-state-events (2 partitions)" in first.stdout
    assert "created        sink: role cdr_writer" in first.stdout
    assert "server b: slot cdrstream_b created" in first.stdout
    again = cdrstream("provision", *admins(stack.servers[:2]), config=config)
    assert again.returncode == 0, again.stdout + again.stderr
    assert {line.split()[0] for line in again.stdout.splitlines()} == {"already"}

    with (
        service("reader", config=config, log=tmp_path / "reader.log") as reader,
        service("worker", config=config, log=tmp_path / "worker.log") as worker,
    ):
        with stack["a"].connect() as a, stack["b"].connect() as b:
            a.execute(INSERT, ("a:5060", 1, 0, "R", 1, "c@h", ""))
            b.execute(INSERT, ("b:5060", 1, 2, "S", 1, "c@h", "t"))
            b.execute(INSERT, ("b:5060", 2, 62, "E", 2, "c@h", "t"))
        with stack.sink.connect() as sink:
            sink.autocommit = True
            until(lambda: sink.execute("SELECT FROM cdrs WHERE termination = 'C'").rowcount)

        explained = cdrstream("explain", "c@h", config=config)
        assert explained.returncode == 0, explained.stderr
        assert '"[red]A" <sip:1@h>' in explained.stdout
        assert "60.000 s long" in explained.stdout
        told = json.loads(cdrstream("explain", "c@h", "--json", config=config).stdout)
        assert told["provenance"]["servers"] == ["a", "b"]
        assert told["cdr"]["connect_time"] == "2024-03-04T09:00:02.000000Z"
        unknown = cdrstream("explain", "c@x", config=config)
        assert unknown.returncode == 1
        assert "the sink holds all calls that ended before" in unknown.stderr

        def all_in_order() -> bool:
            healthy = cdrstream("doctor", "--json", config=config)
            return bool(json.loads(healthy.stdout)["ok"])

        until(all_in_order)
        assert reader.poll() is None
        assert worker.poll() is None
    assert (reader.returncode, worker.returncode) == (0, 0)
    assert cdrstream("doctor", "--strict", config=config).returncode == 1


def test_a_partition_count_that_differs_is_an_error_that_names_both(
    stack: Stack, config: Path, tmp_path: Path
) -> None:
    assert cdrstream("provision", *admins(stack.servers[:2]), config=config).returncode == 0
    other = cdrstream(
        "provision", *admins(stack.servers[:2]), "--set", "kafka.partitions=3", config=config
    )
    assert other.returncode == 1
    assert "path.call-state-events has 2 partitions, kafka.partitions asks for 3" in other.stdout

    def doctor_says_so() -> bool:
        doctor = cdrstream("doctor", "--set", "kafka.partitions=3", "--json", config=config)
        found = [finding["found"] for finding in json.loads(doctor.stdout)["findings"]]
        return "topic path.call-state-events has 2 partitions" in found

    until(doctor_says_so)  # it gives a busy broker three seconds


def test_print_sql_prints_what_an_administrator_types_and_does_nothing(
    stack: Stack, config: Path
) -> None:
    printed = cdrstream("provision", "--print-sql", config=config)
    assert printed.returncode == 0
    for wanted in ("create publication", "CREATE TABLE cdr_provenance", "GRANT SELECT, INSERT"):
        assert wanted in printed.stdout


@pytest.mark.parametrize(
    ("change", "said", "advice"),
    [
        ("servers.b.dsn=host=127.0.0.1 port=1", "Connection refused", "is PostgreSQL running"),
        ("servers.b.dsn={b} dbname=sipxcdr", "does not exist", "case sensitive"),
        ("servers.b.dsn={b} user=nobody_here", "does not exist", "check user"),
        ("servers.b.publication=other", "no publication other", "CREATE PUBLICATION other"),
        ("kafka.bootstrap_servers=127.0.0.1:1", "Kafka at 127.0.0.1:1", "is the broker running"),
    ],
)
def test_what_is_away_or_missing_is_one_clear_line(
    stack: Stack, config: Path, change: str, said: str, advice: str
) -> None:
    assert cdrstream("provision", *admins(stack.servers[:2]), config=config).returncode == 0
    setting = change.format(b=stack["b"].dsn_for(user="cdr_reader"))
    tries: list[CompletedProcess[str]] = []

    def is_said() -> bool:
        tries.append(cdrstream("doctor", "--server", "b", "--set", setting, config=config))
        return said in tries[-1].stdout

    until(is_said)  # doctor gives a busy machine three seconds
    done = tries[-1]
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    line = next(number for number, text in enumerate(lines) if said in text)
    assert "FAIL" in lines[line]
    assert any(advice in text for text in lines[line + 1 : line + 3])


def test_a_server_that_is_not_logical_is_told_by_every_command(
    stack: Stack, tmp_path: Path
) -> None:
    server = stack.add_server(ServerSpec("r", settings={"wal_level": "replica"}))
    config = write_config(tmp_path / "replica.toml", stack, [server])
    as_admin = ("--set", f"servers.r.dsn={server.dsn}")
    done = cdrstream("provision", *admins([server]), *as_admin, config=config)
    assert done.returncode == 1
    assert "wal_level is replica, logical is needed" in done.stdout
    reading = cdrstream("reader", *as_admin, config=config)
    assert reading.returncode == 1
    assert "wal_level" in reading.stderr.splitlines()[-2]
    says = "FAIL  settings: wal_level = replica"
    until(lambda: says in cdrstream("doctor", *as_admin, config=config).stdout)
    stack.remove_server("r")
