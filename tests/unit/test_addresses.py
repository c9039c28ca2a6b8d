"""Where brokers are, in all the ways in which it may be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from callstate.addresses import Address, broker_addresses
from ops.config_kafka import Kafka
from ops.config_sources import load
from ops.doctor import trust
from ops.errors import ConfigError
from stream_app.settings import WorkerSettings, faust_broker


@pytest.mark.parametrize(
    ("text", "host", "port", "protocol"),
    [
        ("k:9093", "k", 9093, ""),
        ("K", "k", 9092, ""),
        ("SSL://k.example.com:9093", "k.example.com", 9093, "ssl"),
        ("sasl_ssl://k", "k", 9092, "sasl_ssl"),
        ("plaintext://k:1/bootstrap", "k", 1, "plaintext"),
        ("10.0.0.1:9093", "10.0.0.1", 9093, ""),
        ("[::1]:9093", "::1", 9093, ""),
        ("[fe80::1]", "fe80::1", 9092, ""),
        ("SSL://[2001:db8::7]:9093", "2001:db8::7", 9093, "ssl"),
        ("2001:db8::7", "2001:db8::7", 9092, ""),
        (":9093", "localhost", 9093, ""),
    ],
)
def test_one_broker(text: str, host: str, port: int, protocol: str) -> None:
    assert broker_addresses(text) == (Address(host, port, protocol),)


def test_blanks_and_empty_places_between_commas_count_for_nothing() -> None:
    found = broker_addresses(" k1:1 ,, k2,\t[::1]:3 , ")
    assert [str(address) for address in found] == ["k1:1", "k2:9092", "[::1]:3"]


@pytest.mark.parametrize(
    "text",
    ["", " , ", "k:", "k:http", "k:0", "k:65536", "k 1:1", "[::1", "[::1]9092", "[]:1", "a:1:2"],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        broker_addresses(text)


def test_every_part_takes_what_librdkafka_takes() -> None:
    text = "SSL://k:9093, [::1], k3"
    settings = WorkerSettings(bootstrap_servers=text, sink_dsn="x")
    assert faust_broker(settings) == ["kafka://k:9093", "kafka://[::1]:9092", "kafka://k3:9092"]


@pytest.mark.parametrize("text", ["localhost", "127.0.0.1", "PLAINTEXT://[::1]:9092, localhost"])
def test_this_machine_is_known_without_a_port_too(text: str) -> None:
    assert trust.of_broker(Kafka(bootstrap_servers=text)) == []
    assert trust.of_broker(Kafka(bootstrap_servers=f"{text},far")) != []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("k:x", "kafka.bootstrap_servers = 'k:x': must be HOST:PORT, comma separated"),
        (",", "kafka.bootstrap_servers = ',': must name a broker"),
        ("k:1,SSL://k:2", "bootstrap_servers says ssl://, security_protocol plaintext"),
    ],
)
def test_a_configuration_without_a_broker_stops_the_start(
    text: str, said: str, tmp_path: Path
) -> None:
    empty = tmp_path / "cdrstream.toml"
    empty.touch()
    with pytest.raises(ConfigError) as caught:
        load(empty, environ={"CDRSTREAM_KAFKA__BOOTSTRAP_SERVERS": text})
    assert said in str(caught.value)
