"""What the user is told about an error that a library raised: one line, and advice.

Owns the table from symptom to advice. Refuses to print and to retry.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass
from typing import Final

from callstate.postgres_words import advice_for
from ops.errors import EXIT_FAILED
from ops.redaction import scrub


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in a user's terms; `unexpected` where only its trace can tell more."""

    message: str
    advice: str
    exit_code: int = EXIT_FAILED
    unexpected: bool = False


# What a message says that does not tell why nobody is let in (`callstate.postgres_words` knows
# those), and what to do then. As there, texts are read in English.
_SYMPTOMS: Final = (
    (
        r"Connection refused|could not connect|connection failed.*refused|timeout expired",
        "is PostgreSQL running there, and are host and port of the DSN right?",
    ),
    (
        r"could not translate host name|Name or service not known|failed to resolve host",
        "check the host in the DSN",
    ),
    (
        r"wal_level",
        "ALTER SYSTEM SET wal_level = 'logical' on that server, then restart PostgreSQL",
    ),
    (
        r"publication .* does not exist",
        "cdrstream provision --admin-dsn NAME=DSN   (an administrator of that server)",
    ),
    (
        r"replication slots? (are|is) in use|max_replication_slots",
        "drop an unused slot or raise max_replication_slots there, then restart PostgreSQL",
    ),
    (r"max_wal_senders", "raise max_wal_senders there, then restart PostgreSQL"),
    (r"REPLICATION|replication role", "ALTER ROLE ... REPLICATION on that server"),
    (
        r"permission denied|must be owner",
        "cdrstream provision --admin-dsn NAME=DSN   (an administrator of that server)",
    ),
    (r"relation .* does not exist", "run `cdrstream provision`"),
)
_BROKER_ADVICE: Final = "is the broker running, and is kafka.bootstrap_servers right?"


def describe(error: BaseException) -> Failure:
    """The failure as its user is told; every class of error comes out as one line."""
    advice = getattr(error, "advice", None)
    if isinstance(advice, str):
        code = getattr(error, "exit_code", EXIT_FAILED)
        return Failure(scrub(str(error)), scrub(advice), code)
    family = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    text = _one_line(error)
    if "psycopg" in family:
        return Failure(f"PostgreSQL: {text}", advise(text))
    if family & {"cimpl", "confluent_kafka", "aiokafka", "kafka"}:
        return Failure(f"Kafka: {text}", _BROKER_ADVICE)
    if isinstance(error, OSError):
        return Failure(text, _os_advice(error))
    if isinstance(error, ImportError):
        return Failure(f"a part of cdrstream is missing: {text}", "install it again")
    return Failure(f"{type(error).__name__}: {text}", "", unexpected=True)


def advise(text: str) -> str:
    """What to do about a message of PostgreSQL's; empty where nothing is known."""
    found = (advice for pattern, advice in _SYMPTOMS if re.search(pattern, text))
    return advice_for(text, "the DSN") or next(found, "")


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # psycopg lists every address that it tried, behind the last attempt's own message.
    kept = [line for line in lines if not line.startswith(("Multiple connection attempts", "- "))]
    return scrub(" ".join(kept or lines)) or type(error).__name__


def _os_advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program has that port: stop it, or configure another one"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room on that disk"
    return ""
