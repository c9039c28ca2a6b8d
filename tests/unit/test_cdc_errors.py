"""psycopg's errors as ours, and the settings' own rules."""

from __future__ import annotations

import psycopg
import pytest

from cdc import errors
from cdc.errors import CdcError, Retry, classify
from cdc.settings import ReaderSettings

DENIED = errors.AccessDenied
LOST = errors.SlotLost


@pytest.mark.parametrize(
    ("text", "state", "kind"),
    [
        ("connection failed: Connection refused", None, errors.ServerUnreachable),
        ("server closed the connection unexpectedly", None, errors.ServerUnreachable),
        ("FATAL: the database system is starting up", None, errors.ServerUnreachable),
        ("terminating connection due to administrator command", "57P01", errors.ServerUnreachable),
        ('FATAL:  no pg_hba.conf entry for host "::1"', None, DENIED),
        ("SSL error: certificate verify failed", None, errors.NotTrusted),
        ('server certificate for "a" does not match host name "b"', None, errors.NotTrusted),
        ('root certificate file "/x" does not exist', None, errors.NotTrusted),
        ("server does not support SSL, but SSL was required", None, errors.NotEncrypted),
        ('password authentication failed for user "x"', None, DENIED),
        ("must be superuser or replication role to start walsender", None, DENIED),
        ("permission denied to start WAL sender", "42501", DENIED),
        ("permission denied for table call_state_events", "42501", DENIED),
        ('FATAL:  database "x" does not exist', None, errors.DatabaseMissing),
        ('FATAL:  role "x" does not exist', None, DENIED),
        ('replication slot "s" does not exist', "42704", errors.SlotMissing),
        ('publication "p" does not exist', "42704", errors.PublicationMissing),
        ('replication slot "s" is active for PID 7', "55006", errors.SlotBusy),
        ('cannot read from logical replication slot "s"', "55000", LOST),
        ('can no longer get changes from replication slot "s"', "55000", LOST),
        ('can no longer access replication slot "s"', "55000", LOST),
        ('replication slot "s" was not created in this database', "55000", errors.SlotForeign),
        ("logical decoding requires wal_level >= logical", "55000", errors.NotLogical),
        ("all replication slots are in use", "53400", errors.NoCapacity),
        (
            "number of requested standby connections exceeds max_wal_senders",
            None,
            errors.NoCapacity,
        ),
        ("canceling statement due to lock timeout", "55P03", errors.SlotBlocked),
        ("invalid byte sequence", "22021", errors.BadEncoding),
        ('relation "x" does not exist', "42P01", errors.TableMissing),
    ],
)
def test_errors_by_state_and_words(text: str, state: str | None, kind: type[CdcError]) -> None:
    error = type("Error", (psycopg.OperationalError,), {"sqlstate": state})(text)
    found = classify(error)
    assert type(found) is kind
    assert str(found) == " ".join(text.split())


def test_every_error_says_how_to_retry_and_what_to_do() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    kinds = [kind for kind in kinds if issubclass(kind, CdcError)]
    assert len(kinds) > 15
    for kind in kinds:
        assert kind.retry in Retry
        assert kind.advice.endswith((".", "?", "`."))
        assert "\n" not in kind.advice


@pytest.mark.parametrize(
    ("server", "slot"), [("a", "cdrstream_a"), ("Site-1.x", "cdrstream_site_1_x")]
)
def test_slot_names(server: str, slot: str) -> None:
    assert ReaderSettings(server, "", {}).slot_name == slot
    assert ReaderSettings(server, "", {}, slot="own").slot_name == "own"
    assert len(ReaderSettings("x" * 200, "", {}).slot_name) == 63


def test_of_a_server_without_tls_nothing_is_said_of_certificates() -> None:
    error = classify(psycopg.OperationalError("server does not support SSL, but SSL was required"))
    assert "ssl = on there" in error.advice
    assert "sslrootcert" not in error.advice
