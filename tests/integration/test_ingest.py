"""The command `ingest` against a real broker: what PostgreSQL wrote, once and again."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ops.stack.stack import Stack
from tests import cli_kit
from tests.reader_kit import Bed, Record, all_arrived, read_topic, streaming

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def bed(make_bed: Callable[..., Bed]) -> Bed:
    made = make_bed()
    made.insert(50)
    with made.connect() as conn:
        conn.execute(
            'update call_state_events set from_url = E\'"B, ""o\\t\\\\ \\n\' || id, to_tag = null,'
            " reference = '' where id < 10"
        )
    return made


def exported(bed: Bed, path: Path, options: str) -> Path:
    with bed.connect() as conn, path.open("wb") as file:
        statement = f"copy call_state_events to stdout {options}"
        with conn.cursor().copy(statement.encode()) as data:
            for part in data:
                file.write(part)
    return path


def config_for(stack: Stack, folder: Path, topic_prefix: str) -> Path:
    config = cli_kit.write_config(folder / f"{topic_prefix}.toml", stack, [])
    done = cli_kit.cdrstream("provision", f"--admin-dsn=sink={stack.sink.dsn}", config=config)
    assert done.returncode == 0, done.stdout
    return config


def events(stack: Stack, prefix: str) -> list[Record]:
    return read_topic(stack.broker.bootstrap_servers, f"{prefix}.call-state-events")


async def test_files_give_the_very_records_of_the_reader(
    bed: Bed, stack: Stack, tmp_path: Path
) -> None:
    async with bed.reading() as reader:
        await streaming(reader)
        await all_arrived(bed)
    theirs = {event.row["id"]: (event.key, event.row) for event in bed.events()}
    config = config_for(stack, tmp_path, "files")
    csv = exported(bed, tmp_path / "rows.csv", "(format csv, header)")
    text = exported(bed, tmp_path / "rows.copy", "")
    for times, path in enumerate((csv, text, csv), 1):
        done = cli_kit.cdrstream("ingest", "--server", bed.name, str(path), config=config)
        assert done.returncode == 0, done.stderr
        assert "50 rows on files.call-state-events" in done.stderr
        found = events(stack, "files")
        assert len(found) == 50 * times
        for event in found:
            assert theirs[event.row["id"]] == (event.key, event.row)
            assert (event.kind, event.value["server"]) == ("event", bed.name)
            assert event.headers["server"].decode() == bed.name
            assert (event.value["clock"], event.value["commit_time"]) == (None, None)
    partitions = {(event.key, event.partition) for event in events(stack, "files")}
    assert len(partitions) == len({key for key, _ in partitions}), "a call stays in its partition"


def test_standard_input_bad_rows_and_exit_codes(stack: Stack, tmp_path: Path) -> None:
    config = config_for(stack, tmp_path, "stdin")
    good = '{"id":1,"call_id":"c","event_type":"R","event_time":"2024-03-04T09:00:00Z"}'
    command = [sys.executable, "-m", "ops.cli", "ingest", "--server=a", "-", f"--config={config}"]
    for strict, code in (([], 0), (["--strict"], 1)):
        done = subprocess.run(
            [*command, *strict],
            input=f"{good}\nnonsense\n",
            capture_output=True,
            text=True,
            check=False,
            env=cli_kit.environment(),
        )
        assert done.returncode == code, done.stderr
        assert "-:2: not JSON" in done.stderr
        assert "1 rows on" in done.stderr
        assert "1 bad rows on stdin.call-state-events.dead-letter" in done.stderr
    dead = read_topic(stack.broker.bootstrap_servers, "stdin.call-state-events.dead-letter")
    assert [letter.raw for letter in dead] == [b"nonsense"] * 2
    assert dead[0].headers["source"] == b"-:2"
    missing = cli_kit.cdrstream("ingest", "--server=a", str(tmp_path / "no.csv"), config=config)
    assert missing.returncode == 2


def test_a_broker_that_is_away_is_a_failure_that_can_be_repeated(
    stack: Stack, tmp_path: Path
) -> None:
    config = tmp_path / "away.toml"
    config.write_text('[kafka]\nbootstrap_servers = "127.0.0.1:1"\n')
    path = tmp_path / "rows.a.jsonl"
    path.write_text('{"call_id":"c","event_type":"R","event_time":"2024-03-04T09:00:00Z"}\n')
    done = cli_kit.cdrstream("ingest", "--server=a", str(path), config=config)
    assert done.returncode == 1
    assert "run it again" in done.stderr
