"""Is Kafka there, are the topics as they must be, do heartbeats of every server arrive?

Owns the questions to the broker and their judgement. Writes one scratch record, a tombstone that
compaction removes, to learn whether it may write.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from callstate.topics import DAY_MS
from ops.doctor.checks import TIME_LIMIT_SECONDS, Finding, cannot_tell, fail, ok, warn
from ops.errors import OpsError
from ops.topics import TopicState, broker_away, required, states

if TYPE_CHECKING:
    from ops.config_kafka import Kafka

HEARTBEAT_STALE_SECONDS: Final = 60
_TAIL_RECORDS_MAX: Final = 5_000
_PROVISION: Final = "cdrstream provision"


def topic_states(kafka: Kafka) -> list[TopicState]:
    """How every topic is.

    Raises:
        OpsError: The broker is not there.
    """
    return states(kafka, required(kafka), TIME_LIMIT_SECONDS)


def topics(found: Sequence[TopicState]) -> list[Finding]:
    """Each topic against what it must be."""
    findings = [finding for state in found for finding in _topic(state)]
    return findings or [ok(f"{len(found)} topics as configured")]


def _topic(state: TopicState) -> list[Finding]:
    topic, name = state.topic, state.topic.name
    if state.partitions is None:
        return [fail(f"there is no topic {name}", topic.meaning, _PROVISION)]
    findings = []
    if state.partitions != topic.partitions:
        findings.append(
            fail(
                f"topic {name} has {state.partitions} partitions",
                f"{topic.partitions} (kafka.partitions)",
                f"set kafka.partitions = {state.partitions}, or use a new kafka.topic_prefix",
            )
        )
    if state.leaderless:
        findings.append(
            fail(
                f"topic {name}: nobody leads partition {', '.join(map(str, state.leaderless))}",
                "a leader: nothing is written there or read from there",
                "which broker is down? kafka-topics.sh --describe --unavailable-partitions",
            )
        )
    policy = str(state.setting("cleanup.policy"))
    if set(policy.split(",")) != topic.cleanup:
        wanted_policy = ",".join(sorted(topic.cleanup))
        # Records that are only kept for longer than need be harm nobody.
        judge = warn if {"compact"} == set(policy.split(",")) < topic.cleanup else fail
        findings.append(
            judge(
                f"topic {name} has cleanup.policy = {policy}",
                wanted_policy,
                f"kafka-configs.sh --alter --topic {name}"
                f" --add-config cleanup.policy=[{wanted_policy}]",
            )
        )
    wanted = topic.config.get("retention.ms")
    kept = state.setting("retention.ms")
    if wanted and kept and 0 <= int(kept) < int(wanted):
        findings.append(
            warn(
                f"topic {name} keeps {int(kept) / DAY_MS:.1f} days",
                f"{int(wanted) / DAY_MS:g} days: how far back CDRs can be rebuilt",
                f"kafka-configs.sh --alter --topic {name} --add-config retention.ms={wanted}",
            )
        )
    return findings


def replication(found: Sequence[TopicState]) -> list[Finding]:
    """Whether the loss of one broker loses events."""
    factors = {state.replication_factor for state in found if state.replication_factor}
    if not factors:
        return [cannot_tell("there is no topic with replicas")]
    thin = [state.topic.name for state in found if state.thin]
    if thin:
        return [
            warn(
                f"not all replicas are up to date: {', '.join(thin)}",
                "all: else the loss of one more broker stops or loses events",
                "which broker is down? kafka-topics.sh --describe --under-replicated-partitions",
            )
        ]
    if min(factors) < 2:
        return [
            warn(
                "topics have one replica: the loss of that broker's disk loses events",
                "3 replicas where billing depends on it",
                "kafka-reassign-partitions.sh, or kafka.replication_factor before provision",
            )
        ]
    return [ok("topics are replicated")]


def may_write(kafka: Kafka) -> list[Finding]:
    """Writes one scratch record.

    Raises:
        OpsError: The broker refuses it, or does not answer in time.
    """
    from confluent_kafka import Producer  # noqa: PLC0415  slow to load

    errors: list[Any] = []
    own = {"message.timeout.ms": int(TIME_LIMIT_SECONDS * 1_000), "log_level": 0}
    producer = Producer({**kafka.client_properties(), **own})
    topic = kafka.topic("status")
    producer.produce(
        topic, key=b"doctor", value=None, on_delivery=lambda error, _message: errors.append(error)
    )
    producer.flush(TIME_LIMIT_SECONDS)
    if errors and errors[0] is None:
        return [ok(f"may write to {topic}")]
    text = errors[0].str() if errors else "no acknowledgement in time"
    raise OpsError(f"cannot write to {topic}: {text}", "check the ACLs of this Kafka user")


def newest_heartbeats(kafka: Kafka) -> dict[int, dict[str, float]]:
    """Age in seconds of each server's newest heartbeat, by partition, as far as the tail tells.

    Raises:
        OpsError: The broker does not answer.
    """
    from confluent_kafka import Consumer, KafkaException, TopicPartition  # noqa: PLC0415

    from ops.offsets import ends_of, offsets_at  # noqa: PLC0415  on demand

    own = {
        "group.id": f"cdrstream-doctor-{uuid.uuid4()}",
        "enable.auto.commit": False,
        "allow.auto.create.topics": False,
        "log_level": 0,
    }
    consumer = Consumer({**kafka.client_properties(), **own})
    try:
        since_ms = int((time.time() - HEARTBEAT_STALE_SECONDS) * 1_000)
        topic = kafka.events_topic
        asked = dict.fromkeys(range(kafka.partitions), since_ms)
        begins = offsets_at(consumer, topic, asked, TIME_LIMIT_SECONDS)
        ends: dict[int, int] = {}
        starts = []
        for number, begin in begins.items():
            _low, high = ends_of(consumer, TopicPartition(topic, number), TIME_LIMIT_SECONDS)
            first = high if begin is None else begin
            first = max(first, high - _TAIL_RECORDS_MAX // kafka.partitions)
            if first < high:
                ends[number] = high
                starts.append(TopicPartition(topic, number, first))
        consumer.assign(starts)
        return _read_tail(consumer, ends)
    except KafkaException as error:
        raise broker_away(kafka, error) from error
    finally:
        consumer.close()


def _read_tail(consumer: Any, ends: dict[int, int]) -> dict[int, dict[str, float]]:
    newest: dict[int, dict[str, float]] = {}
    waiting = set(ends)
    deadline = time.monotonic() + TIME_LIMIT_SECONDS
    while waiting and time.monotonic() < deadline:
        for message in consumer.consume(1_000, timeout=0.2):
            if message.error() is not None:
                continue
            headers = dict(message.headers() or ())
            if headers.get("kind") == b"heartbeat":
                server = headers.get("server", b"?").decode("utf-8", "replace")
                age = time.time() - message.timestamp()[1] / 1_000
                newest.setdefault(message.partition(), {})[server] = age
            if message.offset() + 1 >= ends[message.partition()]:
                waiting.discard(message.partition())
    return newest


def heartbeats(
    newest: Mapping[int, Mapping[str, float]], servers: Sequence[str], partitions: int
) -> list[Finding]:
    """Whether every server's heartbeats arrive in every partition."""
    findings = []
    for server in servers:
        without = [n for n in range(partitions) if server not in newest.get(n, {})]
        if not without:
            continue
        where = "any partition" if len(without) == partitions else f"partition {without}"
        findings.append(
            fail(
                f"no heartbeat of server {server} in {where} for {HEARTBEAT_STALE_SECONDS} s",
                "one a second; the watermark waits for it",
                f"cdrstream reader --server {server}; if it runs, look at its log",
            )
        )
    return findings or [ok(f"heartbeats of {', '.join(servers) or 'no server'} arrive")]
