"""How long the certificates of servers and broker are still good: the day after, nobody gets in.

Owns one handshake with each, and the judgement. Asks only whoever is trusted already: what is wrong
with a certificate, connecting tells.
"""

from __future__ import annotations

import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from psycopg.conninfo import conninfo_to_dict

from callstate.addresses import Address, broker_addresses
from ops.doctor.checks import TIME_LIMIT_SECONDS, Finding, cannot_tell, ok, warn
from ops.doctor.dashboard import CERTIFICATE_DAYS_WARN

if TYPE_CHECKING:
    from ops.config_kafka import Kafka

_POSTGRES_PORT: Final = 5432
# protocol 3.0, "SSLRequest": its length, and the code that stands for no version.
_SSL_REQUEST: Final = struct.pack("!ii", 8, 80_877_103)


def of_broker(kafka: Kafka) -> list[Finding]:
    """The certificates of the brokers that the configuration names."""
    if not (kafka.security_protocol or "").endswith("ssl"):
        return [ok("no certificate is asked for")]
    context = _trusting(kafka.ssl_ca_location)
    if kafka.ssl_certificate_location is not None and kafka.ssl_key_password is None:
        context.load_cert_chain(kafka.ssl_certificate_location, kafka.ssl_key_location)
    found = []
    for broker in broker_addresses(kafka.bootstrap_servers):
        found += _look(broker, context)
    return found or [ok("the broker's certificate is good for long")]


def of_server(dsn: str) -> list[Finding]:
    """The certificate of the first host of a connection string that names an authority."""
    parts = conninfo_to_dict(dsn)
    authority = parts.get("sslrootcert")
    host = str(parts.get("hostaddr") or parts.get("host") or "").split(",")[0]
    mode = parts.get("sslmode") or os.environ.get("PGSSLMODE")
    if authority is None or mode == "disable" or not host or host.startswith("/"):
        return [ok("no certificate is asked for")]
    port = int(str(parts.get("port") or _POSTGRES_PORT).split(",")[0])
    server = Address(host, port)
    context = _trusting(None if authority == "system" else str(authority))
    found = _look(server, context, _ask_for_tls, " -starttls postgres")
    return found or [ok("its certificate is good for long")]


def _trusting(authority: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=authority)
    context.check_hostname = False  # whoever connects checks it; here it is only read
    return context


def _look(
    place: Address,
    context: ssl.SSLContext,
    before: Callable[[socket.socket], None] = lambda _: None,
    by_hand: str = "",
) -> list[Finding]:
    """What there is to say of one certificate: nothing, if it is good for long.

    Args:
        place: Who is asked.
        context: Whom we trust, and who we are.
        before: Said before the handshake.
        by_hand: How openssl is told to say it.
    """
    try:
        days = _days_left(place, context, before)
    except OSError as error:  # an ssl.SSLError is one
        reason = getattr(error, "verify_message", "") or error.strerror or str(error)
        return [
            cannot_tell(
                f"how long the certificate of {place.host} is good: {reason}",
                f"openssl s_client -connect {place}{by_hand} </dev/null"
                " | openssl x509 -noout -enddate",
            )
        ]
    if days >= CERTIFICATE_DAYS_WARN:
        return []
    return [
        warn(
            f"the certificate of {place.host} is good for {days:.0f} more days",
            f"{CERTIFICATE_DAYS_WARN:.0f}",
            "renew it there in time: afterwards nobody gets in",
        )
    ]


def _days_left(
    place: Address, context: ssl.SSLContext, before: Callable[[socket.socket], None]
) -> float:
    """Days until it ends.

    Raises:
        OSError: There is no way to it from here, or it is not trusted.
    """
    with socket.create_connection((place.host, place.port), TIME_LIMIT_SECONDS) as connection:
        before(connection)
        with context.wrap_socket(connection, server_hostname=place.host) as encrypted:
            told = encrypted.getpeercert() or {}
    return (ssl.cert_time_to_seconds(str(told["notAfter"])) - time.time()) / 86_400


def _ask_for_tls(connection: socket.socket) -> None:
    connection.sendall(_SSL_REQUEST)
    if connection.recv(1) != b"S":
        raise OSError("the server has no TLS")
