"""Who may do what at the broker: the least that each role needs, as Kafka's ACLs.

Owns the table of rights. Topics' names are the configuration's. A reader that was broken into can
write events and read none; a worker cannot write them; the pages and replays can only read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from callstate.topics import dead_letter_topic
from ops.config import Config
from ops.errors import OpsError, UsageError
from ops.topics import TIMEOUT_SECONDS, speaking_to


class Role(StrEnum):
    """Who speaks to the broker."""

    READER = "reader"
    WORKER = "worker"
    REPLAY = "replay"
    DASHBOARD = "dashboard"


@dataclass(frozen=True, slots=True)
class Right:
    """One line: what a role may do to one thing.

    Attributes:
        role: Who.
        kind: `topic` or `group`.
        name: Of the thing.
        operations: As Kafka names them; Read and Write include Describe.
        prefixed: The name is how the things' names begin.
    """

    role: Role
    kind: str
    name: str
    operations: tuple[str, ...]
    prefixed: bool = False


# Groups that are named and never joined: Kafka asks for the right to see them all the same.
_GROUPS: Final[Mapping[Role, str]] = {
    Role.READER: "cdrstream-positions-",
    Role.REPLAY: "cdrstream-replay",
    Role.DASHBOARD: "cdrstream-",
}


def rights(config: Config) -> list[Right]:
    """What each role needs, and no more."""
    kafka = config.kafka
    events, observers = kafka.events_topic, kafka.topic("observer-state-events")
    changelog = f"{config.worker.group_id}-open_calls-changelog"
    status, references = kafka.topic("status"), kafka.topic("call-references")
    read, write, both, see = ("Read",), ("Write",), ("Read", "Write"), ("Describe",)
    topics: Sequence[tuple[Role, str, tuple[str, ...]]] = (
        (Role.READER, events, write),
        (Role.READER, dead_letter_topic(events), write),
        (Role.READER, observers, write),
        (Role.READER, dead_letter_topic(observers), write),
        (Role.READER, kafka.topic("reader-positions"), both),
        (Role.READER, status, write),
        (Role.WORKER, events, read),
        (Role.WORKER, dead_letter_topic(events), write),
        (Role.WORKER, references, both),
        (Role.WORKER, changelog, ("Read", "Write", "Create")),  # the worker makes its own
        (Role.WORKER, kafka.topic("cdrs"), write),
        (Role.WORKER, status, write),
        (Role.REPLAY, events, read),
        (Role.REPLAY, references, read),
        (Role.DASHBOARD, events, read),
        (Role.DASHBOARD, status, read),
    )
    found = [Right(role, "topic", name, operations) for role, name, operations in topics]
    group = config.worker.group_id
    found.append(Right(Role.WORKER, "group", group, read))
    found.append(Right(Role.WORKER, "group", f"{group}-restore", see))
    found += [Right(role, "group", name, see, prefixed=True) for role, name in _GROUPS.items()]
    return found


def users(given: Sequence[str]) -> dict[Role, str]:
    """Principals by role: `ROLE=NAME`, by default `cdrstream-ROLE`.

    Raises:
        UsageError: No such role.
    """
    found = {role: f"cdrstream-{role.value}" for role in Role}
    for argument in given:
        name, equals, user = argument.partition("=")
        if not (equals and user and name in tuple(Role)):
            raise UsageError(f"--user {argument}: must be ROLE=NAME, ROLE one of {', '.join(Role)}")
        found[Role(name)] = user
    return found


def script(config: Config, named: Mapping[Role, str]) -> Iterator[str]:
    """The same for Kafka's own tool, a line each."""
    server = config.kafka.bootstrap_servers
    for right in rights(config):
        operations = " ".join(f"--operation {operation}" for operation in right.operations)
        pattern = " --resource-pattern-type prefixed" if right.prefixed else ""
        yield (
            f"kafka-acls.sh --bootstrap-server {server} --add --allow-principal"
            f" User:{named[right.role]} {operations} --{right.kind} {right.name}{pattern}"
        )


def apply(config: Config, named: Mapping[Role, str]) -> int:
    """Gives the rights; how many. What is there already is left as it is.

    Raises:
        OpsError: The broker is away, has no authorizer, or this user may not give rights.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # noqa: PLC0415
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    bindings: list[Any] = [
        AclBinding(
            ResourceType.TOPIC if right.kind == "topic" else ResourceType.GROUP,
            right.name,
            ResourcePatternType.PREFIXED if right.prefixed else ResourcePatternType.LITERAL,
            f"User:{named[right.role]}",
            "*",
            AclOperation[operation.upper()],
            AclPermissionType.ALLOW,
        )
        for right in rights(config)
        for operation in right.operations
    ]
    with speaking_to(config.kafka) as admin:
        for future in admin.create_acls(bindings).values():
            try:
                future.result(TIMEOUT_SECONDS)
            except KafkaException as error:
                refusal = error.args[0]
                if refusal.code() not in (
                    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
                    KafkaError.SECURITY_DISABLED,
                ):
                    raise
                raise OpsError(
                    f"Kafka at {config.kafka.bootstrap_servers}: {refusal.str()}",
                    "has the broker an authorizer, and may this user alter the cluster?",
                ) from error
    return len(bindings)
