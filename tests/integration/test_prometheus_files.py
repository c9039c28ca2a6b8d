"""Prometheus' own checker on our files, and on what a process really exposes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from cdc.exposition import ReaderCollector
from cdc.reader import ServerReader
from cdc.settings import ReaderSettings
from ops.metrics_http import process_registry
from ops.stack.debian import find_promtool

FILES = Path(__file__).resolve().parents[2] / "docker" / "prometheus"


@pytest.fixture(scope="module")
def promtool() -> str:
    return str(find_promtool().path)


def run(promtool: str, *arguments: str, given: bytes | None = None) -> None:
    done = subprocess.run(
        [promtool, *arguments],
        cwd=FILES,
        input=given,
        capture_output=True,
        check=False,
        timeout=120,
        env={**os.environ, "LC_ALL": "C"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode()


def test_the_scrape_configuration_is_one(promtool: str) -> None:
    run(promtool, "check", "config", "prometheus.yml")


def test_rules_and_alerts_are_some(promtool: str) -> None:
    run(promtool, "check", "rules", "rules.yml", "alerts.yml")


def test_alerts_fire_when_they_should(promtool: str) -> None:
    run(promtool, "test", "rules", "alerts_test.yml")


async def test_what_a_reader_exposes_is_as_prometheus_wants_it(promtool: str) -> None:
    collector = ReaderCollector()
    settings = ReaderSettings("a", "host=127.0.0.1", {"bootstrap.servers": "127.0.0.1:1"})
    collector.add(ServerReader(settings))
    registry: CollectorRegistry = process_registry()
    registry.register(collector)
    run(promtool, "check", "metrics", given=generate_latest(registry))
