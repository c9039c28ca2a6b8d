"""The whole path with TLS, passwords and the least rights, made by the commands that docs name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from ops.install.acls import Role
from ops.stack import PostgresServer, ServerSpec, Stack
from ops.stack.kafka import BrokerSpec, Listener
from tests.cli_kit import cdrstream, service, until
from tests.streaming import call_rows

pytestmark = pytest.mark.timeout(240)

PASSWORD = "a-secret-of-the-test"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    folder = tmp_path / "authority"
    told = cdrstream(
        "test-ca", str(folder), "--host", "broker,127.0.0.1", "--host", "postgres,127.0.0.1"
    )
    assert told.returncode == 0, told.stderr
    return folder


@pytest.fixture
def stack(authority: Path) -> Iterator[Stack]:
    jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    second = Listener(
        "SASL_SSL",
        {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "scram-sha-512.sasl.jaas.config": jaas,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.key": (authority / "broker.key").read_text(),
            "ssl.keystore.certificate.chain": (authority / "broker.pem").read_text(),
        },
    )
    broker = BrokerSpec(
        second=second,
        short_lived=True,
        settings={
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",  # of the plain listener: the administrator's
        },
    )
    with Stack([ServerSpec("a", password=PASSWORD)], broker=broker) as running:
        encrypt(running["a"], authority)
        admin = running.broker.admin()
        how = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
        wanted = [
            UserScramCredentialUpsertion(f"cdrstream-{role}", how, PASSWORD.encode())
            for role in Role
        ]
        for future in admin.alter_user_scram_credentials(wanted).values():
            future.result(20)
        yield running


def encrypt(server: PostgresServer, authority: Path) -> None:
    """TLS and a password for everybody but the administrator of this machine."""
    owner = server.data.stat()
    for name in ("postgres.key", "postgres.pem"):
        target = server.data / name
        target.write_bytes((authority / name).read_bytes())
        target.chmod(0o600)
        os.chown(target, owner.st_uid, owner.st_gid)
    (server.data / "pg_hba.conf").write_text(
        "host all postgres 127.0.0.1/32 scram-sha-256\nhostssl all all 127.0.0.1/32 scram-sha-256\n"
    )
    with server.connect() as conn:
        conn.execute("alter system set ssl_cert_file = 'postgres.pem'")
        conn.execute("alter system set ssl_key_file = 'postgres.key'")
        conn.execute("alter system set ssl = on")
        conn.execute("select pg_reload_conf()")


def test_everything_works_with_the_least_rights(
    stack: Stack, authority: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secure = f" sslmode=verify-full sslrootcert={authority}/ca.pem password={PASSWORD}"
    reads = stack["a"].dsn_for(user="cdr_reader") + secure
    writes = stack["a"].dsn_for(user="cdr_writer") + secure
    common = (
        f'[[servers]]\nname = "a"\ndsn = {json.dumps(reads)}\n[sink]\ndsn = {json.dumps(writes)}\n'
        '[dashboard]\nlisten = "127.0.0.1:0"\n'
    )

    def config(role: str, *lines: str) -> Path:
        path = tmp_path / f"{role}.toml"
        path.write_text("\n".join(["[kafka]", "partitions = 2", *lines, common]))
        return path

    administrator = config("admin", f'bootstrap_servers = "{stack.broker.bootstrap_servers}"')
    told = cdrstream("provision", f"--admin-dsn=a={stack['a'].dsn}", config=administrator)
    assert told.returncode == 0, told.stdout + told.stderr
    told = cdrstream("acls", "--apply", config=administrator)
    assert told.returncode == 0, told.stderr
    own = {
        role: config(
            role,
            f'bootstrap_servers = "{stack.broker.second_bootstrap_servers}"',
            'security_protocol = "sasl_ssl"',
            'sasl_mechanism = "SCRAM-SHA-512"',
            f'sasl_username = "cdrstream-{role}"',
            f'sasl_password = "{PASSWORD}"',
            f'ssl_ca_file = "{authority}/ca.pem"',
        )
        for role in map(str, Role)
    }
    logs = {role: tmp_path / f"{role}.log" for role in own}
    with ExitStack() as running, stack["a"].connect() as a:
        for role in ("reader", "worker", "dashboard"):
            running.enter_context(service(role, config=own[role], log=logs[role]))
        for row in call_rows("c@h", 0):
            names = [column for column in row if column != "id"]
            holes = ", ".join(f"%({column})s" for column in names)
            a.execute(
                f"INSERT INTO call_state_events ({', '.join(names)}) VALUES ({holes})".encode(), row
            )
        try:
            until(lambda: a.execute("SELECT FROM cdrs WHERE termination = 'C'").rowcount)
        except AssertionError as error:
            raise AssertionError(
                {role: log.read_text()[-2000:] for role, log in logs.items() if log.exists()}
            ) from error
        plain = a.execute(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE NOT ssl AND usename LIKE 'cdr%'"
        ).fetchone()
        assert plain == (0,)
        told = cdrstream("status", "--json", config=own["dashboard"])
        assert told.returncode == 0, told.stderr
        assert '"streaming"' in told.stdout, told.stdout
        day = ("--from", "2024-03-04T00:00:00Z", "--to", "2024-03-05T00:00:00Z")
        told = cdrstream("replay", *day, config=own["replay"])
        assert told.returncode == 0, told.stdout + told.stderr
        # And no more than that: the pages' user cannot put an event there.
        rows = tmp_path / "rows.a.jsonl"
        rows.write_text(json.dumps(call_rows("forged@h", 0)[0]) + "\n")
        told = cdrstream("ingest", "--server", "a", str(rows), config=own["dashboard"])
        assert told.returncode == 1, told.stdout
        assert re.search("uthoriz|not allowed|denied|refuse", told.stderr), told.stderr
    for log in logs.values():
        if log.exists():
            assert PASSWORD not in log.read_text()
