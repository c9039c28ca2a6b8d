"""Encrypted, with passwords, with the least rights, and nothing of it printed."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from cdc import errors
from cdc.provision import provision_sql
from cdc.reader import ServerReader, run_reader
from cdc.settings import ReaderSettings
from ops.stack import PostgresServer
from ops.stack.kafka import BrokerSpec, Listener
from ops.stack.postgres import ServerSpec
from ops.stack.stack import Stack
from tests import cli_kit
from tests.reader_kit import Bed, all_arrived, streaming, until

pytestmark = pytest.mark.timeout(600)

PG_SECRET = "pg-hush-7f3"
KAFKA_SECRET = "kafka-hush-9a1"
ADMIN_SECRET = "admin-hush-4c2"


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own, made by openssl."""

    folder: Path

    @property
    def ca(self) -> Path:
        return self.folder / "ca.pem"

    def make(self) -> None:
        self._run(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=testers -keyout ca.key -out ca.pem"
        )

    def issue(self, name: str, alternatives: str) -> tuple[Path, Path]:
        """A key and a certificate of `name`."""
        (self.folder / f"{name}.ext").write_text(f"subjectAltName={alternatives}\n")
        self._run(
            f"req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        )
        self._run(
            f"x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2"
            f" -extfile {name}.ext -out {name}.pem"
        )
        return self.folder / f"{name}.key", self.folder / f"{name}.pem"

    def _run(self, command: str) -> None:
        subprocess.run(
            ["openssl", *command.split()], cwd=self.folder, check=True, capture_output=True
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("authority"))
    made.make()
    return made


@pytest.fixture(scope="module")
def stack(authority: Authority) -> Iterator[Stack]:
    key, certificate = authority.issue("broker", "IP:127.0.0.1")
    jaas = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
    second = Listener(
        "SASL_SSL",
        {
            "sasl.enabled.mechanisms": "SCRAM-SHA-256",
            "scram-sha-256.sasl.jaas.config": jaas,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.key": key.read_text(),
            "ssl.keystore.certificate.chain": certificate.read_text(),
        },
    )
    server = ServerSpec("a", password=ADMIN_SECRET)
    with Stack([server], broker=BrokerSpec(second=second, short_lived=True)) as running:
        _encrypt(running["a"], authority)
        credential = UserScramCredentialUpsertion(
            "reader",
            ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096),
            KAFKA_SECRET.encode(),
        )
        admin = running.broker.admin()
        for future in admin.alter_user_scram_credentials([credential]).values():
            future.result(20)
        yield running


def _encrypt(server: PostgresServer, authority: Authority) -> None:
    """TLS for everybody, and no way round it for readers."""
    owner = server.data.stat()
    for path in authority.issue("postgres", "DNS:localhost"):
        target = server.data / path.name
        target.write_bytes(path.read_bytes())
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


@pytest.fixture
def bed(stack: Stack) -> Iterator[Bed]:
    made = Bed(stack)
    yield made
    made.close()


def dsn_of(bed: Bed, authority: Authority, **more: Any) -> str:
    values = {
        "host": "localhost",
        "hostaddr": "127.0.0.1",
        "user": f"{bed.name}_reader",
        "password": PG_SECRET,
        "sslmode": "verify-full",
        "sslrootcert": str(authority.ca),
        **more,
    }
    return bed.stack["a"].dsn_for(bed.name, **values)


def kafka_of(bed: Bed, authority: Authority, secret: str = KAFKA_SECRET) -> dict[str, object]:
    return {
        "bootstrap.servers": bed.stack.broker.second_bootstrap_servers,
        "security.protocol": "sasl_ssl",
        "sasl.mechanism": "SCRAM-SHA-256",
        "sasl.username": "reader",
        "sasl.password": secret,
        "ssl.ca.location": str(authority.ca),
    }


async def test_encrypted_with_passwords_and_least_rights(
    bed: Bed, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    settings = bed.settings(dsn=dsn_of(bed, authority), kafka=kafka_of(bed, authority))
    bed.provision(settings)
    bed.insert(100)
    with caplog.at_level("DEBUG"):
        async with bed.reading(settings) as reader:
            await streaming(reader)
            bed.insert(100)
            assert set((await all_arrived(bed)).values()) == {1}
            with bed.connect() as conn:
                encrypted = conn.execute(
                    "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)"
                    " where application_name = 'cdrstream'"
                ).fetchone()
                role = conn.execute(
                    "select rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolcanlogin,"
                    " rolreplication from pg_roles where rolname = %s",
                    (f"{bed.name}_reader",),
                ).fetchone()
                granted = conn.execute(
                    "select table_name, privilege_type from information_schema.role_table_grants"
                    " where grantee = %s order by 1",
                    (f"{bed.name}_reader",),
                ).fetchall()
                member = conn.execute(
                    "select count(*) from pg_auth_members where member = %s::regrole",
                    (f"{bed.name}_reader",),
                ).fetchone()
    assert encrypted == (True,)
    assert role == (False, False, False, False, True, True)
    assert granted == [("call_state_events", "SELECT"), ("observer_state_events", "SELECT")]
    assert member == (0,)
    said = caplog.text + repr(caplog.records) + "".join(str(r.__dict__) for r in caplog.records)
    told = json.dumps([record.value for record in bed.records(settings.topics.status)])
    for secret in (PG_SECRET, KAFKA_SECRET, ADMIN_SECRET):
        assert secret not in said
        assert secret not in told
        assert secret not in repr(settings)


async def test_each_right_is_needed(bed: Bed, authority: Authority) -> None:
    settings = bed.settings(dsn=dsn_of(bed, authority))
    bed.provision(settings)
    with bed.connect() as conn:
        conn.execute(f"alter role {bed.name}_reader noreplication".encode())
    assert isinstance(await fails(settings), errors.AccessDenied)
    with bed.connect() as conn:
        conn.execute(f"alter role {bed.name}_reader replication".encode())
        conn.execute(f"revoke select on call_state_events from {bed.name}_reader".encode())
    bed.insert(1)
    error = await fails(settings)
    assert isinstance(error, errors.AccessDenied)
    assert "call_state_events" in str(error)
    assert bed.provision(settings), "provision mends it"
    async with bed.reading(settings) as reader:
        await streaming(reader)
        await all_arrived(bed)


async def fails(settings: ReaderSettings) -> errors.CdcError:
    """The error that ends a reader."""
    with pytest.raises(errors.CdcError) as caught:
        await asyncio.wait_for(run_reader(settings, asyncio.Event()), 20)
    return caught.value


async def refused(settings: ReaderSettings) -> str:
    """What a reader says that is not let in, whether it ends or tries again."""
    reader, stop = ServerReader(settings), asyncio.Event()
    task = asyncio.ensure_future(reader.run(stop))
    await until(lambda: reader.last_error is not None)
    stop.set()
    await asyncio.gather(task, return_exceptions=True)
    assert reader.metrics.rows_read_total == 0
    refusals = errors.AccessDenied | errors.ServerUnreachable | errors.KafkaUnreachable
    assert isinstance(reader.last_error, refusals)
    return f"{reader.last_error} {reader.last_error!r} {reader.metrics}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "not-it"},
        {"sslmode": "disable"},
        {"host": "pbx.example.com"},
        {"sslrootcert": "/nonexistent.pem"},
    ],
    ids=["password", "in the clear", "another's certificate", "no authority"],
)
async def test_what_is_not_right_does_not_get_in(
    bed: Bed, authority: Authority, wrong: dict[str, str]
) -> None:
    bed.provision(bed.settings(dsn=dsn_of(bed, authority)))
    text = await refused(bed.settings(dsn=dsn_of(bed, authority, **wrong)))
    assert "not-it" not in text
    assert PG_SECRET not in text


async def test_kafka_refuses_a_wrong_password(bed: Bed, authority: Authority) -> None:
    bed.provision()
    kafka = kafka_of(bed, authority, "not-the-secret")
    text = await refused(bed.settings(kafka=kafka, connect_seconds=3.0))
    assert "not-the-secret" not in text


async def test_the_printed_sql_is_all_that_is_needed(bed: Bed, authority: Authority) -> None:
    settings = bed.settings(dsn=dsn_of(bed, authority))
    script = provision_sql(settings)
    assert PG_SECRET not in script
    with bed.connect() as conn:
        conn.execute(script.encode())
        conn.execute(f"alter role {bed.name}_reader password '{PG_SECRET}'".encode())
    assert bed.provision(settings) == [], "provision finds nothing left to do"
    bed.insert(10)
    async with bed.reading(settings) as reader:
        await streaming(reader)
        bed.insert(10)
        assert set((await all_arrived(bed)).values()) == {1}


def test_the_command_prints_no_secret(stack: Stack, authority: Authority, tmp_path: Path) -> None:
    bed = Bed(stack)
    config = tmp_path / "secure.toml"
    kafka = kafka_of(bed, authority)
    lines = ["[kafka]", "partitions = 2", 'topic_prefix = "secure."']
    lines += [f"{name.replace('.', '_')} = {json.dumps(v)}" for name, v in kafka.items()]
    lines = [line.replace("ssl_ca_location", "ssl_ca_file") for line in lines]
    lines += ["[[servers]]", 'name = "a"', f"dsn = {json.dumps(dsn_of(bed, authority))}"]
    config.write_text("\n".join(lines) + "\n")
    config.chmod(0o600)
    said = ""
    admin = f"--admin-dsn=a={bed.dsn}"
    for arguments in (("provision", "--print-sql"), ("provision", admin), ("config", "show")):
        done = cli_kit.cdrstream(*arguments, config=config)
        assert done.returncode == 0, done.stdout + done.stderr
        said += done.stdout + done.stderr
    log = tmp_path / "reader.log"
    with cli_kit.service("reader", "--debug", config=config, log=log):
        query = "select from pg_replication_slots where slot_name = 'cdrstream_a' and active"
        with bed.connect() as conn:
            cli_kit.until(lambda: conn.execute(query).rowcount)
        said += cli_kit.cdrstream("doctor", "-v", config=config).stdout
    said += log.read_text()
    assert "streaming" in said
    for secret in (PG_SECRET, KAFKA_SECRET, ADMIN_SECRET):
        assert secret not in said
    bed.close()
