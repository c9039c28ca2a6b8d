"""A test authority whose certificates hold, and rights that are the least."""

from __future__ import annotations

import re
import ssl
import stat
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from ops import cli
from ops.config import Config
from ops.errors import OpsError
from ops.install import acls
from ops.install.acls import Role, rights, users
from ops.install.authority import issue
from ops.topics import required


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli.app, list(arguments))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("authority")
    issue(made, ["db.example.com,127.0.0.1"])
    return made


def shake(folder: Path, name: str) -> None:
    """A handshake in memory, as a client that wants `name`."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "db.example.com.pem", folder / "db.example.com.key")
    client = ssl.create_default_context(cafile=folder / "ca.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname=name)
    there = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (here, there):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    assert here.version() is not None


@pytest.mark.parametrize("name", ["db.example.com", "127.0.0.1"])
def test_certificates_hold_for_their_names(folder, name):
    shake(folder, name)


def test_and_for_no_other(folder):
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(folder, "other.example.com")


def test_keys_are_their_owners_alone_and_the_authority_is_kept(folder):
    before = (folder / "ca.pem").read_bytes()
    issue(folder, ["kafka"])
    assert (folder / "ca.pem").read_bytes() == before
    keys = list(folder.glob("*.key"))
    assert len(keys) == 3
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    assert {path.suffix for path in folder.iterdir()} <= {".pem", ".key", ".srl"}


def test_nothing_is_overwritten_and_it_says_what_it_is_for():
    told = run("test-ca", "made", "--host", "kafka")
    assert told.exit_code == 0
    assert "FOR TRYING ONLY" in told.stderr
    key = Path("made/kafka.key")
    before = key.read_bytes()
    told = run("test-ca", "made", "--host", "postgres", "--host", "kafka")
    assert told.exit_code == 1
    assert "is there already" in told.stderr
    assert key.read_bytes() == before
    assert not Path("made/postgres.key").exists(), "all or nothing"
    assert "ENCRYPTED" not in key.read_text()
    assert stat.S_IMODE(Path("made/kafka.pem").stat().st_mode) == 0o644


@pytest.mark.parametrize("host", ["", "a b", "ca", "../x", "x,"])
def test_what_is_no_host_is_refused(host):
    told = run("test-ca", "made", "--host", host)
    assert told.exit_code == 2
    assert not Path("made").exists()


def test_every_topic_is_written_by_who_must_and_read_by_who_needs_it():
    config = Config()
    told = rights(config)
    written = {each.name for each in told if "Write" in each.operations}
    assert {topic.name for topic in required(config.kafka)} <= written
    writers = {each.role for each in told if each.name == config.kafka.events_topic}
    assert [
        e.role for e in told if (e.name, e.operations) == (config.kafka.events_topic, ("Write",))
    ] == [Role.READER]
    assert writers == set(Role)
    for role, writes in ((Role.REPLAY, {config.kafka.topic("cdrs")}), (Role.DASHBOARD, set())):
        may = {op for each in told if each.role is role for op in each.operations}
        assert may == {"Read", "Describe", *(["Write"] if writes else [])}
        assert {e.name for e in told if e.role is role and "Write" in e.operations} == writes


def test_a_worker_may_read_the_changelog_of_another():
    """Its client names a group of its own then: without the right partitions were never taken."""
    config = Config()
    groups = {each.name for each in rights(config) if (each.role, each.kind) == ("worker", "group")}
    assert groups == {config.worker.group_id, f"{config.worker.group_id}-restore"}


def test_rights_are_printed_for_kafkas_own_tool():
    told = run("acls", "--user", "reader=r1", "--set", "kafka.topic_prefix=x.")
    assert told.exit_code == 0
    lines = told.output.splitlines()
    assert len(lines) == len(rights(Config()))
    assert any(
        re.search(r"User:r1 --operation Write --topic x\.call-state-events$", line)
        for line in lines
    )
    assert any("User:cdrstream-worker --operation Read --group cdrstream" in line for line in lines)
    assert not [line for line in lines if "--command-config" in line]
    secure = ("--set", "kafka.security_protocol=ssl")
    for line in run("acls", *secure).output.splitlines():
        assert " --command-config admin.properties " in line
    assert run("acls", "--user", "nobody=x").exit_code == 2
    assert users(["worker=w"])[Role.WORKER] == "w"


def test_the_pages_role_is_in_the_printed_sql_and_its_password_is_not():
    sink = ("--set", "sink.dsn=host=h dbname=SIPXCDR user=w password=hush-w")
    pages = ("--set", "dashboard.dsn=host=h dbname=SIPXCDR user=looker password=hush-l")
    told = run("provision", "--print-sql", *sink, *pages).output
    assert 'CREATE ROLE "looker" LOGIN;' in told
    assert 'GRANT SELECT ON TABLES TO "looker";' in told
    assert "\\password looker" in told
    assert "hush" not in told
    assert "looker" not in run("provision", "--print-sql", *sink).output
    same = ("--set", "dashboard.dsn=host=h dbname=SIPXCDR user=w")
    others = run("provision", "--print-sql", *sink, *same).output
    assert told.count("CREATE ROLE") == others.count("CREATE ROLE") + 1


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("a=host=h user=postgres password=hush", True),
        ("a=postgresql://postgres:hush@h/SIPXCDR", True),
        ("a=host=h user=postgres passfile=/root/.pgpass", False),
        ("a=no dsn", False),
    ],
)
def test_a_password_on_the_command_line_is_noticed_and_not_repeated(dsn, told):
    server = ("--set", "servers.a.dsn=host=h user=r")
    said = run("provision", "--print-sql", "--admin-dsn", dsn, *server)
    assert ("everybody on this machine" in said.stderr) == told
    assert "hush" not in said.output


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("sink.dsn=postgresql://u:hush@h/d",), ("--set sink.dsn", "CDRSTREAM_SINK__DSN")),
        (("sink.dsn=host=h password=hush",), ("--set sink.dsn", "CDRSTREAM_SINK__DSN")),
        (
            ("servers.b-2.dsn=postgresql://h/d?password=hush",),
            ("--set servers.b-2.dsn", "CDRSTREAM_SERVERS__B_2__DSN"),
        ),
        (('servers=[{"name": "a", "dsn": "password=hush"}]',), ("--set servers",)),
        (("kafka.sasl_password=hush",), ("CDRSTREAM_KAFKA__SASL_PASSWORD",)),
        (
            ("kafka.ssl_key_password=hush", "sink.dsn=password=hush"),
            ("--set kafka.ssl_key_password, --set sink.dsn",),
        ),
        (("sink.dsn=host=h passfile=/root/.pgpass", "kafka.partitions=3"), ()),
    ],
)
def test_a_password_in_a_setting_on_the_command_line_is_noticed_too(settings, told):
    given = [word for setting in settings for word in ("--set", setting)]
    said = run("config", "show", *given)
    assert said.exit_code == 0
    assert len(said.stderr.splitlines()) == bool(told)
    for words in told:
        assert words in said.stderr
    assert "hush" not in said.output


def test_a_password_in_the_environment_is_kept_from_others(monkeypatch):
    monkeypatch.setenv("CDRSTREAM_SINK__DSN", "host=h password=hush")
    assert run("config", "show", "--set", "kafka.partitions=3").stderr == ""


def test_rights_are_called_there_when_the_broker_names_them(monkeypatch):
    told = [["a", "b"], ["b"], []]
    admin = SimpleNamespace(create_acls=lambda wanted: {})
    monkeypatch.setattr(acls, "speaking_to", lambda _: nullcontext(admin))
    monkeypatch.setattr(acls, "differences", lambda *_: (told.pop(0), []))
    monkeypatch.setattr(acls, "_AGAIN_SECONDS", 0.0)
    assert acls.apply(Config(), users([])) > 20
    assert told == []
    monkeypatch.setattr(acls, "differences", lambda *_: (["User:x may READ"], []))
    monkeypatch.setattr(acls, "TIMEOUT_SECONDS", 0.0)
    with pytest.raises(OpsError, match="does not name all of them: User:x may READ"):
        acls.apply(Config(), users([]))
