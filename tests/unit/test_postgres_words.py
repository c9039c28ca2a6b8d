"""What an operator reads where a PostgreSQL lets nobody in: the same from whoever tells it."""

from __future__ import annotations

import psycopg
import pytest

from callstate.postgres_words import Barrier, advice_for, barrier
from cdc import errors
from cdc.errors import CdcError, classify
from ops.failures import advise
from stream_app.errors import way_into_sink

CASES = [
    ("SSL error: certificate verify failed", Barrier.UNTRUSTED, "sslrootcert", errors.NotTrusted),
    (
        'server certificate for "a" does not match host name "b"',
        Barrier.UNTRUSTED,
        "host in",
        errors.NotTrusted,
    ),
    (
        'root certificate file "/x" does not exist',
        Barrier.UNTRUSTED,
        "may read",
        errors.NotTrusted,
    ),
    (
        "server does not support SSL, but SSL was required",
        Barrier.NO_TLS,
        "ssl = on there",
        errors.NotEncrypted,
    ),
    (
        'FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", no encryption',
        Barrier.DENIED,
        "wants TLS",
        errors.AccessDenied,
    ),
    (
        'FATAL:  no pg_hba.conf entry for host "h", user "u", database "d", SSL encryption',
        Barrier.DENIED,
        "`replication` is not enough",
        errors.AccessDenied,
    ),
    (
        'FATAL:  password authentication failed for user "u"',
        Barrier.DENIED,
        "user and password",
        errors.AccessDenied,
    ),
    (
        'FATAL:  Peer authentication failed for user "u"',
        Barrier.DENIED,
        "user and password",
        errors.AccessDenied,
    ),
    (
        "fe_sendauth: no password supplied",
        Barrier.DENIED,
        "user and password",
        errors.AccessDenied,
    ),
    ('FATAL:  role "u" does not exist', Barrier.DENIED, "check user in", errors.AccessDenied),
    (
        'FATAL:  database "d" does not exist',
        Barrier.NO_DATABASE,
        "case sensitive",
        errors.DatabaseMissing,
    ),
]


@pytest.mark.parametrize(("text", "what", "advice", "kind"), CASES)
def test_reader_worker_and_commands_tell_the_same(
    text: str, what: Barrier, advice: str, kind: type[CdcError]
) -> None:
    assert barrier(text) is what
    assert type(classify(psycopg.OperationalError(text))) is kind
    for told in (advise(text), way_into_sink(text) or ""):
        assert advice in told
    assert "the DSN" not in (way_into_sink(text) or "")
    assert "sink.dsn" not in advise(text)


@pytest.mark.parametrize(
    "text",
    [
        "connection failed: Connection refused",
        "server closed the connection unexpectedly",
        'relation "x" does not exist',
        'publication "p" does not exist',
        "FATAL:  the database system is starting up",
    ],
)
def test_of_what_is_away_or_missing_it_says_nothing(text: str) -> None:
    assert barrier(text) is None
    assert advice_for(text, "the DSN") == ""
    assert way_into_sink(text) is None


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("connection failed: Connection refused", "is PostgreSQL running there"),
        ("failed to resolve host 'x': Name or service not known", "check the host"),
        ("logical decoding requires wal_level >= logical", "wal_level = 'logical'"),
        ('publication "p" does not exist', "provision"),
        ("all replication slots are in use", "max_replication_slots"),
        ("permission denied for table cdrs", "provision"),
        ('relation "x" does not exist', "run `cdrstream provision`"),
        ("something else", ""),
    ],
)
def test_what_else_commands_give_advice_on(text: str, advice: str) -> None:
    assert advice in advise(text)
    assert bool(advise(text)) == bool(advice)
