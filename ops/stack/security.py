"""TLS, logins and rights of the local stack, for those who want it closed.

Owns what PostgreSQL and Kafka are told for it. Certificates and passwords come from outside
(`cdrstream test-ca` makes the former). There is no way in beside: no plain listener, no `trust`,
and the broker's first users are made with its folder, before it has ever listened.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

from ops.stack.errors import StackError

MECHANISM: Final = "SCRAM-SHA-512"
# No line for a connection without TLS, and none for the socket: who comes so is refused.
HBA: Final = "hostssl all all 127.0.0.1/32 scram-sha-256\n"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A server's certificate: PEM files, the key without a password.

    Attributes:
        authority: Who signed it.
        chain: The certificate.
        key: Its private key.
    """

    authority: Path
    chain: Path
    key: Path

    @classmethod
    def of(cls, folder: Path, name: str) -> Self:
        """As `cdrstream test-ca` names the files."""
        return cls(folder / "ca.pem", folder / f"{name}.pem", folder / f"{name}.key")


@dataclass(frozen=True, slots=True)
class BrokerSecurity:
    """The broker speaks TLS only, to users with a password and nothing but the rights they have.

    Attributes:
        certificate: Its own, for clients and for itself as its own controller.
        users: Passwords by name, as they are from the first start on.
        admin: The one of them that may do everything; the broker itself logs in as it.
    """

    certificate: Certificate
    users: Mapping[str, str] = field(repr=False)
    admin: str = "admin"

    def __post_init__(self) -> None:
        wrong = [
            name
            for name, password in self.users.items()
            if not (re.fullmatch(r"[\w.-]+", name) and re.fullmatch(r"[\w.-]{8,}", password))
        ]
        if wrong or self.admin not in self.users:
            raise StackError(
                f"users of the broker that cannot be: {', '.join(wrong) or self.admin}",
                "names and passwords are of A-Z, a-z, 0-9, _, . and -; passwords 8 or more of them",
            )

    def settings(self) -> dict[str, str]:
        """What goes into `server.properties` over a plain broker's settings."""
        login = (
            "org.apache.kafka.common.security.scram.ScramLoginModule required"
            f' username="{self.admin}" password="{self.users[self.admin]}";'
        )
        mine = self.certificate
        return {
            "listener.security.protocol.map": "CLIENTS:SASL_SSL,CONTROLLER:SSL",
            "sasl.mechanism.inter.broker.protocol": MECHANISM,
            "listener.name.clients.sasl.enabled.mechanisms": MECHANISM,
            f"listener.name.clients.{MECHANISM.lower()}.sasl.jaas.config": login,
            # Users are known only once the controller is: there certificates tell who is there.
            "listener.name.controller.ssl.client.auth": "required",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.key": mine.key.read_text(),
            "ssl.keystore.certificate.chain": mine.chain.read_text(),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.certificates": mine.authority.read_text(),
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "false",
            "super.users": f"User:{self.admin};User:CN={mine.chain.stem}",
        }

    def first_users(self) -> list[str]:
        """Arguments of the formatter that make the users; not for a command line."""
        return [
            word
            for name, password in self.users.items()
            for word in ("--add-scram", f"{MECHANISM}=[name={name},password={password}]")
        ]

    def client_properties(self, user: str) -> dict[str, str]:
        """What a client of librdkafka needs to be that user."""
        return {
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": MECHANISM,
            "sasl.username": user,
            "sasl.password": self.users[user],
            "ssl.ca.location": str(self.certificate.authority),
        }


def argument_file(words: list[str]) -> str:
    """Words as Java's launcher reads them from `@FILE`, which `ps` shows instead of them."""
    quoted = ('"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"' for word in words)
    return "\n".join(quoted) + "\n"
