"""Why a broker's certificate is not trusted: librdkafka says only that it is not.

Owns one handshake, by Python's own TLS, whose error names the fault: another host's, another
authority's, expired. Asked only after a client has failed.
"""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING, Final

from callstate.addresses import broker_addresses

if TYPE_CHECKING:
    from ops.config_kafka import Kafka

_LIMIT_SECONDS: Final = 3.0


def certificate_fault(kafka: Kafka) -> str:
    """What is wrong with the certificate of the first broker that answers; empty if nothing is."""
    if not (kafka.security_protocol or "").endswith("ssl"):
        return ""
    try:
        context = ssl.create_default_context(cafile=kafka.ssl_ca_location)
    except OSError:
        return ""
    for broker in broker_addresses(kafka.bootstrap_servers):
        try:
            with (
                socket.create_connection((broker.host, broker.port), _LIMIT_SECONDS) as connection,
                context.wrap_socket(connection, server_hostname=broker.host),
            ):
                return ""
        except ssl.SSLCertVerificationError as error:
            return f"{broker}: certificate verify failed: {error.verify_message}"
        except OSError:
            continue
    return ""
