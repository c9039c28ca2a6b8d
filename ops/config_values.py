"""What a value of the configuration may be, whichever setting it is of.

Owns the types of settings, with what is said of a value that is none, and what holds for every
section. Refuses to know any setting (`ops.config_sections`, `ops.config_kafka`).
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from ops.redaction import why_no_dsn
from ops.secret_dsn import Dsn

SERVER_NAME = re.compile(r"[a-z0-9_-]{1,40}")


def _not_a_bool(value: object) -> object:
    """`true` is no number, though Python says that it is 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004  pydantic collects ValueErrors
    return value


def _readable(dsn: Dsn) -> Dsn:
    wrong = why_no_dsn(dsn.get_secret_value())
    if wrong:
        raise ValueError(f"must be 'key=value ...' or a postgresql:// URI: the value {wrong}")
    return dsn


def _identifier(name: str) -> str:
    if not re.fullmatch(r"[a-z0-9_]{1,63}", name):
        raise ValueError("must be 1 to 63 of a-z, 0-9 and _")
    return name


def _listen(address: str) -> str:
    if address and not re.fullmatch(r"\S+:\d{1,5}", address):
        raise ValueError("must be HOST:PORT, for example 127.0.0.1:9108")
    return address


Whole = Annotated[int, BeforeValidator(_not_a_bool)]
Seconds = Annotated[float, BeforeValidator(_not_a_bool), Field(allow_inf_nan=False)]
ServerDsn = Annotated[Dsn, AfterValidator(_readable)]
Identifier = Annotated[str, AfterValidator(_identifier)]
Text = Annotated[str, Field(min_length=1)]
Listen = Annotated[str, AfterValidator(_listen)]


class Section(BaseModel):
    """A table of the file: frozen, and every name in it known."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def settings_of(section: type[BaseModel]) -> dict[str, FieldInfo]:
    """A section's settings by the names that operators write."""
    return {field.alias or name: field for name, field in section.model_fields.items()}
