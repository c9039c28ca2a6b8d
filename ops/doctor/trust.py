"""Could anybody on the way read along, or pose as a server or the broker?

Owns that judgement, from settings and what a connection was. On this machine nobody is on the way.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from psycopg.conninfo import conninfo_to_dict

from callstate.addresses import broker_addresses
from ops.dashboard.address import is_loopback
from ops.doctor.checks import Finding, warn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ops.config_kafka import Kafka

_GUIDE: Final = "docs/security.md says how"


def of_server(dsn: str, server: Mapping[str, object]) -> list[Finding]:
    """Whether a server's name is proven; that there is no encryption is told elsewhere."""
    mode = conninfo_to_dict(dsn).get("sslmode") or os.environ.get("PGSSLMODE", "prefer")
    if server["same_machine"] or not server["tls"] or mode == "verify-full":
        return []
    return [
        warn(
            f"sslmode={mode}: anybody may pose as this server",
            "sslmode=verify-full",
            "sslmode=verify-full sslrootcert=... in the dsn, and the server's name as host",
        )
    ]


def of_broker(kafka: Kafka) -> list[Finding]:
    """Whether the way to the broker is encrypted, its name proven, and we are known there."""
    if all(is_loopback(broker.host) for broker in broker_addresses(kafka.bootstrap_servers)):
        return []
    protocol = kafka.security_protocol or "plaintext"
    found = []
    if not protocol.endswith("ssl"):
        found.append(warn(f"{protocol}: anybody on the way reads along", "TLS", _GUIDE))
    elif (
        kafka.enable_ssl_certificate_verification is False
        or kafka.ssl_endpoint_identification_algorithm == "none"
    ):
        found.append(
            warn(
                "anybody may pose as the broker: its certificate or name is not checked",
                "both checked, as they are by default",
                "leave out enable_ssl_certificate_verification and"
                " ssl_endpoint_identification_algorithm; ssl_ca_file names who is trusted",
            )
        )
    if not protocol.startswith("sasl") and kafka.ssl_certificate_location is None:
        found.append(
            warn("nobody logs in at the broker: whoever reaches it may do all", "a user", _GUIDE)
        )
    return found
