"""How long others' certificates are good, as `doctor` tells it, and that it cannot tell."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ops.config_kafka import Kafka
from ops.doctor import certificates
from ops.doctor.checks import Outcome
from tests.self_signed import self_signed


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that is good for thirty days and vouches for itself, and its key."""
    return self_signed(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def answering(talk: Callable[[socket.socket], None]) -> Iterator[int]:
    """The port of somebody who talks so with whoever connects."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:  # shut
                    return
                with connection, contextlib.suppress(OSError):
                    talk(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.fixture
def broker(pair: tuple[Path, Path]) -> Iterator[int]:
    """The port of somebody with that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*pair)

    def talk(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1)

    with answering(talk) as port:
        yield port


@pytest.fixture
def shut() -> Iterator[int]:
    """A port at which nobody answers, for as long as the test lasts."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and never listened on
        yield int(bound.getsockname()[1])


def kafka(servers: str, authority: Path | None) -> Kafka:
    return Kafka(
        bootstrap_servers=servers,
        security_protocol="ssl",
        ssl_ca_location=None if authority is None else str(authority),
    )


def test_a_certificate_that_is_read_is_judged(
    broker: int, pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = kafka(f"127.0.0.1:{broker}", pair[0])
    (finding,) = certificates.of_broker(asked)
    assert (finding.outcome, finding.found) == (
        Outcome.OK,
        "the broker's certificate is good for long",
    )
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS_WARN", 60.0)
    (finding,) = certificates.of_broker(asked)
    assert finding.outcome is Outcome.WARN
    assert "good for 30 more days" in finding.found


def test_one_that_is_not_trusted_is_not_called_good(broker: int) -> None:
    (finding,) = certificates.of_broker(kafka(f"127.0.0.1:{broker}", None))
    assert finding.outcome is Outcome.WARN
    assert finding.found == (
        "cannot tell: how long the certificate of 127.0.0.1 is good: self-signed certificate"
    )
    assert f"-connect 127.0.0.1:{broker} <" in finding.advice


def test_one_broker_of_two_that_does_not_answer_is_named(
    broker: int, shut: int, pair: tuple[Path, Path]
) -> None:
    asked = kafka(f"127.0.0.1:{broker},127.0.0.1:{shut}", pair[0])
    (finding,) = certificates.of_broker(asked)
    assert finding.outcome is Outcome.WARN
    assert finding.found.endswith("is good: Connection refused")
    assert f"-connect 127.0.0.1:{shut} " in finding.advice


def test_a_server_that_cannot_be_asked_is_not_called_good(
    shut: int, pair: tuple[Path, Path]
) -> None:
    dsn = f"host=127.0.0.1 sslrootcert={pair[0]} port="
    (finding,) = certificates.of_server(f"{dsn}{shut}")
    assert finding.found.endswith("of 127.0.0.1 is good: Connection refused")
    with answering(lambda connection: connection.sendall(connection.recv(8) and b"N")) as port:
        (finding,) = certificates.of_server(f"{dsn}{port}")
        assert finding.outcome is Outcome.WARN
        assert finding.found.endswith("is good: the server has no TLS")
        assert f"-connect 127.0.0.1:{port} -starttls postgres <" in finding.advice


def test_who_wants_no_tls_is_asked_for_none(shut: int, pair: tuple[Path, Path]) -> None:
    dsn = f"host=127.0.0.1 port={shut} sslrootcert={pair[0]} sslmode=disable"
    assert certificates.of_server(dsn)[0].outcome is Outcome.OK
