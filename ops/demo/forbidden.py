"""What nobody may do in the closed demo, tried: every act that a role was not given a right to.

Owns the list, made of the rights themselves (`ops.install.acls`, `stream_app.migrations`) so that
it is whole, and the trying, with each role's own password. A refusal counts only if it is one of
rights: a broker that is away refuses nothing. Nothing is left behind, whatever is let through:
statements are taken back, no group remembers what it read, and a record is one that a broker which
lets it in does not keep.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.cimpl import NewTopic
from psycopg import sql

from ops.config import Config
from ops.install.acls import Role, rights
from ops.librdkafka import silent_log
from ops.topics import required
from stream_app.migrations import OLD_TABLES, OUR_TABLES, SINK_RIGHTS

LIMIT_SECONDS: Final = 15.0
_BEGINNING: Final = -2
# Of a record: beyond what brokers take (`message.timestamp.after.max.ms`, an hour), who ask for the
# right first.
_FAR_FUTURE_MS: Final = 4_000_000_000_000
_DENIED: Final = frozenset(
    (KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED)
)
# Groups that each role may name: what is refused then is the topic.
_GROUPS: Final = {
    Role.READER: "cdrstream-positions-x",
    Role.REPLAY: "cdrstream-replay",
    Role.DASHBOARD: "cdrstream-x",
}
_READ_BY_READER: Final = frozenset(("call_state_events", "observer_state_events"))
_ACTS: Final[Mapping[str, str]] = {
    "SELECT": "SELECT FROM {table} LIMIT 0",
    "INSERT": "INSERT INTO {table} DEFAULT VALUES",
    "UPDATE": "UPDATE {table} SET {column} = NULL WHERE false",
    "DELETE": "DELETE FROM {table} WHERE false",
    "TRUNCATE": "TRUNCATE {table}",
}
_FIRST_COLUMN: Final = """
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum = 1
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """Somebody tried something; `let_in` is what they got, empty where they were refused."""

    who: str
    what: str
    let_in: str = ""


def at_the_broker(config: Config, properties: Callable[[Role], Mapping[str, str]]) -> list[Attempt]:
    """Every role reads and writes every topic that it may not, and makes one.

    Args:
        config: Names the topics.
        properties: How a role gets in.
    """
    given = rights(config)
    topics = [topic.name for topic in required(config.kafka)]
    topics.append(f"{config.worker.group_id}-open_calls-changelog")
    found = []
    for role in Role:
        client = dict(properties(role))
        may = {(r.name, operation) for r in given if r.role is role for operation in r.operations}
        unread = [topic for topic in topics if (topic, "Read") not in may]
        unwritten = [topic for topic in topics if (topic, "Write") not in may]
        group = _GROUPS.get(role, config.worker.group_id)
        read, written = _read(client, group, unread), _write(client, unwritten)
        found += [Attempt(role, f"read {topic}", read.get(topic, "")) for topic in unread]
        found += [Attempt(role, f"write {topic}", written.get(topic, "")) for topic in unwritten]
        found.append(Attempt(role, "make a topic", _make_topic(client)))
    return found


def at_the_database(dsns: Mapping[str, str]) -> list[Attempt]:
    """Every role touches every table in every way that it may not, and makes one.

    Args:
        dsns: Of the database that has events and CDRs: by `reader`, `worker`, `dashboard`.
    """
    tables = (*OLD_TABLES, "version_history", *OUR_TABLES)
    found = []
    for who, dsn in dsns.items():
        with psycopg.connect(dsn, connect_timeout=10) as connection:
            for table, act in product(tables, _ACTS):
                if not _may(who, table, act) and (table, act) != ("view_cdrs", "TRUNCATE"):
                    (column,) = connection.execute(_FIRST_COLUMN, (table,)).fetchone() or ("id",)
                    statement = sql.SQL(_ACTS[act]).format(
                        table=sql.Identifier(table), column=sql.Identifier(column)
                    )
                    found.append(Attempt(who, f"{act} {table}", _done(connection, statement)))
            others = ["CREATE ROLE mine", "DROP TABLE cdrs", "ALTER TABLE cdrs DROP call_id"]
            if who != Role.WORKER:  # replays make tables of their own
                others.append("CREATE TABLE mine (a int)")
            for each in others:
                found.append(Attempt(who, each, _done(connection, sql.SQL(each))))
    return found


def _may(who: str, table: str, act: str) -> bool:
    if who == Role.READER:
        return act == "SELECT" and table in _READ_BY_READER
    given = SINK_RIGHTS.get(table, "")
    return act in given if who == Role.WORKER else act == "SELECT" and bool(given)


def _done(connection: psycopg.Connection[Any], statement: sql.SQL | sql.Composed) -> str:
    """Tries a statement and takes it back; empty where it was refused for want of rights."""
    try:
        connection.execute(statement)
    except psycopg.errors.InsufficientPrivilege:
        return ""
    except psycopg.Error as error:
        return f"another error: {error}".strip()
    finally:
        connection.rollback()
    return "it was done"


def _read(client: Mapping[str, str], group: str, topics: Iterable[str]) -> dict[str, str]:
    """Which of the topics could be read, or did not say no, and why."""
    left = set(topics)
    consumer = Consumer(
        {
            **client,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        },
        logger=silent_log(),
    )
    found: dict[str, str] = {}
    try:
        for topic in sorted(left):
            told = consumer.list_topics(topic, timeout=LIMIT_SECONDS).topics[topic].error
            if told is not None and told.code() in _DENIED:
                left.discard(topic)  # it cannot even be seen
        consumer.assign([TopicPartition(topic, 0, _BEGINNING) for topic in left])
        deadline = time.monotonic() + LIMIT_SECONDS
        while left and time.monotonic() < deadline:
            message = consumer.poll(0.2)
            if message is None or message.topic() not in left:
                continue
            error, topic = message.error(), str(message.topic())
            left.discard(topic)
            if error is None or error.code() == KafkaError._PARTITION_EOF:
                found[topic] = "it was read"
            elif error.code() not in _DENIED:
                found[topic] = error.str()
    finally:
        consumer.close()
    return {**found, **dict.fromkeys(left, "no answer")}


def _write(client: Mapping[str, str], topics: Iterable[str]) -> dict[str, str]:
    """Which of the topics could be written, or did not say no, and why."""
    open_ = dict.fromkeys(topics, "no answer")
    producer = Producer({**client, "message.timeout.ms": 10_000}, logger=silent_log())

    def told(error: KafkaError | None, message: Message) -> None:
        answer(str(message.topic()), error)

    def answer(topic: str, error: KafkaError | None) -> None:
        if error is None:
            open_[topic] = "it was written"
        elif error.code() == KafkaError.INVALID_TIMESTAMP:
            open_[topic] = "it would have been written"
        elif error.code() in _DENIED:
            open_.pop(topic, None)
        else:
            open_[topic] = error.str()

    for topic in list(open_):
        try:
            producer.produce(topic, b"", b"x", on_delivery=told, timestamp=_FAR_FUTURE_MS)
        except KafkaException as error:
            answer(topic, error.args[0])
    producer.flush(LIMIT_SECONDS)
    return open_


def _make_topic(client: Mapping[str, str]) -> str:
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415

    admin = AdminClient(dict(client), logger=silent_log())
    future = admin.create_topics([NewTopic("mine", 1, 1)], validate_only=True)["mine"]
    try:
        future.result(LIMIT_SECONDS)
    except KafkaException as error:
        return "" if error.args[0].code() in _DENIED else str(error)
    return "it was made"
