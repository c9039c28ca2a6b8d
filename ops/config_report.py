"""What `config show` prints: the settings in effect, where each came from, secrets hidden.

Owns the two forms, TOML with comments and JSON. Refuses to show a secret.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum
from typing import Any

from pydantic import BaseModel, Secret, SecretStr

from ops.config_sources import Loaded

_Path = tuple[str, ...]


def as_object(loaded: Loaded) -> dict[str, Any]:
    """`{"v", "file", "settings": {path: {"value", "origin"}}}`."""
    return {
        "v": 1,
        "file": None if loaded.file is None else str(loaded.file),
        "settings": {
            ".".join(path): {"value": _plain(value), "origin": loaded.origin(path)}
            for path, value in settings_in_effect(loaded.config)
        },
    }


def as_text(loaded: Loaded) -> str:
    """The settings as the file would have them, each with its origin; readable as TOML."""
    lines = [f"# file: {loaded.file or 'none found'}"]
    section: _Path = ()
    for path, value in settings_in_effect(loaded.config):
        if path[:-1] != section:
            section = path[:-1]
            lines += ["", *_header(section)]
        plain = _plain(value)
        setting = f"# {path[-1]} is not set" if plain is None else f"{path[-1]} = {_toml(plain)}"
        origin = loaded.origin(path)
        lines.append(setting if plain is None else f"{setting:<58}  # {origin}")
    return "\n".join(lines) + "\n"


def _header(section: _Path) -> list[str]:
    if section[0] == "servers":
        return ["[[servers]]", f"name = {_toml(section[1])}"]
    return [f"[{'.'.join(section)}]"]


def settings_in_effect(section: BaseModel, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """Every setting with its path, secrets as they are."""
    for attribute, field in type(section).model_fields.items():
        name, value = field.alias or attribute, getattr(section, attribute)
        if isinstance(value, BaseModel):
            yield from settings_in_effect(value, (*path, name))
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from settings_in_effect(inner, (*path, name, key))
        else:
            yield (*path, name), value


def _plain(value: Any) -> Any:
    if isinstance(value, (SecretStr, Secret)):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _toml(value: Any) -> str:
    # A JSON string, number, boolean or list of strings is also TOML's.
    return json.dumps(value, ensure_ascii=False)
