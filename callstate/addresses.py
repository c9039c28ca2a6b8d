"""Where the brokers are, read off `bootstrap_servers` as Kafka's own clients read it.

Owns that reading, after librdkafka: `[PROTOCOL://]HOST[:PORT]`, comma separated. Every part that
has to know a broker's host or port asks here. Refuses to connect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Final

BROKER_PORT: Final = 9092
_PORT_MAX: Final = 65_535
_PLACE: Final = re.compile(r"(?:\[(?P<ipv6>[^]]+)\]|(?P<name>[^:\[\]\s]*))(?::(?P<port>\d+))?")


@dataclass(frozen=True, slots=True)
class Address:
    """One place.

    Attributes:
        host: Name or IP address, in small letters; IPv6 without brackets.
        port: From 1 to 65535.
        protocol: In small letters, where the address names one; else empty.
    """

    host: str
    port: int
    protocol: str = ""

    def __str__(self) -> str:
        """`HOST:PORT`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def broker_addresses(bootstrap_servers: str) -> tuple[Address, ...]:
    """Every broker that is named, in that order; at least one.

    Raises:
        ValueError: It is written otherwise; says how it must be.
    """
    parts = (part.strip() for part in bootstrap_servers.split(","))
    found = tuple(_address(part) for part in parts if part)
    if not found:
        raise ValueError("must name a broker")
    return found


def _address(text: str) -> Address:
    protocol, _, behind = text.lower().rpartition("://")
    place = behind.partition("/")[0]
    if _is_ipv6(place):  # without brackets there is no telling a port from it
        return Address(place, BROKER_PORT, protocol)
    written = _PLACE.fullmatch(place)
    port = int(written["port"] or BROKER_PORT) if written else 0
    if not written or not 1 <= port <= _PORT_MAX:
        raise ValueError(f"must be HOST:PORT, comma separated, [IPV6]:PORT too: {text!r}")
    return Address(written["ipv6"] or written["name"] or "localhost", port, protocol)


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
