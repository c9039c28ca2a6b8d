"""Why a PostgreSQL lets nobody in, read off its sentences and libpq's.

Before there is a session there is no SQLSTATE: the words are all that there is. Owns what such a
sentence means, and what the operator does about it. Refuses to know drivers: it is given text.
Reader, worker and commands tell the same. Sentences are read in English: where the server's
lc_messages differs nothing is known, and the message stands alone.
"""

from __future__ import annotations

import re
from enum import Enum, auto
from typing import Final


class Barrier(Enum):
    """What is in the way."""

    UNTRUSTED = auto()  # the server is not proven to be who is asked for
    NO_TLS = auto()  # it has none, and it is insisted on
    DENIED = auto()  # it does not let this role in
    NO_DATABASE = auto()


# The first that fits wins. `{dsn}` is what the connection string is called where it is told.
_MEANINGS: Final = (
    (
        r"certificate verify failed",
        Barrier.UNTRUSTED,
        "sslrootcert in {dsn} must be the file of the authority that signed that server's"
        " certificate",
    ),
    (
        r"does not match host name",
        Barrier.UNTRUSTED,
        "host in {dsn} must be a name that the server's certificate has; hostaddr may say where",
    ),
    (
        r"root certificate file",
        Barrier.UNTRUSTED,
        "sslrootcert in {dsn} must be a file that this user may read, of the authority that signed"
        " that server's certificate",
    ),
    (
        r"server does not support SSL",
        Barrier.NO_TLS,
        "ssl = on there, with ssl_cert_file and ssl_key_file, then reload PostgreSQL; or another"
        " sslmode in {dsn}",
    ),
    (
        r"no pg_hba\.conf entry .*no encryption",
        Barrier.DENIED,
        "that server wants TLS (sslmode=verify-full and sslrootcert=... in {dsn}), or a line for"
        " this database, user and host in its pg_hba.conf",
    ),
    (
        r"no pg_hba\.conf entry",
        Barrier.DENIED,
        "add a line for this database, user and host to pg_hba.conf, and reload "
        "(logical replication needs the database's line; `replication` is not enough)",
    ),
    (
        r"authentication failed|no password supplied",
        Barrier.DENIED,
        "check user and password in {dsn}",
    ),
    (
        r'role "[^"]*" does not exist',
        Barrier.DENIED,
        "check user in {dsn}, or make it: cdrstream provision --admin-dsn NAME=DSN",
    ),
    (
        r'database "[^"]*" does not exist',
        Barrier.NO_DATABASE,
        "check dbname in {dsn}; PostgreSQL's names are case sensitive",
    ),
)


def barrier(text: str) -> Barrier | None:
    """What is in the way; None where the text does not say that something is."""
    return _meaning(text)[0]


def advice_for(text: str, dsn: str) -> str:
    """What an operator does about it; empty where the text names nothing to be mended.

    Args:
        text: The sentence.
        dsn: What the connection string is called: `sink.dsn`, `the DSN`.
    """
    return _meaning(text)[1].format(dsn=dsn)


def _meaning(text: str) -> tuple[Barrier | None, str]:
    for pattern, what, advice in _MEANINGS:
        if re.search(pattern, text):
            return what, advice
    return None, ""
