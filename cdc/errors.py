"""What can go wrong at the reader's edges, and what to do about it.

Owns the closed set of errors, their retry rule and their advice, and the reading of psycopg's
errors (the words of the message where the SQLSTATE is absent or means several things, else the
SQLSTATE). Refuses to retry by itself: `reader` does, by the rule.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

import psycopg

from callstate.postgres_words import Barrier, barrier


class Retry(StrEnum):
    """What helps after an error."""

    TIMED = "timed"  # try again by itself, after a while
    MANUAL = "manual"  # an operator has to change something; then try again
    NEVER = "never"  # going on would lose or invent data; an operator has to decide


class CdcError(Exception):
    """Base of all errors of the reader: what happened, whether to retry, what the operator does."""

    retry: ClassVar[Retry] = Retry.TIMED
    advice: str = "The reader tries again by itself; look at the server if it lasts."

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else type(self).__name__


class ServerUnreachable(CdcError):
    """The server refuses connections, starts up, recovers, or closed ours."""

    advice = "The reader reconnects by itself; is PostgreSQL up and its host and port right?"


class NotTrusted(ServerUnreachable):
    """The server is there, and is not proven to be who the DSN asks for."""

    advice = (
        "In the dsn, sslrootcert must be the authority that signed the server's certificate, and"
        " host a name that the certificate has. The reader tries again by itself."
    )


class NotEncrypted(ServerUnreachable):
    """The server is there and has no TLS, which the DSN insists on."""

    advice = (
        "Set ssl = on there, with ssl_cert_file and ssl_key_file, and reload PostgreSQL; or take"
        " the sslmode out of the dsn, where nobody is on the way. The reader tries again by itself."
    )


class ServerInRecovery(CdcError):
    """The server is a standby: nothing is written there, and its clock of the log is another's."""

    advice = (
        "The reader waits until it is promoted. Name all servers of the cluster in the dsn, with"
        " target_session_attrs=primary, and the reader finds the one that is written to."
    )


class AccessDenied(CdcError):
    """PostgreSQL is there and does not let the role in."""

    retry = Retry.MANUAL
    advice = (
        "Check user and password, pg_hba.conf (a line for the database itself; the word"
        " `replication` there does not cover logical replication) and LOGIN REPLICATION of the"
        " role; `cdrstream provision` sets the role up."
    )


class DatabaseMissing(CdcError):
    """The DSN names a database that the server does not have."""

    retry = Retry.MANUAL
    advice = "Correct dbname in the server's dsn."


class BadDsn(CdcError):
    """The connection string is none."""

    retry = Retry.MANUAL
    advice = "Correct the server's dsn: key=value pairs or a postgresql:// URI, as libpq takes it."


class NotLogical(CdcError):
    """The server writes too little into its log."""

    retry = Retry.MANUAL
    advice = "Set wal_level = logical in postgresql.conf and restart PostgreSQL."


class TableMissing(CdcError):
    """The database has no call_state_events."""

    retry = Retry.MANUAL
    advice = "Correct dbname in the dsn, or create the tables (`cdrstream provision`)."


class PublicationMissing(CdcError):
    """The publication does not exist or lacks a table."""

    retry = Retry.MANUAL
    advice = "Run `cdrstream provision` with an administrator's DSN."


class PublicationChanged(CdcError):
    """The publication, or a table in it, was made anew while we read."""

    advice = (
        "The reader reads the tables anew and records the gap: rows written while a table was not"
        " published never reach the stream."
    )


class SlotBusy(CdcError):
    """Another reader holds the slot; this one waits as a standby."""

    advice = "Normal for a standby; otherwise end the other reader of this server."


class SlotMissing(CdcError):
    """The slot went away between the check and its use."""

    advice = "The reader makes a new one by itself."


class SlotLost(CdcError):
    """PostgreSQL threw away log that the slot still needed."""

    advice = (
        "The reader makes a new slot, reads the tables anew and records the gap; rows purged"
        " meanwhile are lost. Raise max_slot_wal_keep_size, or keep the reader running."
    )


class SlotBlocked(CdcError):
    """A transaction that was open for too long kept the slot from being made."""

    advice = "End the transactions that the log names; the reader tries again by itself."


class SlotForeign(CdcError):
    """The slot was made for something else."""

    retry = Retry.MANUAL
    advice = "Choose another slot name for this server, or drop the slot that has this one."


class NoCapacity(CdcError):
    """The server has no replication slot or sender left."""

    retry = Retry.MANUAL
    advice = "Raise max_replication_slots and max_wal_senders in postgresql.conf and restart it."


class ServerChanged(CdcError):
    """The stored position belongs to another server, another history or a time after a restore."""

    retry = Retry.NEVER
    advice = (
        "If the server was restored or replaced on purpose, start the reader once with"
        " accept_server_change: it reads the tables anew; rows that only the old history had stay"
        " in Kafka. If it gives ids again that it had given before, give it a new name instead:"
        " server and id are a row's identity."
    )


class TimelineChanged(ServerChanged):
    """The same system on another timeline: a standby was promoted, or a backup restored."""


class BadEncoding(CdcError):
    """The server cannot convert its text to UTF-8."""

    retry = Retry.MANUAL
    advice = "Find the row that the message names; the database's encoding does not fit its text."


class ProtocolBroken(CdcError):
    """The server sent something that the reader does not understand."""

    retry = Retry.MANUAL
    advice = "Please report it, with the server's version."


class ReaderBroken(CdcError):
    """Something that the reader does not expect: the fault is in it."""

    retry = Retry.MANUAL
    advice = (
        "Please report it, with the traceback in the log. Nothing is lost: the next start goes on"
        " at the stored position."
    )


class KafkaUnreachable(CdcError):
    """No broker answers."""

    advice = "The reader goes on by itself once the broker is back; are bootstrap_servers right?"


class KafkaShut(KafkaUnreachable):
    """The broker is there and there is no way in: its certificate, our login, the protocol."""

    advice = "Check the security settings of [kafka]. The reader tries again by itself."

    def __init__(self, text: str, advice: str = "") -> None:
        super().__init__(text)
        if advice:
            self.advice = f"{advice}. The reader tries again by itself."


class KafkaRefused(CdcError):
    """The broker answers and refuses: rights, a missing topic, a setting."""

    retry = Retry.MANUAL
    advice = "Check topics and ACLs: `cdrstream doctor`."


class KafkaFatal(CdcError):
    """The producer cannot go on in order; a new one starts at the stored position."""

    advice = "The reader makes a new producer by itself."


_BY_SQLSTATE: dict[str, type[CdcError]] = {
    "28000": AccessDenied,
    "28P01": AccessDenied,
    "42501": AccessDenied,
    "3D000": DatabaseMissing,
    "42P01": TableMissing,
    "55006": SlotBusy,
    "55P03": SlotBlocked,
    "53400": NoCapacity,
    "22021": BadEncoding,
    "22P05": BadEncoding,
    "08P01": ProtocolBroken,
}

# Where the state means several things, the words decide; where it is absent (nobody was let in),
# those of `callstate.postgres_words`. First match wins. PostgreSQL's messages are stable but for
# translation: we ask for lc_messages only where we may, so an unknown wording falls back to
# `ServerUnreachable` and is retried.
_BY_WORDS: tuple[tuple[str, type[CdcError]], ...] = (
    ("cannot read from logical replication slot", SlotLost),
    ("can no longer get changes from", SlotLost),
    ("can no longer access replication slot", SlotLost),
    ("was not created in this database", SlotForeign),
    ("cannot use physical replication slot", SlotForeign),
    ("requires wal_level >= logical", NotLogical),
    ("max_wal_senders", NoCapacity),
    ("max_replication_slots", NoCapacity),
    ("all replication slots are in use", NoCapacity),
    ("to start walsender", AccessDenied),
    ("permission denied", AccessDenied),
)
_BY_BARRIER: dict[Barrier, type[CdcError]] = {
    Barrier.UNTRUSTED: NotTrusted,
    Barrier.NO_TLS: NotEncrypted,
    Barrier.DENIED: AccessDenied,
    Barrier.NO_DATABASE: DatabaseMissing,
}


def classify(error: psycopg.Error) -> CdcError:
    """The reader's own error for one of psycopg's; chain it with `raise ... from`."""
    text = " ".join(str(error).split()) or type(error).__name__
    for words, kind in _BY_WORDS:
        if words in text:
            return kind(text)
    if "does not exist" in text:
        if "replication slot" in text:
            return SlotMissing(text)
        if "publication" in text:
            return PublicationMissing(text)
    what = barrier(text)
    if what is not None:
        return _BY_BARRIER[what](text)
    return _BY_SQLSTATE.get(error.sqlstate or "", ServerUnreachable)(text)
