"""The whole path with TLS, passwords and the least rights, made by what docs/security.md says."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from psycopg.conninfo import make_conninfo
from ruamel.yaml import YAML

from ops.config_sources import load
from ops.dashboard.address import hash_password
from ops.demo.doors import of_kafka, of_postgres
from ops.demo.forbidden import at_the_broker, at_the_database
from ops.doctor import certificates
from ops.doctor.checks import Outcome
from ops.install.acls import Role
from ops.install.authority import issue
from ops.offsets import ends_of
from ops.stack import BrokerSecurity, BrokerSpec, Certificate, ServerSpec, Stack, ports
from tests.cli_kit import ROOT, cdrstream, environment, service, until
from tests.streaming import call_rows

pytestmark = pytest.mark.timeout(600)

GUIDE = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text()
SUPERUSER_SECRET = "superuser-hush-5d1"
ADMIN_SECRET = "admin-hush-8c4"
PLACEHOLDERS = ("of-the-reader", "of-the-writer", "of-the-pages")
DAY = ("--from", "2024-03-04T00:00:00Z", "--to", "2024-03-05T00:00:00Z")


@dataclass(slots=True)
class Place:
    """A folder in which the guide was followed, and the closed stack that it was followed with."""

    folder: Path
    stack: Stack
    environ: dict[str, str] = field(default_factory=dict)

    def follow(self, block: str) -> subprocess.CompletedProcess[str]:
        """Types what stands in the guide."""
        told = typed(block, self.folder, {**self.environ, **self.login("admin")})
        assert told.returncode == 0, told.stdout + told.stderr
        return told

    def login(self, role: str) -> dict[str, str]:
        """A role's way into the broker, from the file that was made of it."""
        if role == "admin":
            return {"CDRSTREAM_KAFKA__SASL_PASSWORD": ADMIN_SECRET}
        lines = (self.folder / "users" / f"cdrstream-{role}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def as_role(self, role: str, file: str | None = None, **settings: str) -> dict[str, object]:
        """How a command is run as a role: arguments of `cdrstream` and `service`.

        Settings are told by the environment (`kafka__sasl_password=...`), as passwords should be.
        """
        told = {f"CDRSTREAM_{name.upper()}": value for name, value in settings.items()}
        return {
            "config": Path(f"{file or role}.toml"),
            "cwd": self.folder,
            "environ": {**self.environ, **self.login(role), **told},
        }

    def properties(self, role: str) -> dict[str, str]:
        """The same for a client of the broker."""
        login = self.login(role)
        return {
            **self.stack.broker.client_properties(),
            "sasl.username": login["CDRSTREAM_KAFKA__SASL_USERNAME"],
            "sasl.password": login["CDRSTREAM_KAFKA__SASL_PASSWORD"],
        }

    def dsn(self, file: str) -> str:
        """The connection that a role's file names, as seen from here."""
        found = re.search(r'\ndsn = "(.*)"', (self.folder / f"{file}.toml").read_text())
        assert found is not None
        where = {"hostaddr": "127.0.0.1", "port": self.stack["a"].port}
        return make_conninfo(found[1], **where, sslrootcert=str(self.folder / "tls/ca.pem"))

    @property
    def secrets(self) -> list[str]:
        """All passwords that there are."""
        roles = [self.login(role)["CDRSTREAM_KAFKA__SASL_PASSWORD"] for role in Role]
        return [SUPERUSER_SECRET, ADMIN_SECRET, *PLACEHOLDERS, *roles]


def typed(block: str, folder: Path, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    (text,) = re.findall(rf"<!-- run: {block} -->\n```sh\n(.*?)```", GUIDE, re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["sh", "-euc", text],
        cwd=folder,
        env={**environment(), **environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("guide")
    for name, text in re.findall(r"<!-- file: (\S+) -->\n```toml\n(.*?)```", GUIDE, re.DOTALL):
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    told = typed("certificates", folder, {})
    assert told.returncode == 0, told.stderr
    tls = folder / "tls"
    server = ServerSpec(
        "a",
        password=SUPERUSER_SECRET,
        certificate=Certificate.of(tls, "db-a.example.com"),
        settings={"log_statement": "all"},
    )
    security = BrokerSecurity(Certificate.of(tls, "kafka"), {"admin": ADMIN_SECRET})
    with Stack([server], broker=BrokerSpec(short_lived=True, security=security)) as stack:
        known = folder / "pgpass"
        known.write_text(f"*:*:*:postgres:{SUPERUSER_SECRET}\n")
        known.chmod(0o600)
        made = Place(folder, stack)
        made.environ |= {
            "CDRSTREAM_KAFKA__BOOTSTRAP_SERVERS": stack.broker.bootstrap_servers,
            "PGHOSTADDR": "127.0.0.1",  # the guide's names lead nowhere here
            "PGPORT": str(stack["a"].port),
            "PGPASSFILE": str(known),
        }
        made.follow("rights")
        yield made


def test_the_guide_works_and_nothing_tells_a_password(place: Place) -> None:
    logs = {role: place.folder / f"{role}.log" for role in ("reader", "worker", "dashboard")}
    with ExitStack() as running, place.stack["a"].connect() as a:
        for role, log in logs.items():
            listen = ("--listen", "127.0.0.1:0") if role == "dashboard" else ()
            running.enter_context(service(role, *listen, log=log, **place.as_role(role)))
        for row in call_rows("c@h", 0):
            names = [column for column in row if column != "id"]
            holes = ", ".join(f"%({column})s" for column in names)
            a.execute(
                f"INSERT INTO call_state_events ({', '.join(names)}) VALUES ({holes})".encode(), row
            )
        try:
            until(lambda: a.execute("SELECT FROM cdrs WHERE termination = 'C'").rowcount)
            until(lambda: "dashboard: https://" in logs["dashboard"].read_text())
        except AssertionError as error:
            raise AssertionError(
                {role: log.read_text()[-2000:] for role, log in logs.items()}
            ) from error
        plain = a.execute(
            "SELECT usename FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
            " WHERE NOT ssl AND backend_type IN ('client backend', 'walsender')"
        ).fetchall()
        assert plain == []
        until(lambda: looked(place), 300)
        told = place.follow("look")
        replayed = cdrstream("replay", *DAY, **place.as_role("replay", "worker"))
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        listed = command_lines()
    shown = cdrstream("config", "show", **place.as_role("admin")).stdout
    said = {
        **{role: log.read_text() for role, log in logs.items()},
        "commands": told.stdout + told.stderr + replayed.stdout + replayed.stderr + shown,
        "ps": listed,
        "PostgreSQL": place.stack["a"].log.read_text(errors="replace"),
        "Kafka": place.stack.broker.log.read_text(errors="replace"),
    }
    assert "CREATE ROLE" in said["PostgreSQL"], "statements are logged there"
    for secret in place.secrets:
        assert [who for who, text in said.items() if secret in text] == []


def looked(place: Place) -> bool:
    """Whether doctor finds all in order, which gives each answer three seconds, and status too."""
    told = typed("look", place.folder, {**place.environ, **place.login("admin")})
    return told.returncode == 0 and "streaming" in told.stdout


def command_lines() -> str:
    """What `ps` shows to everybody on this machine."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                found.append((folder / "cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    return "\n".join(found)


def test_the_closed_compose_comes_up_in_the_guides_folder(place: Place) -> None:
    """Its commands, variables and health checks, without containers, in that folder."""
    told = YAML(typ="safe").load((ROOT / "deploy/compose-closed/compose.yaml").read_text())
    with ExitStack() as running:
        checks = {}
        for role, one in told["services"].items():
            (login,) = one["env_file"]
            own = one["environment"]
            if role == "dashboard":
                own["CDRSTREAM_DASHBOARD__LISTEN"] = "0.0.0.0:0"
                own["CDRSTREAM_DASHBOARD__PASSWORD_HASH"] = hash_password("of-those-who-look")
            metrics = f"127.0.0.1:{ports.pick()}"
            own |= {name: metrics for name in own if name.endswith("__METRICS_LISTEN")}
            lines = (place.folder / login).read_text().splitlines()
            way = {
                "cwd": place.folder,
                "environ": {**place.environ, **dict(line.split("=", 1) for line in lines), **own},
                "config": Path(one["volumes"][0].split(":")[0]),
            }
            log = place.folder / f"compose-{role}.log"
            running.enter_context(service(*one["command"], log=log, **way))
            checks[role] = lambda check=one["healthcheck"]["test"][2:], way=way: cdrstream(
                *check, **way
            )
        for role, check in checks.items():
            try:
                until(lambda check=check: check().returncode == 0)
            except AssertionError as error:
                log = place.folder / f"compose-{role}.log"
                raise AssertionError(check().stderr + log.read_text()[-2000:]) from error


def test_logins_are_made_once_and_for_their_owner_alone(place: Place) -> None:
    files = sorted((place.folder / "users").iterdir())
    assert [path.name for path in files] == sorted(f"cdrstream-{role}.env" for role in Role)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    before = [path.read_text() for path in files]
    told = cdrstream("acls", "--make-users", "users", **place.as_role("admin"))
    assert told.returncode == 0, told.stderr
    assert told.stdout.count("is there") == len(Role)
    assert [path.read_text() for path in files] == before
    told = cdrstream(
        "acls", "--make-users", "users", "--user", "reader=other", **place.as_role("admin")
    )
    assert "made user other" in told.stdout, told.stderr
    (place.folder / "users/other.env").unlink()


def test_everybody_is_refused_what_is_not_theirs(place: Place) -> None:
    config = load(place.folder / "admin.toml", environ=place.environ).config
    tries = at_the_broker(config, place.properties)
    files = {"reader": "reader", "worker": "worker", "dashboard": "dashboard"}
    tries += at_the_database({role: place.dsn(file) for role, file in files.items()})
    assert len(tries) > 150
    assert [attempt for attempt in tries if attempt.let_in] == []


def ends(client: Mapping[str, str]) -> dict[tuple[str, int], int]:
    """Where every partition ends that is not the broker's own."""
    consumer = Consumer({**client, "group.id": "tests"})
    try:
        found = consumer.list_topics(timeout=60).topics
        places = [
            TopicPartition(name, number)
            for name, topic in found.items()
            if not name.startswith("__")
            for number in topic.partitions
        ]
        return {(one.topic, one.partition): ends_of(consumer, one, 60)[1] for one in places}
    finally:
        consumer.close()


def test_an_act_that_is_allowed_is_noticed(place: Place) -> None:
    """The test above can fail: an administrator is refused nothing."""
    config = load(place.folder / "admin.toml", environ=place.environ).config
    client = place.stack.broker.client_properties()
    before = ends(client)
    tries = at_the_broker(config, lambda _: client)
    written = {attempt.let_in for attempt in tries if attempt.what.startswith("write")}
    assert written == {"it would have been written"}
    assert ends(client) == before, "a record was left behind"
    tries = at_the_database({"reader": place.stack["a"].dsn})
    assert "it was done" in {attempt.let_in for attempt in tries}


def test_every_way_in_is_shut(place: Place) -> None:
    stranger = place.folder / "stranger"
    issue(stranger, [])
    dsn = place.stack["a"].dsn
    tries = of_postgres(dsn, stranger / "ca.pem")
    tries += of_kafka(place.stack.broker.client_properties(), stranger / "ca.pem")
    assert len(tries) == 9
    with ThreadPoolExecutor(len(tries)) as pool:
        assert [each for each in pool.map(lambda attempt: attempt(), tries) if each.let_in] == []


def test_rights_that_differ_are_named(place: Place) -> None:
    admin = place.stack.broker.admin()
    much = AclBinding(
        ResourceType.TOPIC,
        "sipx.cdrs",
        ResourcePatternType.LITERAL,
        "User:cdrstream-reader",
        "*",
        AclOperation.READ,
        AclPermissionType.ALLOW,
    )
    admin.create_acls([much])[much].result(60)
    gone = AclBindingFilter(
        ResourceType.TOPIC,
        "sipx.status",
        ResourcePatternType.LITERAL,
        "User:cdrstream-worker",
        "*",
        AclOperation.WRITE,
        AclPermissionType.ALLOW,
    )
    admin.delete_acls([gone])[gone].result(60)
    told = cdrstream("acls", "--check", **place.as_role("admin"))
    assert told.returncode == 1
    assert "too much  User:cdrstream-reader may READ TOPIC sipx.cdrs" in told.stdout
    assert "missing  User:cdrstream-worker may WRITE TOPIC sipx.status" in told.stdout
    assert len(told.stdout.splitlines()) == 2, told.stdout
    same = AclBindingFilter(
        ResourceType.TOPIC,
        "sipx.cdrs",
        ResourcePatternType.LITERAL,
        "User:cdrstream-reader",
        None,
        AclOperation.READ,
        AclPermissionType.ANY,
    )
    admin.delete_acls([same])[same].result(60)
    told = cdrstream("acls", "--apply", "--check", **place.as_role("admin"))
    assert told.returncode == 0, told.stdout


@pytest.mark.parametrize(
    ("wrong", "says", "advice"),
    [
        ("kafka.ssl_ca_file=stranger.pem", "certificate verify failed", "ssl_ca_file must be"),
        ("kafka.ssl_ca_file=none.pem", "ssl.ca.location", "PEM files that this user may read"),
        ("kafka.bootstrap_servers={localhost}", "not valid for 'localhost'", "must name the"),
        ("kafka.sasl_password=wrong-hush", "Authentication failed", "sasl_username"),
        ("kafka.sasl_username=nobody", "Authentication failed", "sasl_username"),
        ("kafka.sasl_mechanism=SCRAM-SHA-256", "Unsupported SASL mechanism", "sasl_mechanism"),
        ("kafka.security_protocol=sasl_plaintext", "Disconnected", "security_protocol"),
    ],
    ids=["authority", "no authority", "name", "password", "user", "mechanism", "protocol"],
)
def test_what_is_wrong_at_the_broker_is_said_in_a_line(
    place: Place, wrong: str, says: str, advice: str
) -> None:
    issue(place.folder / "another", [])
    (place.folder / "stranger.pem").write_bytes((place.folder / "another/ca.pem").read_bytes())
    here = place.stack.broker.bootstrap_servers.replace("127.0.0.1", "localhost")
    setting, _, value = wrong.format(localhost=here).partition("=")
    how = place.as_role("admin", **{setting.replace(".", "__"): value})
    told = cdrstream("acls", "--check", **how)
    assert told.returncode == 1
    error, *more = told.stderr.splitlines()
    assert error.startswith("error: Kafka at"), told.stderr
    assert says in error
    assert len(more) == 1, told.stderr
    assert advice in more[0]
    assert "hush" not in told.stderr


def test_certificates_that_end_soon_are_named(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    kafka = load(
        place.folder / "admin.toml",
        environ=place.environ,
        overrides=[f"kafka.ssl_ca_file={place.folder}/tls/ca.pem"],
    ).config.kafka
    dsn = place.dsn("worker")
    for finding in (*certificates.of_broker(kafka), *certificates.of_server(dsn)):
        assert finding.outcome is Outcome.OK
        assert "good for long" in str(finding)
    monkeypatch.setattr(certificates, "CERTIFICATE_DAYS_WARN", 31.0)
    for finding in (*certificates.of_broker(kafka), *certificates.of_server(dsn)):
        assert finding.outcome is Outcome.WARN
        assert re.search("good for (29|30) more days", str(finding))


def test_a_replay_says_why_it_does_not_get_in(place: Place) -> None:
    wrong = ("--set", "kafka.sasl_password=wrong-hush")
    told = cdrstream("replay", *DAY, *wrong, **place.as_role("replay", "worker"))
    assert told.returncode == 1
    assert "Authentication failed" in told.stderr
    assert "check kafka.sasl_username" in told.stderr
    assert "hush" not in told.stderr


def test_status_says_why_nothing_is_known_of_the_broker(place: Place) -> None:
    wrong = ("--set", "kafka.sasl_password=wrong-hush")
    told = cdrstream("status", *wrong, **place.as_role("dashboard"))
    words = " ".join(told.stdout.split())
    assert "Kafka does not answer" in words
    assert "Authentication failed" in words
    assert "-> check kafka.sasl_username" in words
    assert "hush" not in told.stdout + told.stderr


@pytest.mark.parametrize(
    ("wrong", "says", "advice"),
    [
        ({"sslrootcert": "stranger.pem"}, "certificate verify failed", "sslrootcert"),
        ({"sslrootcert": "none.pem"}, "does not exist", "sslrootcert"),
        ({"host": "elsewhere.example"}, "does not match host name", "host in the DSN"),
        ({"password": "wrong-hush"}, "password authentication failed", "password in the DSN"),
        ({"sslmode": "disable"}, "no encryption", "sslmode=verify-full"),
    ],
    ids=["authority", "no authority", "name", "password", "in the clear"],
)
def test_what_is_wrong_at_the_server_is_said_in_a_line(
    place: Place, wrong: dict[str, str], says: str, advice: str
) -> None:
    issue(place.folder / "another", [])
    (place.folder / "stranger.pem").write_bytes((place.folder / "another/ca.pem").read_bytes())
    dsn = make_conninfo(place.dsn("worker"), **wrong)
    told = cdrstream("explain", "c@h", **place.as_role("worker", sink__dsn=dsn))
    assert told.returncode == 1
    error, *more = told.stderr.splitlines()
    assert error.startswith("error: PostgreSQL"), told.stderr
    assert says in error
    assert len(more) == 1, told.stderr
    assert advice in more[0]
    assert "hush" not in told.stderr


@pytest.mark.parametrize("role", ["reader", "worker"])
def test_a_service_says_why_it_does_not_get_in(place: Place, role: str) -> None:
    log = place.folder / f"refused-{role}.log"
    how = place.as_role(role)
    how["environ"] = {**place.environ, **place.login(role), "CDRSTREAM_KAFKA__SASL_PASSWORD": "x1"}
    with service(role, log=log, **how) as process:
        until(lambda: "check kafka.sasl_username and the password" in log.read_text())
        assert process.poll() is None, "it goes on trying"
    text = log.read_text()
    assert "invalid credentials" in text
    assert text.count("invalid credentials") <= 6, "it does not say so all the time"


def test_a_worker_says_why_the_sink_does_not_let_it_in(place: Place) -> None:
    log = place.folder / "refused-by-the-sink.log"
    how = place.as_role("worker")
    dsn = make_conninfo(place.dsn("worker"), password="wrong-hush")
    how["environ"] = {**place.environ, **place.login("worker"), "CDRSTREAM_SINK__DSN": dsn}
    with service("worker", log=log, **how):
        until(lambda: "check user and password in sink.dsn" in log.read_text())
    assert "password authentication failed" in log.read_text()
    assert "hush" not in log.read_text()


def test_a_reader_says_why_it_does_not_trust_a_server(place: Place) -> None:
    log = place.folder / "not-trusted.log"
    how = place.as_role("reader")
    dsn = make_conninfo(place.dsn("reader"), host="elsewhere.example")
    how["environ"] = {**place.environ, **place.login("reader"), "CDRSTREAM_SERVERS__A__DSN": dsn}
    with service("reader", log=log, **how) as process:
        until(lambda: "host a name that the certificate has" in log.read_text())
        assert process.poll() is None, "it goes on trying"
    assert "does not match host name" in log.read_text()
