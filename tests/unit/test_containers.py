"""The containers, as far as can be told without an engine: what they are made of and run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ops.config import Config, reader_settings, worker_settings
from ops.config_sections import Dashboard
from ops.config_sources import DEFAULT_FILES, load
from ops.dashboard.address import check_address, hash_password, password_fits
from ops.doctor import trust
from ops.errors import ConfigError
from tests.command_lines import parse

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
CLOSED = ROOT / "deploy" / "compose-closed" / "compose.yaml"
PORTS = {"reader": 9108, "worker": 9109, "dashboard": 9110}


def plain(text: str) -> str:
    """With the defaults of variables, as compose puts them in where the shell sets none."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def compose() -> dict[str, Any]:
    return YAML(typ="safe").load(plain((ROOT / "compose.yaml").read_text()))


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = {name: each for name, each in SERVICES.items() if each["image"] == "cdrstream"}


def configuration(service: str) -> Config:
    variables = {k: v for k, v in OURS[service]["environment"].items() if v is not None}
    return load(ROOT / "docker" / "cdrstream.toml", variables).config


def instructions() -> list[tuple[str, str]]:
    text = DOCKERFILE.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines]


@pytest.mark.parametrize("path", [ROOT / "compose.yaml", CLOSED], ids=["open", "closed"])
def test_compose_is_what_the_specification_says(path):
    told = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", path],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr


def test_the_dockerfile_has_nothing_to_lint():
    linter = Path(sys.executable).with_name("hadolint")
    told = subprocess.run([linter, DOCKERFILE], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("name", OURS)
def test_each_service_runs_a_command_that_there_is(name):
    service = OURS[name]
    assert parse(service["command"]) == service["command"][0]
    check = service.get("healthcheck")
    assert (check is not None) == (name not in ("provision", "traffic"))
    if check is not None:
        kind, program, *arguments = check["test"]
        assert (kind, program) == ("CMD", "cdrstream")
        assert parse(arguments) == "health"
        assert arguments[1] == service["command"][0]


@pytest.mark.parametrize("name", OURS)
def test_each_service_has_a_configuration_that_it_can_start_with(name):
    config = configuration(name)
    for server in config.servers:
        assert "password=" in reader_settings(config, server).dsn
    assert worker_settings(config).sink_dsn
    assert all(
        getattr(config, each).metrics_listen.endswith(f":{port}") for each, port in PORTS.items()
    )
    assert set(
        re.findall(r"host=(\S+)", str([reader_settings(config, n).dsn for n in config.servers]))
    ) <= set(SERVICES)
    assert config.kafka.bootstrap_servers == "kafka:9092"


def test_the_command_lines_name_servers_that_are_configured():
    config = configuration("provision")
    read = [OURS[name]["command"][2] for name in OURS if name.startswith("reader-")]
    assert read == list(config.servers)
    for service in ("provision", "traffic"):
        given = [word for word in OURS[service]["command"] if "dsn=" in word]
        assert [word.split("=")[1] for word in given] == list(config.servers)


def test_the_pages_want_a_login():
    section = configuration("dashboard").dashboard
    assert check_address(section, section.listen) == ("0.0.0.0", 8470)
    assert section.password_hash is not None
    assert password_fits("cdrstream", section.password_hash.get_secret_value())


def test_everything_is_pinned_and_published_on_loopback_alone():
    for name, service in SERVICES.items():
        image = service["image"]
        assert image == "cdrstream" or re.search(r":v?\d+\.\d+", image), image
        assert all(str(port).startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert "no-new-privileges:true" in service["security_opt"], name
    for kind, rest in instructions():
        if kind == "FROM":
            assert re.match(r"python:3\.\d+\.\d+-slim-\w+", rest)
        assert "pip install" not in rest or re.search(r"uv==[\d.]+$", rest)


def test_the_image_is_built_with_the_uv_that_locks():
    (uv,) = re.findall(r"^uv_version=(\S+)", (ROOT / "scripts/setup.sh").read_text(), re.MULTILINE)
    assert f"uv=={uv}" in DOCKERFILE.read_text()


def test_our_containers_write_nowhere_and_are_nobody():
    for name, service in OURS.items():
        assert service["read_only"] is True, name
        assert service["tmpfs"] == ["/tmp"]
        assert service["cap_drop"] == ["ALL"]
    stages = [index for index, (kind, _) in enumerate(instructions()) if kind == "FROM"]
    last = dict(instructions()[stages[-1] :])
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last["USER"])
    assert last["WORKDIR"] == "/tmp"
    assert last["ENTRYPOINT"] == '["cdrstream"]'


def test_services_have_time_to_end_in_order():
    for name, service in OURS.items():
        if service.get("restart"):
            assert int(service["stop_grace_period"].removesuffix("s")) > 10, name


def test_what_is_mounted_or_waited_for_is_there():
    volumes = compose()["volumes"]
    for name, service in SERVICES.items():
        for mount in service.get("volumes", ()):
            source = mount.split(":")[0]
            assert source in volumes or (ROOT / source).exists(), f"{name}: {source}"
        for needed in service.get("depends_on", ()):
            assert needed in SERVICES
    assert set(volumes) <= {m.split(":")[0] for s in SERVICES.values() for m in s["volumes"]}


@pytest.mark.parametrize("role", ["reader", "worker", "dashboard"])
def test_in_the_closed_compose_a_role_has_what_is_its_own_and_nothing_else(role, tmp_path):
    service = YAML(typ="safe").load(CLOSED.read_text())["services"][role]
    assert parse(service["command"]) == role
    _, _, *check = service["healthcheck"]["test"]
    assert (parse(check), check[1:]) == ("health", [role, "--ready"])
    assert service["env_file"] == [f"users/cdrstream-{role}.env"]
    hardened = {name: SERVICES["worker"][name] for name in ("read_only", "tmpfs", "cap_drop")}
    assert {name: service[name] for name in hardened} == hardened
    mounts = [mount.split(":") for mount in service["volumes"]]
    assert all(mode == "ro" for *_, mode in mounts)
    places = {source: target for source, target, _ in mounts}
    assert Path(places.pop(f"./{role}.toml")) in DEFAULT_FILES
    guide = (ROOT / "docs/security.md").read_text()
    (text,) = re.findall(rf"<!-- file: {role}.toml -->\n```toml\n(.*?)```", guide, re.DOTALL)
    named = set(re.findall(r"tls/[\w.]+", text))
    assert {f"./{name}" for name in named} == set(places)
    assert all(target == f"{service['working_dir']}/{name[2:]}" for name, target in places.items())
    path = tmp_path / "cdrstream.toml"
    path.write_text(text)
    login = {"CDRSTREAM_KAFKA__SASL_USERNAME": "u", "CDRSTREAM_KAFKA__SASL_PASSWORD": "p"}
    config = load(path, {**login, **service["environment"]}).config
    assert getattr(config, role).metrics_listen == f"127.0.0.1:{PORTS[role]}"
    assert trust.of_broker(config.kafka) == []


def test_the_pages_of_the_closed_compose_do_not_start_without_a_login():
    service = YAML(typ="safe").load(CLOSED.read_text())["services"]["dashboard"]
    assert service["ports"] == ["127.0.0.1:8470:8470"]
    listen = service["environment"]["CDRSTREAM_DASHBOARD__LISTEN"]
    tls = {"tls_certificate": "tls/dashboard.pem", "tls_key": "tls/dashboard.key"}
    with pytest.raises(ConfigError, match="can be reached by others"):
        check_address(Dashboard(**tls), listen)
    assert check_address(Dashboard(**tls, password_hash=hash_password("long enough")), listen)


def test_prometheus_asks_where_the_services_answer():
    told = YAML(typ="safe").load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    for job in told["scrape_configs"]:
        service = job["job_name"].removeprefix("cdrstream-")
        for place in job["dns_sd_configs"]:
            assert place["port"] == PORTS[service]
            assert all(OURS[name]["command"][0] == service for name in place["names"])
    asked = {n for job in told["scrape_configs"] for p in job["dns_sd_configs"] for n in p["names"]}
    assert asked == set(OURS) - {"provision", "traffic"}


def test_the_steps_of_the_image_make_a_program_that_runs(tmp_path):
    """What COPY copies, on a bare folder, is enough to build and to start every command."""
    bare, site = tmp_path / "src", tmp_path / "site"
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }
    for kind, rest in instructions():
        if kind != "COPY" or rest.startswith("--from"):
            continue
        *sources, target = shlex.split(rest)
        for source in sources:
            assert source in kept, f".dockerignore leaves {source} out"
            place = bare / (target if len(sources) == 1 and target != "./" else source)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, symlinks=True)
            else:
                shutil.copy(ROOT / source, place, follow_symlinks=False)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist"],
        cwd=bare, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        (entries,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "cdrstream = ops.cli:main" in archive.read(entries).decode()
    script = (
        "import ops.cli, ops.dashboard.runbook, stream_app.migrations as m; import sys;"
        f"assert ops.cli.__file__.startswith({str(site)!r}); assert m.migrations();"
        "assert 'SlotLost' in ops.dashboard.runbook.runbook();"
        "sys.argv = ['cdrstream', '--help']; ops.cli.main()"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", script],
        cwd=tmp_path, env={"PYTHONPATH": str(site)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert all(service["command"][0] in ran.stdout for service in OURS.values())
