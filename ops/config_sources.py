"""Where settings come from: flags, environment, file, default, in this order.

Owns the search for the file, the reading of each source into one shape, and which source each
setting came from. Refuses to know what a setting means: that is `ops.config`.

The shape is nested dictionaries by section; `[[servers]]` becomes a dictionary by name, so that
sources merge server by server.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from ops import legacy_config
from ops.config import Config
from ops.config_errors import explain_validation
from ops.config_kafka import KAFKA_ALIASES
from ops.config_values import SERVER_NAME
from ops.errors import ConfigError

PREFIX: Final = "CDRSTREAM_"
LEGACY_VARIABLE: Final = "CALLRESOLVER_CONFIG"
FILE_VARIABLE: Final = "CDRSTREAM_CONFIG"
DEFAULT_FILES: Final = (Path("cdrstream.toml"), Path("/etc/cdrstream/cdrstream.toml"))
# Variables of ours that are no settings: they steer the local stack and the tests.
NO_SETTINGS: Final = frozenset((FILE_VARIABLE,))
NO_SETTING_PREFIXES: Final = (
    "CDRSTREAM_CACHE",
    "CDRSTREAM_SETUP_",
    "CDRSTREAM_STACK_",
    "CDRSTREAM_TEST_",
)

Values = dict[str, Any]
Path_ = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: its values in the common shape, and the words for where each came from."""

    name: str
    values: Values
    origins: Mapping[Path_, str]

    def origin(self, path: Path_) -> str:
        """Where this layer has the setting of that path from."""
        while path:
            if path in self.origins:
                return self.origins[path]
            path = path[:-1]
        return self.name


@dataclass(frozen=True, slots=True)
class Loaded:
    """The effective configuration and where it came from."""

    config: Config
    layers: tuple[Layer, ...]
    file: Path | None
    notices: tuple[str, ...]

    def origin(self, path: Path_) -> str:
        """Where the effective value of a setting came from; `default` where nobody set it."""
        return _origin(self.layers, path)


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> Loaded:
    """Reads every source and checks the result.

    Args:
        file: The configuration file; None searches `cdrstream.toml` here, then in /etc/cdrstream.
        environ: Environment; None is the process's own.
        overrides: Flags of the form `PATH=VALUE`.

    Raises:
        ConfigError: A setting is unknown or wrong, or a file cannot be read; names all that is.
    """
    environ = os.environ if environ is None else environ
    base, path, notices = _base_layer(file, environ)
    names = list(base.values.get("servers", {}))
    layers = (
        _flag_layer(overrides, names),
        _environment_layer(environ, names),
        base,
    )

    class Effective(Config):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return tuple(_Source(settings_cls, layer) for layer in layers)

    try:
        config = Effective()
    except ValidationError as error:
        text = explain_validation(error, Config, lambda path: _origin(layers, path))
        raise ConfigError(text) from None
    return Loaded(config, layers, path, notices)


class _Source(PydanticBaseSettingsSource):
    """A layer as pydantic-settings takes it."""

    def __init__(self, settings_cls: type[BaseSettings], layer: Layer) -> None:
        super().__init__(settings_cls)
        self._layer = layer

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return self._layer.values.get(field_name), field_name, False

    def __call__(self) -> Values:
        return self._layer.values


def _origin(layers: Sequence[Layer], path: Path_) -> str:
    for layer in layers:
        if _holds(layer.values, path):
            return layer.origin(path)
    return "default"


def _holds(values: Any, path: Path_) -> bool:
    for name in path:
        if not isinstance(values, Mapping) or name not in values:
            return False
        values = values[name]
    return True


def _base_layer(
    file: Path | None, environ: Mapping[str, str]
) -> tuple[Layer, Path | None, tuple[str, ...]]:
    legacy = environ.get(LEGACY_VARIABLE)
    if legacy and file is None:
        path = Path(legacy)
        old = legacy_config.read(path, _read_text(path))
        return Layer(f"{path}", old.values, old.origins), path, old.notices
    named = file or (Path(environ[FILE_VARIABLE]) if environ.get(FILE_VARIABLE) else None)
    found = named or next((path for path in DEFAULT_FILES if path.is_file()), None)
    if found is None:
        return Layer("file", {}, {}), None, ()
    return Layer(f"{found}", _toml(found), {}), found, ()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", "name the file with --config FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: byte {error.start}") from error


def _toml(path: Path) -> Values:
    text = _read_text(path)
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        # The message ends with the place, "(at line 3, column 7)".
        raise ConfigError(f"{path}: is not TOML: {error}") from None
    if "servers" in values:
        values["servers"] = _servers_by_name(values["servers"], f"{path}")
    return _without_aliases(values, f"{path}")


def _servers_by_name(tables: Any, origin: str) -> Values:
    """`[[servers]]` as a dictionary by name; the name is what the other sources speak of."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{origin}: servers: must be tables, each begun by a line [[servers]]")
    servers: Values = {}
    for number, table in enumerate(tables, start=1):
        name = table.get("name")
        where = f"{origin}: servers: table {number}"
        if name is None:
            raise ConfigError(f"{where} has no name: it needs one of a-z, 0-9, _ and -")
        if not isinstance(name, str) or not SERVER_NAME.fullmatch(name):
            raise ConfigError(f"{where}: name = {name!r}: must be 1 to 40 of a-z, 0-9, _ and -")
        if name in servers:
            raise ConfigError(f"{where}: name = {name!r}: is taken; every server has its own name")
        servers[name] = {key: value for key, value in table.items() if key != "name"}
    return servers


def _without_aliases(values: Values, origin: str) -> Values:
    """Other spellings of a setting in their one spelling, so that the sources merge."""
    kafka = values.get("kafka")
    if not isinstance(kafka, dict):
        return values
    for alias, name in KAFKA_ALIASES.items():
        if alias in kafka:
            if name in kafka:
                raise ConfigError(
                    f"{origin}: kafka.{alias} and kafka.{name} are one setting: give one of them"
                )
            kafka[name] = kafka.pop(alias)
    return values


def _environment_layer(environ: Mapping[str, str], names: Sequence[str]) -> Layer:
    values: Values = {}
    origins: dict[Path_, str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.upper().startswith(PREFIX) or variable in NO_SETTINGS:
            continue
        if variable.startswith(NO_SETTING_PREFIXES):
            continue
        path = tuple(variable[len(PREFIX) :].lower().split("__"))
        _put(values, origins, _server_path(path, names), text, f"environment {variable}")
    return Layer("environment", _without_aliases(values, "environment"), origins)


def _flag_layer(overrides: Sequence[str], names: Sequence[str]) -> Layer:
    values: Values = {}
    origins: dict[Path_, str] = {}
    for override in overrides:
        dotted, equals, text = override.partition("=")
        if not equals or not dotted.strip():
            raise ConfigError(f"--set {dotted}: must be PATH=VALUE, as in kafka.partitions=8")
        path = _server_path(tuple(dotted.strip().lower().split(".")), names)
        _put(values, origins, path, text, f"flag --set {dotted.strip()}")
    return Layer("flags", _without_aliases(values, "flags"), origins)


def _server_path(path: Path_, names: Sequence[str]) -> Path_:
    """`servers.NAME...` with the name as the file has it: a variable's name cannot hold a dash."""
    if len(path) < 2 or path[0] != "servers":
        return path
    for number, name in enumerate(names):
        if path[1] in (name, name.replace("-", "_"), str(number)):
            return ("servers", name, *path[2:])
    return path


def _put(values: Values, origins: dict[Path_, str], path: Path_, text: str, origin: str) -> None:
    if not all(path):
        raise ConfigError(f"{origin}: names no setting; a path has the form SECTION__NAME")
    if len(path) > 2 and path[0] == "servers" and not SERVER_NAME.fullmatch(path[1]):
        raise ConfigError(f"{origin}: {path[1]!r}: a server's name is 1 to 40 of a-z, 0-9, _ and -")
    if path == ("servers",):
        tables = _json(text, origin)
        for name, table in _servers_by_name(tables, origin).items():
            for key, value in table.items():
                _put_value(values, origins, ("servers", name, key), value, origin)
        return
    _put_value(values, origins, path, _json(text, origin) if _is_list(path) else text, origin)


def _is_list(path: Path_) -> bool:
    return path == ("resolution", "servers")


def _put_value(
    values: Values, origins: dict[Path_, str], path: Path_, value: Any, origin: str
) -> None:
    for name in path[:-1]:
        inner = values.setdefault(name, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{origin}: contradicts {'.'.join(path[:-1])}, which is also set")
        values = inner
    values[path[-1]] = value
    origins[path] = origin


def _json(text: str, origin: str) -> Any:
    """A list, as JSON or, where it holds plain names, separated by commas."""
    if not text.lstrip().startswith(("[", "{")):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{origin}: is not JSON: {error}") from None


def leaves(values: Mapping[str, Any], path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Every setting of nested sections with its path."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from leaves(value, (*path, name))
        else:
            yield (*path, name), value


def dotted(path: Path_) -> str:
    """`kafka.partitions`, the way that a setting is spoken of."""
    return ".".join(name if re.fullmatch(r"[\w-]+", name) else repr(name) for name in path)
