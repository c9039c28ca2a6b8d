"""The topics of Kafka: which there are, whether they are as they must be, and their creation.

Owns their names; `callstate.topics` says how each must be. Refuses to read or write records. The
changelog of the open calls belongs to the stream app, which makes it itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from callstate.broker_words import Heard, advice_for
from callstate.topics import TopicKind, TopicSpec, dead_letter_topic, topic_spec
from ops.errors import OpsError
from ops.trust import certificate_fault

if TYPE_CHECKING:
    from confluent_kafka.admin import AdminClient

    from ops.config_kafka import Kafka
    from ops.librdkafka import Clients

TIMEOUT_SECONDS: Final = 10.0
_REACH_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class TopicState:
    """What the broker says of a topic; `partitions` is None where there is no such topic.

    Attributes:
        topic: How it must be.
        partitions: How many it has.
        replication_factor: Of the partition that has the fewest replicas.
        config: Its settings at the broker.
        leaderless: Partitions that nobody leads: nothing is read from them or written to them.
        thin: Partitions of which not all replicas are up to date.
    """

    topic: TopicSpec
    partitions: int | None
    replication_factor: int | None = None
    config: Mapping[str, str] = field(default_factory=dict)
    leaderless: tuple[int, ...] = ()
    thin: tuple[int, ...] = ()

    def setting(self, name: str) -> str | None:
        """One of the broker's settings of that topic."""
        return self.config.get(name)


def required(kafka: Kafka) -> list[TopicSpec]:
    """Every topic that the configuration asks for."""
    events, observers = kafka.events_topic, kafka.topic("observer-state-events")
    wanted = (
        (TopicKind.EVENTS, events),
        (TopicKind.DEAD_LETTERS, dead_letter_topic(events)),
        (TopicKind.REFERENCES, kafka.topic("call-references")),
        (TopicKind.CDRS, kafka.topic("cdrs")),
        (TopicKind.OBSERVERS, observers),
        (TopicKind.DEAD_LETTERS, dead_letter_topic(observers)),
        (TopicKind.POSITIONS, kafka.topic("reader-positions")),
        (TopicKind.STATUS, kafka.topic("status")),
    )
    return [topic_spec(kind, name, kafka.partitions, kafka.retention_days) for kind, name in wanted]


def admin_client(
    kafka: Clients, timeout_seconds: float = TIMEOUT_SECONDS, heard: Heard | None = None
) -> AdminClient:
    """A client for the broker; it connects at its first call.

    Args:
        kafka: Where the broker is, and how to get in.
        timeout_seconds: Of a request.
        heard: Takes what the client says of itself, for `broker_away`.
    """
    from confluent_kafka.admin import AdminClient  # noqa: PLC0415  not needed by `resolve`

    from ops.librdkafka import hearing_log, silent_log  # noqa: PLC0415

    properties: dict[str, Any] = {
        **kafka.client_properties(),
        "socket.timeout.ms": int(timeout_seconds * 1_000),
        "socket.connection.setup.timeout.ms": max(1_000, int(timeout_seconds * 1_000)),
        **({} if heard is None else {"error_cb": heard}),
    }
    return AdminClient(properties, logger=silent_log() if heard is None else hearing_log(heard))


def states(
    kafka: Kafka, topics: Sequence[TopicSpec], timeout_seconds: float = TIMEOUT_SECONDS
) -> list[TopicState]:
    """How each topic is now.

    Raises:
        OpsError: The broker is not there, or does not tell of a topic that it has.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415
    from confluent_kafka.admin._config import ConfigResource  # noqa: PLC0415
    from confluent_kafka.admin._resource import ResourceType  # noqa: PLC0415

    with speaking_to(kafka, timeout_seconds) as admin:
        known = admin.list_topics(timeout=timeout_seconds).topics
        there = [topic for topic in topics if topic.name in known]
        for topic in there:
            told = known[topic.name]
            if told.error is not None and not told.partitions:
                raise KafkaException(told.error)  # which is not the same as having no partitions
        resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in there]
        asked = admin.describe_configs(resources, request_timeout=timeout_seconds) if there else {}
        configs = {
            resource.name: future.result(timeout_seconds) for resource, future in asked.items()
        }
    found = []
    for topic in topics:
        if topic.name not in configs:
            found.append(TopicState(topic, None))
            continue
        partitions = known[topic.name].partitions
        replicas = min((len(part.replicas) for part in partitions.values()), default=0)
        settings = {name: str(e.value) for name, e in configs[topic.name].items()}
        found.append(
            TopicState(
                topic,
                len(partitions),
                replicas,
                settings,
                leaderless=tuple(sorted(n for n, part in partitions.items() if part.leader < 0)),
                thin=tuple(
                    sorted(n for n, p in partitions.items() if len(p.isrs) < len(p.replicas))
                ),
            )
        )
    return found


@contextmanager
def speaking_to(kafka: Kafka, timeout_seconds: float = TIMEOUT_SECONDS) -> Iterator[AdminClient]:
    """A client for the broker; hold it while its futures are not done.

    Raises:
        OpsError: What went wrong between client and broker inside the block, and why.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    heard = Heard()
    try:
        admin = admin_client(kafka, timeout_seconds, heard)
        _reach(admin, heard, timeout_seconds)
        yield admin
    except (KafkaException, TimeoutError) as error:
        raise broker_away(kafka, error, heard) from error


def demand_broker(kafka: Kafka) -> None:
    """Returns when the broker answers: commands whose own clients do not say why not ask first.

    Raises:
        OpsError: It does not, and why.
    """
    with speaking_to(kafka):
        return


def _reach(admin: AdminClient, heard: Heard, timeout_seconds: float) -> None:
    """Returns when the broker has answered; ends early where it is known why it never will.

    Raises:
        KafkaException: It did not.
    """
    from confluent_kafka import KafkaException  # noqa: PLC0415

    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            admin.list_topics(timeout=_REACH_SECONDS)
        except KafkaException:
            admin.poll(0)  # only here the client says why it did not get through
            if heard.advice or time.monotonic() > deadline:
                raise
        else:
            return


def broker_away(kafka: Kafka, error: Exception, heard: Heard | None = None) -> OpsError:
    """What to say where the broker cannot be spoken to."""
    detail: Any = error.args[0] if error.args else "no answer in time"
    text = detail.str() if hasattr(detail, "str") else str(detail)
    if heard is not None and heard.reason:
        text = heard.reason
        if "certificate" in text:
            text = certificate_fault(kafka) or text
    return OpsError(
        f"Kafka at {kafka.bootstrap_servers}: {text.removeprefix(f'{kafka.bootstrap_servers}: ')}",
        advice_for(text)
        or "is the broker running, and are kafka.bootstrap_servers and kafka.security_protocol"
        " right?",
    )


def wrong_count(state: TopicState) -> OpsError:
    """The one difference that cannot be mended: keys would change their partitions."""
    return OpsError(
        f"topic {state.topic.name} has {state.partitions} partitions, "
        f"kafka.partitions asks for {state.topic.partitions}",
        f"set kafka.partitions = {state.partitions}, or use a new kafka.topic_prefix; "
        "a topic's partitions cannot be changed without moving calls between workers",
    )


def create_missing(kafka: Kafka) -> Iterator[tuple[TopicSpec, bool]]:
    """Creates what is missing; yields every topic and whether it was created now.

    Raises:
        OpsError: The broker is not there or refuses, or a topic has another partition count.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415
    from confluent_kafka.cimpl import NewTopic  # noqa: PLC0415

    current = states(kafka, required(kafka))
    admin = admin_client(kafka)
    for state in current:
        if state.partitions not in (None, state.topic.partitions):
            raise wrong_count(state)
    for state in current:
        topic = state.topic
        if state.partitions is not None:
            yield topic, False
            continue
        new = NewTopic(
            topic.name,
            num_partitions=topic.partitions,
            replication_factor=kafka.replication_factor,
            config=dict(topic.config),
        )
        future = admin.create_topics([new], operation_timeout=TIMEOUT_SECONDS)[topic.name]
        try:
            future.result(2 * TIMEOUT_SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise OpsError(
                    f"topic {topic.name} cannot be created: {error.args[0].str()}",
                    "may this user create topics, and has the broker the replicas asked for?",
                ) from error
            yield topic, False  # somebody else was quicker
            continue
        yield topic, True
