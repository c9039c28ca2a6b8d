"""The systemd units: that systemd takes them, and that they run what there is."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ops import cli
from ops.install.acls import users
from ops.install.units import UNITS, text
from stream_app.settings import WorkerSettings
from tests.command_lines import parse

EXPOSURE_MAX = 2.0  # of 10, as `systemd-analyze security` counts


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path):
    for unit in UNITS:
        (tmp_path / unit.name).write_text(text(unit, "/usr/bin/true", "cdrstream", None))
    return tmp_path


def install(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["install-units", *arguments])


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_unit_runs_a_command_that_there_is(unit):
    assert parse(unit.command.split()) == unit.command.split()[0]


def test_units_say_when_and_how_long():
    settings = WorkerSettings(bootstrap_servers="h:1", sink_dsn="dbname=x")
    for unit in UNITS:
        lines = text(unit, "/usr/bin/true", "cdrstream", None).splitlines()
        values = dict(line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
        assert values["Type"] == "notify"
        assert int(values["WatchdogSec"]) > 0
        assert int(values["TimeoutStopSec"]) > settings.shutdown_seconds
        assert values["RestartPreventExitStatus"] == "2"
        assert "$" not in "\n".join(lines)


def test_a_role_has_its_login_and_an_instance_what_is_its_own():
    found = {}
    for unit in UNITS:
        lines = text(unit, "/usr/bin/true", "cdrstream", None).splitlines()
        own = [line.rpartition("/")[2] for line in lines if line.startswith("EnvironmentFile=")]
        found[unit.name.removesuffix(".service")] = own
    assert found == {
        "cdrstream-reader": ["environment", "cdrstream-reader.env"],
        "cdrstream-reader@": ["environment", "cdrstream-reader.env", "cdrstream-reader-%i.env"],
        "cdrstream-worker@": ["environment", "cdrstream-worker.env", "cdrstream-worker-%i.env"],
        "cdrstream-dashboard": ["environment", "cdrstream-dashboard.env"],
    }
    assert {f"{user}.env" for user in users(()).values()} >= {own[1] for own in found.values()}, (
        "as `acls --make-users` names them"
    )


def analyze(*arguments: str, folder: Path) -> str:
    program = shutil.which("systemd-analyze")
    if program is None:  # a machine without systemd: what is checked above has to do
        return ""
    told = subprocess.run(
        [program, *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stderr


def test_systemd_understands_every_line(folder):
    files = [f"./{unit.name}" for unit in UNITS]
    told = analyze("verify", "--man=no", "--recursive-errors=no", *files, folder=folder)
    assert "cdrstream" not in told, told


def test_the_sandbox_is_tight(folder):
    for unit in UNITS:
        threshold = f"--threshold={EXPOSURE_MAX * 10:.0f}"
        analyze("security", "--offline=yes", "--no-pager", threshold, unit.name, folder=folder)


def test_they_are_printed_or_written(tmp_path):
    printed = install("--print", "--program", "/usr/bin/true")
    assert printed.exit_code == 0
    assert "ExecStart=/usr/bin/true reader --server %i" in printed.output
    assert install("--program", "/usr/bin/true").output == printed.output
    written = install("--to", str(tmp_path), "--program", "/usr/bin/true", "--user", "cdr")
    assert written.exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.service")) == sorted(
        unit.name for unit in UNITS
    )
    assert "User=cdr\n" in (tmp_path / "cdrstream-dashboard.service").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--user", "x y"], "no name of an account"),
        (["--program", "/usr/bin/no-such-program"], "no program"),
        (["--program", "/usr"], "no program"),
    ],
)
def test_what_units_cannot_have_is_refused(arguments, said):
    told = install(*arguments)
    assert told.exit_code == 2
    assert said in told.output


def test_a_program_that_the_sandbox_hides_is_refused(monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: True)
    told = install("--program", "/home/me/.local/bin/cdrstream")
    assert told.exit_code == 2
    assert "sandbox" in told.output


def test_a_folder_that_is_not_there_is_named(tmp_path):
    told = install("--to", str(tmp_path / "none"), "--program", "/usr/bin/true")
    assert told.exit_code == 1
    assert "No such file or directory" in told.output


def test_the_configuration_of_the_command_line_is_the_units(tmp_path):
    Path("own.toml").write_text("")
    told = install("--program", "/usr/bin/true", "--config", "own.toml")
    assert f"Environment=CDRSTREAM_CONFIG={tmp_path}/own.toml\n" in told.output
