"""The users of the broker, one for each role: made where they are missing, each with a password.

Owns the passwords until they are in a file and at the broker; no command line and no log ever has
them. A user that is there already is left alone. Refuses to know rights (`acls`).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException

from ops.config import Config
from ops.errors import OpsError
from ops.install.acls import as_allowed
from ops.topics import TIMEOUT_SECONDS, speaking_to

_ITERATIONS: Final = 8_192
_UNANSWERED: Final = frozenset(
    (KafkaError._TIMED_OUT, KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN)
)
_DEFAULT: Final = "SCRAM-SHA-512"


def make_users(config: Config, names: Sequence[str], folder: Path) -> Iterator[tuple[str, bool]]:
    """Makes those that the broker does not know; yields each and whether it was made now.

    Args:
        config: Of an administrator.
        names: Of the users.
        folder: Where each new one's login goes, as `NAME.env` for its process's environment.

    Raises:
        OpsError: The broker is away, or this user may not; a file is there already.
    """
    from confluent_kafka.admin import (  # type: ignore[attr-defined]  # noqa: PLC0415
        ScramCredentialInfo,
        ScramMechanism,
        UserScramCredentialUpsertion,
    )

    told = config.kafka.sasl_mechanism or _DEFAULT
    mechanism = (told if told.startswith("SCRAM") else _DEFAULT).replace("-", "_")
    how = ScramCredentialInfo(ScramMechanism[mechanism], _ITERATIONS)
    with speaking_to(config.kafka) as admin, as_allowed(config.kafka):
        everybody: Any = admin.describe_user_scram_credentials()
        known = set(everybody.result(TIMEOUT_SECONDS))
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            if name in known:
                yield name, False
                continue
            password = secrets.token_urlsafe(24)
            path = _write_login(folder / f"{name}.env", name, password)
            wanted = UserScramCredentialUpsertion(name, how, password.encode())
            try:
                admin.alter_user_scram_credentials([wanted])[name].result(TIMEOUT_SECONDS)
            except KafkaException as error:
                # Where no answer came the broker may know the user: this is its only password.
                if not error.args[0].retriable() and error.args[0].code() not in _UNANSWERED:
                    path.unlink()
                raise
            yield name, True


def _write_login(path: Path, name: str, password: str) -> Path:
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise OpsError(
            f"{path} is there already, and the broker does not know {name}",
            "it is another broker's? give another folder, or remove the file",
        ) from error
    with os.fdopen(file, "w", encoding="utf-8") as text:
        text.write(f"CDRSTREAM_KAFKA__SASL_USERNAME={name}\n")
        text.write(f"CDRSTREAM_KAFKA__SASL_PASSWORD={password}\n")
    return path
