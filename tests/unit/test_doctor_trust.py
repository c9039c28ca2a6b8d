"""Who could read along or pose as somebody else, as `doctor` tells it."""

from __future__ import annotations

import pytest

from ops.config_kafka import Kafka
from ops.doctor import trust

AWAY = {"same_machine": False, "tls": True}
FAR = "kafka.example.com:9093"


@pytest.mark.parametrize(
    ("dsn", "server", "warned"),
    [
        ("host=h sslmode=verify-full", AWAY, False),
        ("host=h sslmode=require", AWAY, True),
        ("host=h", AWAY, True),
        ("host=h", {**AWAY, "tls": False}, False),  # which is told as such
        ("host=h", {**AWAY, "same_machine": True}, False),
    ],
)
def test_a_server_is_proven_to_be_who_it_is(dsn, server, warned, monkeypatch):
    monkeypatch.delenv("PGSSLMODE", raising=False)
    assert bool(trust.of_server(dsn, server)) == warned
    monkeypatch.setenv("PGSSLMODE", "verify-full")
    assert bool(trust.of_server(dsn, server)) == (warned and "sslmode" in dsn)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bootstrap_servers": "127.0.0.1:9092,[::1]:9092"}, []),
        ({"bootstrap_servers": FAR}, ["reads along", "nobody logs in"]),
        ({"bootstrap_servers": f"127.0.0.1:1, {FAR}"}, ["reads along", "nobody logs in"]),
        (
            {"security_protocol": "sasl_plaintext", "sasl_mechanism": "SCRAM-SHA-512"},
            ["reads along"],
        ),
        ({"security_protocol": "ssl"}, ["nobody logs in"]),
        ({"security_protocol": "ssl", "ssl_certificate_location": "c.pem"}, []),
        ({"security_protocol": "sasl_ssl", "sasl_mechanism": "PLAIN"}, []),
        (
            {
                "security_protocol": "sasl_ssl",
                "sasl_mechanism": "PLAIN",
                "ssl_endpoint_identification_algorithm": "none",
            },
            ["may pose as the broker"],
        ),
    ],
)
def test_the_way_to_the_broker(settings, words):
    found = trust.of_broker(Kafka(**{"bootstrap_servers": FAR, **settings}))
    assert len(found) == len(words)
    for finding, word in zip(found, words, strict=True):
        assert word in str(finding)
