"""All that must be refused in the closed demo, put together.

Owns who is whose user there, and a stranger's authority. What is tried is in `forbidden` (acts
without a right) and `doors` (ways in).
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from ops.config import Config
from ops.config_sources import load
from ops.demo.doors import of_kafka, of_pages, of_postgres
from ops.demo.forbidden import Attempt, at_the_broker, at_the_database
from ops.demo.installation import Installation
from ops.demo.plan import REFERENCE
from ops.install.acls import Role
from ops.install.authority import issue


def everything(place: Installation) -> Iterator[tuple[str, list[Attempt]]]:
    """Where it was tried, and each attempt; the servers' turn is that of the reference's."""
    assert place.secrets is not None
    own = {
        role: load(place.config_of(*([role, REFERENCE] if role is Role.READER else [role]))).config
        for role in Role
    }
    sinks = {role.value: own[role].sink_dsn() for role in (Role.WORKER, Role.DASHBOARD)}
    reader = own[Role.READER].server(REFERENCE).dsn.get_secret_value()
    stranger = place.folder / "stranger"
    issue(stranger, [])
    authority = stranger / "ca.pem"
    yield (
        "rights at the broker",
        at_the_broker(own[Role.READER], lambda role: _kafka(own[role])),
    )
    yield "rights at PostgreSQL", at_the_database({"reader": reader, **sinks})
    tries = [
        *of_postgres(reader, authority),
        *of_kafka(_kafka(own[Role.DASHBOARD]), authority),
        *of_pages(place.dashboard_url, place.secrets.tls / "ca.pem", authority),
    ]
    with ThreadPoolExecutor(len(tries)) as pool:  # a client of Kafka tries for seconds
        yield "ways in", list(pool.map(lambda attempt: attempt(), tries))


def _kafka(config: Config) -> dict[str, str]:
    return {name: str(value) for name, value in config.kafka.client_properties().items()}
