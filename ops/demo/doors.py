"""Ways into the closed demo that must be shut: no encryption, no password, a wrong one, a stranger.

Owns the list and the trying. Each is tried by somebody who does everything else right, so that it
is this that keeps them out; what a door says is kept, because an operator will read it one day.
"""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final

import psycopg
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import make_conninfo

from callstate.broker_words import Heard
from ops.demo.forbidden import Attempt
from ops.librdkafka import hearing_log

Try = Callable[[], Attempt]

LIMIT_SECONDS: Final = 10
_KAFKA_TRIES: Final = 5
_WRONG: Final = "not-the-password"
_OPEN: Final = "it is open"


def of_postgres(dsn: str, stranger: Path) -> list[Try]:
    """Tries a server's.

    Args:
        dsn: Of somebody who gets in.
        stranger: An authority that did not sign its certificate.
    """

    def enters(**other: str) -> Callable[[], str]:
        return lambda: _postgres(make_conninfo(dsn, **other, connect_timeout=LIMIT_SECONDS))

    return [
        _try("PostgreSQL without encryption", enters(sslmode="disable"), "no encryption"),
        _try("PostgreSQL by a wrong password", enters(password=_WRONG), "password authentication"),
        _try(
            "a PostgreSQL that is not who it says",
            enters(host="elsewhere.example", hostaddr="127.0.0.1"),
            "does not match host name",
        ),
        _try(
            "a PostgreSQL that strangers vouch for",
            enters(sslrootcert=str(stranger)),
            "certificate verify failed",
        ),
    ]


def of_kafka(properties: Mapping[str, str], stranger: Path) -> list[Try]:
    """Tries the broker's; `properties` are of somebody who gets in."""

    def enters(**other: str) -> Callable[[], str]:
        named = {name.replace("_", "."): value for name, value in other.items()}
        return lambda: _kafka({**properties, **named})

    elsewhere = properties["bootstrap.servers"].replace("127.0.0.1", "localhost")
    return [
        _try("Kafka without encryption", enters(security_protocol="plaintext"), "Disconnected"),
        _try("Kafka without a password", enters(security_protocol="ssl"), "Disconnected"),
        _try("Kafka by a wrong password", enters(sasl_password=_WRONG), "uthentication failed"),
        _try("a Kafka that is not who it says", enters(bootstrap_servers=elsewhere), "certificate"),
        _try(
            "a Kafka that strangers vouch for",
            enters(ssl_ca_location=str(stranger)),
            "certificate",
        ),
    ]


def of_pages(url: str, authority: Path, stranger: Path) -> list[Try]:
    """Tries the pages'."""
    return [
        _try("the pages without a login", lambda: _page(url, authority), "401"),
        _try("the pages without encryption", lambda: _page(f"http{url[5:]}", authority), ""),
        _try("pages that strangers vouch for", lambda: _page(url, stranger), "certificate"),
    ]


def _try(what: str, enter: Callable[[], str], reason: str) -> Try:
    """Shut only if it is for the reason that is wanted, part of which is `reason`."""

    def attempt() -> Attempt:
        words = enter()
        if not words:
            return Attempt("anybody", what, _OPEN)
        return Attempt("anybody", what, "" if reason in words else f"another error: {words}")

    return attempt


def _postgres(dsn: str) -> str:
    try:
        psycopg.connect(dsn).close()
    except psycopg.OperationalError as error:
        return str(error)
    return ""


def _kafka(properties: Mapping[str, str]) -> str:
    heard = Heard()
    options: dict[str, Any] = {**properties, "error_cb": heard}
    admin = AdminClient(options, logger=hearing_log(heard))
    words = ""
    for _ in range(_KAFKA_TRIES):
        try:
            admin.list_topics(timeout=1.0)
        except KafkaException as error:
            admin.poll(0)  # what the client says beside the error is the reason
            words = heard.reason or str(error)
            if heard.advice:
                break
        else:
            return ""
    return words


def _page(url: str, authority: Path) -> str:
    context = ssl.create_default_context(cafile=str(authority))
    try:
        with urllib.request.urlopen(url, timeout=LIMIT_SECONDS, context=context):  # noqa: S310
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return str(error.code)
    except (OSError, HTTPException) as error:
        return str(error) or type(error).__name__
