"""The command line: help, options, exit codes, and what a failure looks like."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ops import cli

COMMANDS = [
    ["provision"], ["reader"], ["worker"], ["resolve"], ["explain"], ["doctor"], ["demo"],
    ["config", "show"], ["stack", "up"], ["stack", "down"],
]  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("CALLRESOLVER_CONFIG", "CDRSTREAM_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


def write(text: str, name: str = "some.toml") -> str:
    Path(name).write_text(text)
    return name


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_the_common_options(command):
    result = run(*command, "--help")
    assert result.exit_code == 0
    for option in ("--config", "--set", "--debug"):
        assert option in result.output


def test_the_config_option_stands_before_or_behind_the_command():
    file = write("[kafka]\npartitions = 3")
    before = run("--config", file, "config", "show", "--json")
    behind = run("config", "show", "--json", "--config", file)
    assert before.output == behind.output
    assert json.loads(before.output)["settings"]["kafka.partitions"]["value"] == 3


def test_a_setting_can_be_given_as_a_flag():
    shown = run("config", "show", "--json", "--set", "kafka.partitions=5")
    setting = json.loads(shown.output)["settings"]["kafka.partitions"]
    assert setting == {"value": 5, "origin": "flag --set kafka.partitions"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["config", "show", "--nonsense"],
        ["resolve"],
        ["resolve", "nowhere.jsonl"],
        ["resolve", "--format", "xml", "x"],
        ["reader"],
        ["reader", "--server", "x"],
        ["worker"],
        ["explain", "x"],
        ["doctor", "--server", "x"],
        ["provision", "--admin-dsn", "x=host=y"],
        ["provision", "--admin-dsn", "sink"],
        ["provision", "--admin-dsn", "sink=no dsn"],
        ["config", "show", "--config", "nowhere.toml"],
        ["config", "show", "--set", "kafka.nonsense=1"],
    ],
    ids=" ".join,
)
def test_bad_usage_or_configuration_ends_with_2(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_wrong_setting_stops_every_command_before_it_starts():
    file = write("[kafka]\npartitons = 3")
    for command in (["reader"], ["worker"], ["doctor"], ["provision"], ["resolve", "."]):
        result = run(*command, "--config", file)
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: {file}: kafka.partitons = 3: unknown setting; did you mean kafka.partitions?\n"
        )


def test_a_database_that_is_away_is_one_line_and_advice():
    result = run("explain", "x", "--set", "sink.dsn=host=127.0.0.1 port=1 dbname=SIPXCDR")
    assert result.exit_code == 1
    first, advice = result.stderr.splitlines()
    assert first.startswith("error: PostgreSQL: connection failed")
    assert advice == "  is PostgreSQL running there, and are host and port of the DSN right?"


def test_an_unexpected_failure_is_one_line_and_a_trace_with_debug(monkeypatch):
    def broken(*_arguments: object, **_options: object) -> None:
        raise RuntimeError("boom with password=geheim")

    monkeypatch.setattr("ops.config_sources.load", broken)
    result = run("config", "show")
    assert result.exit_code == 1
    assert result.stderr == (
        "error: RuntimeError: boom with password=********\n"
        "  run it again with --debug for the trace\n"
    )
    traced = run("config", "show", "--debug")
    assert "Traceback" in traced.stderr
    assert "geheim" not in traced.stderr


def test_an_interrupt_ends_with_130(monkeypatch):
    def interrupted(*_arguments: object, **_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ops.config_sources.load", interrupted)
    assert run("config", "show").exit_code == 130


ROW = {
    "id": 1, "event_time": "2024-03-04 09:00:00.1", "event_type": "R", "cseq": 1, "call_id": "c@h",
    "from_tag": "f", "from_url": "<sip:1@h>;tag=f", "to_url": "<sip:2@h>", "via_count": 1,
}  # fmt: skip
ANSWER = ROW | {"id": 2, "event_type": "S", "to_tag": "t", "event_time": "2024-03-04 09:00:02"}
BYE = ROW | {"id": 3, "event_type": "E", "to_tag": "t", "cseq": 2,
             "event_time": "2024-03-04 09:01:02"}  # fmt: skip


def rows(*told: dict[str, object]) -> str:
    return write("".join(json.dumps(row) + "\n" for row in told), "rows.a.jsonl")


def test_resolve_prints_cdrs_and_takes_options_from_the_configuration():
    file = rows(ROW, ANSWER, BYE)
    result = run("resolve", file, "--provenance", "why.jsonl")
    assert result.exit_code == 0
    cdr = json.loads(result.stdout)
    assert (cdr["termination"], cdr["end_time"]) == ("C", "2024-03-04T09:01:02.000000Z")
    assert json.loads(Path("why.jsonl").read_text())["call_id"] == "c@h"


def test_resolve_refuses_a_reference_without_rows_and_names_those_found():
    result = run("resolve", rows(ROW), "--reference", "z")
    assert result.exit_code == 2
    assert "found: a" in result.stderr


def test_explain_reads_files():
    file = rows(ROW, ANSWER, BYE)
    result = run("explain", "c@h", "--from-rows", file)
    assert result.exit_code == 0
    assert "outcome  C completed" in result.stdout
    as_json = json.loads(run("explain", "c@h", "--from-rows", file, "--json").stdout)
    assert as_json["cdr"]["termination"] == "C"
    assert len(as_json["provenance"]["events"]) == 3


def test_explain_says_what_it_did_not_find():
    file = rows(BYE)
    missing = run("explain", "x@y", "--from-rows", file)
    assert missing.exit_code == 1
    assert "no row of call 'x@y'" in missing.stderr
    dead = run("explain", "c@h", "--from-rows", file)
    assert dead.exit_code == 1
    assert "has no CDR: end only" in dead.stderr


@pytest.mark.parametrize(
    ("arguments", "not_wanted"),
    [
        (["--help"], {"pydantic", "psycopg", "confluent_kafka", "faust", "structlog"}),
        (["worker", "--help"], {"pydantic_settings", "psycopg", "confluent_kafka", "faust"}),
        (["resolve", "rows.a.jsonl"], {"confluent_kafka", "faust", "aiokafka", "structlog"}),
    ],
)
def test_a_command_loads_only_what_it_needs(arguments, not_wanted):
    rows(ROW)
    script = (
        "import sys; from ops.cli import app\n"
        f"try: app({arguments!r})\n"
        "except SystemExit: pass\n"
        f"print(sorted({not_wanted!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True, text=True, check=True, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.stderr.splitlines()[-1] == "[]"


def test_a_reader_that_has_enough_ends_the_command_without_a_word(tmp_path) -> None:
    row = {"event_type": "R", "event_time": "2024-03-04T09:00:00Z", "from_url": "<sip:a@x>"}
    lines = (json.dumps({"id": n, "call_id": f"{n}@x", **row}) for n in range(20_000))
    rows = tmp_path / "rows.a.jsonl"
    rows.write_text("\n".join(lines))  # more than a pipe holds
    command = [sys.executable, "-m", "ops.cli", "resolve", str(rows)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.read(1) == b"{"
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 141


def test_an_export_that_fails_leaves_the_last_one_alone(tmp_path) -> None:
    config = write('[sink]\ndsn = "host=127.0.0.1 port=1 dbname=x user=y"\n')
    out = tmp_path / "cdrs.csv"
    out.write_text("yesterday's")
    times = ("--from", "2024-03-04", "--to", "2024-03-05")
    result = run("export", *times, "--out", str(out), "--config", config)
    assert result.exit_code == 1
    assert "is PostgreSQL running there" in result.stderr
    assert out.read_text() == "yesterday's"
