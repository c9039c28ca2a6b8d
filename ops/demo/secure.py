"""The demo closed: everything encrypted, everybody logged in, nobody allowed more than they need.

Owns certificates, passwords, and which role's file holds which of them: a reader's file has one
server's password and the reader's at the broker, and nothing else. They are made anew for each demo
and go with its folder. What is refused to whom is tried by `forbidden`.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ops.dashboard.address import hash_password
from ops.demo.plan import CLOCKS, READER_ROLE, REFERENCE, WRITER_ROLE, config_text
from ops.install.acls import Role, users
from ops.install.authority import issue
from ops.stack import SUPERUSER, BrokerSecurity, BrokerSpec, Certificate, ServerSpec, Stack

LOOKER_ROLE: Final = "cdr_dashboard"
_ADMIN: Final = "admin"
_PAGES: Final = "pages"
_HOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Secrets:
    """Certificates and passwords of one demo.

    Attributes:
        folder: The demo's own, which nobody else may enter.
        passwords: By who has it: a role of PostgreSQL (readers': one a server), a user of the
            broker, the superuser, the pages.
    """

    folder: Path
    passwords: Mapping[str, str] = field(repr=False)

    @classmethod
    def make(cls, folder: Path) -> Secrets:
        """New ones; the certificates are in `folder/tls`."""
        issue(folder / "tls", [f"{name},{_HOST}" for name in ("kafka", "postgres", "dashboard")])
        names = [SUPERUSER, WRITER_ROLE, LOOKER_ROLE, _ADMIN, _PAGES, *users(()).values()]
        names += [_reader(server) for server in CLOCKS]
        return cls(folder, {name: secrets.token_urlsafe(24) for name in names})

    @property
    def tls(self) -> Path:
        """Where the certificates are."""
        return self.folder / "tls"

    @property
    def pages_password(self) -> str:
        """Of whoever wants to see the pages."""
        return self.passwords[_PAGES]

    def servers(self) -> list[ServerSpec]:
        """The servers, wrong clocks and all."""
        certificate = Certificate.of(self.tls, "postgres")
        password = self.passwords[SUPERUSER]
        return [
            ServerSpec(name, clock=clock.faketime, password=password, certificate=certificate)
            for name, clock in CLOCKS.items()
        ]

    def broker(self) -> BrokerSpec:
        """The broker, with its users."""
        known = {name: self.passwords[name] for name in (_ADMIN, *users(()).values())}
        return BrokerSpec(security=BrokerSecurity(Certificate.of(self.tls, "kafka"), known, _ADMIN))

    def reader_dsn(self, stack: Stack, server: str) -> str:
        """How a server's reader connects to it."""
        password = self.passwords[_reader(server)]
        return stack[server].dsn_for(user=READER_ROLE, password=password)

    def sink_dsn(self, stack: Stack, role: str) -> str:
        """How a role connects to the database of the CDRs."""
        return stack[REFERENCE].dsn_for(user=role, password=self.passwords[role])

    def write_files(self, stack: Stack) -> dict[str, Path]:
        """A configuration for each role, by name: `admin`, `reader-NAME`, `worker`, ..."""
        readers = {name: self.reader_dsn(stack, name) for name in CLOCKS}
        writer, looker = (self.sink_dsn(stack, role) for role in (WRITER_ROLE, LOOKER_ROLE))

        def text(user: str, dsns: Mapping[str, str], sink: str, *more: str, clock: str = "") -> str:
            kafka = stack.broker.client_properties(user)
            where = kafka.pop("bootstrap.servers")
            return config_text(where, dsns, sink, kafka=kafka, reference_dsn=clock, more=more)

        named = users(())
        files = {
            _ADMIN: text(_ADMIN, readers, writer, "[dashboard]", f"dsn = {json.dumps(looker)}"),
            Role.WORKER: text(named[Role.WORKER], {}, writer),
            Role.REPLAY: text(named[Role.REPLAY], {}, writer),
            Role.DASHBOARD: text(named[Role.DASHBOARD], {}, looker, *self._pages()),
        }
        for name, dsn in readers.items():
            one = {name: dsn}
            files[_reader(name)] = text(named[Role.READER], one, "", clock=readers[REFERENCE])
        return {str(name): self._write(f"{name}.toml", body) for name, body in files.items()}

    def shown(self, stack: Stack) -> dict[str, str]:
        """The superuser's connections for people to type: the password is in a file beside."""
        dsns = {name: conninfo_to_dict(stack[name].dsn) for name in CLOCKS}
        lines = [
            f"{d['host']}:{d['port']}:*:{d['user']}:{d.pop('password')}" for d in dsns.values()
        ]
        known = self._write("pgpass", "\n".join(lines) + "\n")
        return {
            name: make_conninfo("", **{**parts, "passfile": str(known)})
            for name, parts in dsns.items()
        }

    def _pages(self) -> list[str]:
        self._write("pages.password", self.pages_password + "\n")
        return [
            "[dashboard]",
            f"tls_certificate = {json.dumps(str(self.tls / 'dashboard.pem'))}",
            f"tls_key = {json.dumps(str(self.tls / 'dashboard.key'))}",
            f"password_hash = {json.dumps(hash_password(self.pages_password))}",
        ]

    def _write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path


def _reader(server: str) -> str:
    return f"reader-{server}"
