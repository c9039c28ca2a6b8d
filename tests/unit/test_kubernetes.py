"""The Kubernetes manifests: probes that mean something, commands and settings that there are."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from ops.config_sources import load
from ops.dashboard.address import check_address, hash_password
from ops.doctor import trust
from ops.errors import ConfigError
from tests.command_lines import parse

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
CLOSED = FOLDER.with_name("kubernetes-closed")
SERVICES = ("reader", "worker", "dashboard")


def documents(name: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all((FOLDER / f"{name}.yaml").read_text()))


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = documents(name)[0]["spec"]["template"]["spec"]
    return spec


PODS = {name: pod(name) for name in (*SERVICES, "provision")}


@pytest.mark.parametrize("name", PODS)
def test_each_pod_runs_a_command_that_there_is(name):
    (container,) = PODS[name]["containers"]
    assert parse(container["args"]) == name


@pytest.mark.parametrize("name", SERVICES)
def test_probes_ask_where_the_service_answers(name):
    config = load(FOLDER / "cdrstream.toml", {}).config
    (container,) = PODS[name]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert getattr(config, name).metrics_listen == f"0.0.0.0:{ports['metrics']}"
    for probe, path in (
        ("startupProbe", "/healthz"),
        ("livenessProbe", "/healthz"),
        ("readinessProbe", "/readyz"),
    ):
        assert container[probe]["httpGet"] == {"path": path, "port": "metrics"}
    annotations = documents(name)[0]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(ports["metrics"])
    assert PODS[name]["terminationGracePeriodSeconds"] > 10


@pytest.mark.parametrize("name", PODS)
def test_pods_are_nobody_and_write_nowhere(name):
    spec = PODS[name]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] == 10001
    assert spec["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {mount["mountPath"].split("/")[1] for mount in container["volumeMounts"]} == {
        "etc",
        "tmp",
    }


def test_variables_of_services_are_kept_away():
    """They would be unknown settings, and those stop a start."""
    with pytest.raises(ConfigError):
        load(FOLDER / "cdrstream.toml", {"CDRSTREAM_DASHBOARD_PORT": "tcp://10.0.0.9:80"})
    assert all(spec["enableServiceLinks"] is False for spec in PODS.values())


def test_selectors_find_their_pods_and_the_pages_want_a_login():
    for name in SERVICES:
        first, *others = documents(name)
        labels = first["spec"]["template"]["metadata"]["labels"]
        assert first["spec"]["selector"]["matchLabels"] == labels
        for other in others:
            selector = other["spec"]["selector"]
            assert selector.get("matchLabels", selector) == labels
    secret = {"CDRSTREAM_DASHBOARD__PASSWORD_HASH": hash_password("something long")}
    section = load(FOLDER / "cdrstream.toml", secret).config.dashboard
    assert check_address(section, section.listen)


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("name", PODS)
def test_each_manifest_is_what_the_api_says(name, version):
    """Strictly: a field that there is not is a mistake, and an old cluster has to take it too."""
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_a_misspelt_field_is_noticed():
    wrong = documents("worker")[0]
    wrong["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readynessProbe"):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


def built_by_kustomize(folder: Path) -> list[dict[str, Any]]:
    """What would be applied; nothing where there is no kubectl, which the rest does not need."""
    program = shutil.which("kubectl")
    if program is None:
        return []
    told = subprocess.run(
        [program, "kustomize", folder], capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    built = list(YAML(typ="safe").load_all(told.stdout))
    for each in built:
        kubernetes_validate.validate(each, "1.37", strict=True)
    return built


def test_in_the_closed_overlay_each_role_has_a_secret_of_its_own():
    built = built_by_kustomize(CLOSED)
    pods = {
        each["metadata"]["name"]: each["spec"]["template"]["spec"]
        for each in built
        if each["kind"] == "Deployment"
    }
    for name, spec in pods.items():
        (container,) = spec["containers"]
        assert container["envFrom"] == [{"secretRef": {"name": name}}]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert mounts["/etc/cdrstream-ca"] in {volume["name"] for volume in spec["volumes"]}
        assert mounts["/etc/cdrstream"] == "config"
    configs = [each["data"]["cdrstream.toml"] for each in built if each["kind"] == "ConfigMap"]
    assert configs in ([(CLOSED / "cdrstream.toml").read_text()], [])


def test_the_closed_overlay_asks_for_certificates_and_logins_everywhere():
    login = {
        "CDRSTREAM_KAFKA__SASL_USERNAME": "u",
        "CDRSTREAM_KAFKA__SASL_PASSWORD": "p",
        "CDRSTREAM_DASHBOARD__PASSWORD_HASH": hash_password("something long"),
    }
    config = load(CLOSED / "cdrstream.toml", login).config
    text = (CLOSED / "cdrstream.toml").read_text()
    assert "password=" not in text
    assert text.count("sslmode=verify-full sslrootcert=/etc/cdrstream-ca/ca.pem") == 3
    assert trust.of_broker(config.kafka) == []
    assert config.kafka.ssl_ca_location == "/etc/cdrstream-ca/ca.pem"
    assert check_address(config.dashboard, config.dashboard.listen)
    plain = load(FOLDER / "cdrstream.toml", {}).config
    for section in ("reader", "worker", "dashboard"):
        assert getattr(config, section).metrics_listen == getattr(plain, section).metrics_listen
    assert config.server_names == plain.server_names


def test_kustomize_builds_it():
    built = built_by_kustomize(FOLDER)
    images = {
        container["image"]
        for each in built
        if each["kind"] == "Deployment"
        for container in each["spec"]["template"]["spec"]["containers"]
    }
    assert images in ({PODS["provision"]["containers"][0]["image"]}, set())
