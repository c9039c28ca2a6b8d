"""The command `health`, which health checks of containers run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner, Result

from ops import cli
from ops.metrics_http import MetricsServer
from ops.stack import ports


class Service:
    """Answers as a service does."""

    def __init__(self) -> None:
        self.alive, self.ready = True, True
        self.why = ""
        self.server = MetricsServer(
            "127.0.0.1:0",
            CollectorRegistry(),
            lambda: self.alive,
            lambda: self.ready,
            lambda: self.why,
        )


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service()
    yield running
    running.server.close()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def health(listen: str, *arguments: str) -> Result:
    setting = f"worker.metrics_listen={listen}"
    return CliRunner().invoke(cli.app, ["health", "worker", *arguments, "--set", setting])


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_service_that_is_well_is_told_so(service, host):
    told = health(f"{host}:{service.server.port}")
    assert (told.exit_code, told.output) == (0, "worker: alive\n")
    assert health(f"{host}:{service.server.port}", "--ready").output == "worker: ready\n"


def test_alive_and_not_ready_are_told_apart(service):
    service.ready = False
    listen = f"127.0.0.1:{service.server.port}"
    assert health(listen).exit_code == 0
    told = health(listen, "--ready")
    assert told.exit_code == 1
    assert "does not do its work (/readyz: 503)\n" in told.output
    service.why = "a: KafkaUnreachable"
    assert "(/readyz: 503): a: KafkaUnreachable\n" in health(listen, "--ready").output
    service.alive = False
    assert "hangs (/healthz: 503)" in health(listen).output


def test_nobody_there_is_a_failure_and_no_address_bad_configuration():
    told = health(f"127.0.0.1:{ports.pick()}")
    assert told.exit_code == 1
    assert "the worker does not answer at 127.0.0.1:" in told.output
    assert health("").exit_code == 2
    assert health("127.0.0.1:0").exit_code == 2
