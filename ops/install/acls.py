"""Who may do what at the broker: the least that each role needs, as Kafka's ACLs.

Owns the table of rights. Topics' names are the configuration's. A reader that was broken into can
write events and read none; a worker and a replay cannot write them; the pages can only read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from callstate.topics import dead_letter_topic
from ops.config import Config
from ops.errors import OpsError, UsageError
from ops.topics import TIMEOUT_SECONDS, speaking_to

if TYPE_CHECKING:
    from ops.config_kafka import Kafka

ADMIN_PROPERTIES: Final = "admin.properties"  # how Kafka's own tools get in
_AGAIN_SECONDS: Final = 0.1


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
        (Role.REPLAY, kafka.topic("cdrs"), write),  # what it applies or takes back is told
        (Role.DASHBOARD, events, read),
        (Role.DASHBOARD, dead_letter_topic(events), read),
        (Role.DASHBOARD, kafka.topic("cdrs"), read),
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
    tool = f"kafka-acls.sh --bootstrap-server {config.kafka.bootstrap_servers}"
    if config.kafka.security_protocol not in (None, "plaintext"):
        tool += f" --command-config {ADMIN_PROPERTIES}"
    for right in rights(config):
        operations = " ".join(f"--operation {operation}" for operation in right.operations)
        pattern = " --resource-pattern-type prefixed" if right.prefixed else ""
        yield (
            f"{tool} --add --allow-principal User:{named[right.role]} {operations}"
            f" --{right.kind} {right.name}{pattern}"
        )


def apply(config: Config, named: Mapping[Role, str]) -> int:
    """Gives the rights; how many. What is there already is left as it is.

    Returns when the broker names them all: it learns of them a moment after they were taken.

    Raises:
        OpsError: The broker is away, has no authorizer, this user may not give rights, or they do
            not come to be.
    """
    wanted = _bindings(config, named)
    with speaking_to(config.kafka) as admin, as_allowed(config.kafka):
        for future in admin.create_acls(wanted).values():
            future.result(TIMEOUT_SECONDS)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while missing := differences(config, named)[0]:
        if time.monotonic() > deadline:
            raise OpsError(
                f"the broker has taken the rights and does not name all of them: {missing[0]}",
                "cdrstream acls --check   says what is missing by now",
            )
        time.sleep(_AGAIN_SECONDS)
    return len(wanted)


def differences(config: Config, named: Mapping[Role, str]) -> tuple[list[str], list[str]]:
    """What the broker's ACLs lack, and what they give beyond need, in words.

    Only what is given to the roles' users, or to everybody, is looked at.

    Raises:
        OpsError: The broker is away, has no authorizer, or this user may not look.
    """
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # noqa: PLC0415
        AclBindingFilter,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    any_name: Any = None
    who = {*(f"User:{name}" for name in named.values()), "User:*"}
    with speaking_to(config.kafka) as admin, as_allowed(config.kafka):
        every = AclBindingFilter(
            ResourceType.ANY,
            any_name,
            ResourcePatternType.ANY,
            any_name,
            any_name,
            AclOperation.ANY,
            AclPermissionType.ANY,
        )
        there = admin.describe_acls(every)
        found = {_words(each) for each in there.result(TIMEOUT_SECONDS) if each.principal in who}
    wanted = {_words(each) for each in _bindings(config, named)}
    return sorted(wanted - found), sorted(found - wanted)


@contextmanager
def as_allowed(kafka: Kafka) -> Iterator[None]:
    """What an administrator is told whom the broker does not let do this.

    Raises:
        OpsError: It has no authorizer, or this user may not.
    """
    from confluent_kafka import KafkaError, KafkaException  # noqa: PLC0415

    try:
        yield
    except KafkaException as error:
        refusal = error.args[0]
        if refusal.code() not in (
            KafkaError.CLUSTER_AUTHORIZATION_FAILED,
            KafkaError.SECURITY_DISABLED,
        ):
            raise
        raise OpsError(
            f"Kafka at {kafka.bootstrap_servers}: {refusal.str()}",
            "has the broker an authorizer, and may this user alter the cluster?",
        ) from error


def _bindings(config: Config, named: Mapping[Role, str]) -> list[Any]:
    """The rights as the client has them."""
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # noqa: PLC0415
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    return [
        AclBinding(
            ResourceType[right.kind.upper()],
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


def _words(binding: Any) -> str:
    prefixed = "" if binding.resource_pattern_type.name == "LITERAL" else "*"
    allowed = "" if binding.permission_type.name == "ALLOW" else "not "
    from_host = "" if binding.host == "*" else f" from {binding.host}"
    return (
        f"{binding.principal} may {allowed}{binding.operation.name} {binding.restype.name}"
        f" {binding.name}{prefixed}{from_host}"
    )
