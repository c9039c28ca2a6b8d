"""The old resolver's settings file, `callresolver-config`, in the place of ours.

Owns its syntax (`NAME : VALUE`, `#` comments, empty is unset), its names with their limits, and
what each becomes here. Refuses to know our defaults: what the file does not say is left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from ops.errors import ConfigError
from ops.redaction import HIDDEN

PREFIX: Final = "SIP_CALLRESOLVER_"
DATABASE: Final = "SIPXCDR"
DEFAULT_PORT: Final = 5432
_INT_MAX: Final = 2_147_483_647
_PORT_MAX: Final = 65_535
_LOG_LEVELS: Final = {
    "DEBUG": "debug",
    "INFO": "info",
    "NOTICE": "info",
    "WARNING": "warning",
    "ERR": "error",
    "CRIT": "critical",
    "ALERT": "critical",
    "EMERG": "critical",
}
_TIMERS: Final = {
    "MAX_CALL_LEN": "max_call_seconds",
    "MAX_RINGING_CALL_LEN": "max_ringing_seconds",
    "MAX_FAILED_WAIT": "failed_wait_seconds",
}
# Name to its least value; None where any text will do.
_NO_MEANING: Final[Mapping[str, int | None]] = {
    "CSE_POLLING_INTERVAL": 1,
    "MIN_CLEANUP_INTERVAL": 60,
    "CSE_QUEUE_SIZE": 0,
    "CDR_QUEUE_SIZE": 0,
    "STUNNEL_PORT": 0,
    "LOG_CONSOLE": None,
    "LOG_DIR": None,
    "CALL_DIRECTION": None,
    "REMOTE_ACCESS": None,
    "PRIVACY": None,
    "PRIVACY_LENGTH": None,
    "PRIVACY_EXCLUDE": None,
    "DAILY_RUN": None,
}
BARE: Final = ("CSV_LIMIT", "REPORT_LIMIT", "JSON_LIMIT", "RUN_DAILY", "TIME_TO_RUN")
_AGES: Final = {"PURGE_AGE_CDR": "cdr_days", "PURGE_AGE_CSE": "event_days"}
_AGENT: Final[Mapping[str, str]] = {"AGENT_ADDR": "0.0.0.0", "AGENT_PORT": "8130"}  # noqa: S104


@dataclass(slots=True)
class LegacyValues:
    """What the file says, in the shape of `ops.config_sources`."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[tuple[str, ...], str] = field(default_factory=dict)
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    value: str
    where: str

    def fail(self, allowed: str) -> ConfigError:
        shown = HIDDEN if "PASSWORD" in self.name else repr(self.value)
        return ConfigError(f"{self.where}: {self.name} = {shown}: {allowed}")


def read(path: Path, text: str) -> LegacyValues:
    """The settings of an old file.

    Raises:
        ConfigError: A line without a colon, an unknown name, a value outside its limits; the
            message names the line.
    """
    lines = _lines(path, text)
    result = LegacyValues()
    notices: list[str] = []
    for line in lines.values():
        notice = _take(result, line)
        if notice:
            notices.append(f"{line.where}: {line.name} {notice}")
    _agent(result, lines)
    _databases(result, lines, path)
    result.notices = tuple(notices)
    return result


def _lines(path: Path, text: str) -> dict[str, _Line]:
    lines: dict[str, _Line] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        stripped = raw.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, colon, value = (part.strip() for part in stripped.partition(":"))
        where = f"{path}:{number}"
        if not colon:
            raise ConfigError(f"{where}: no colon in this line: must be NAME : VALUE")
        short = name.removeprefix(PREFIX)
        if not (name.startswith(PREFIX) and short in KNOWN) and name not in BARE:
            raise ConfigError(f"{where}: {name}: unknown setting{_suggestion(short)}")
        if value:
            lines[short] = _Line(name, value, where)
    return lines


def _suggestion(short: str) -> str:
    near = get_close_matches(short, KNOWN, 1, 0.6)
    return f"; did you mean {PREFIX}{near[0]}?" if near else ""


def _take(result: LegacyValues, line: _Line) -> str:
    """Puts one line where it belongs; returns what has to be said about it."""
    short = line.name.removeprefix(PREFIX)
    if short in _TIMERS:
        _put(result, ("resolution", _TIMERS[short]), _whole(line, -1), line)
    elif short == "LOG_LEVEL":
        if line.value.upper() not in _LOG_LEVELS:
            raise line.fail(f"must be one of {', '.join(_LOG_LEVELS)}")
        _put(result, ("log", "level"), _LOG_LEVELS[line.value.upper()], line)
    elif short == "PURGE":
        if line.value.upper() not in ("ENABLE", "DISABLE"):
            raise line.fail("must be ENABLE or DISABLE")
        _put(result, ("retention", "enabled"), line.value.upper() == "ENABLE", line)
    elif short in _AGES:
        _put(result, ("retention", _AGES[short]), _whole(line, 1), line)
    elif short in _NO_MEANING or line.name in BARE:
        _check(line, _NO_MEANING.get(short))
        return "has no meaning any more"
    return ""


def _check(line: _Line, least: int | None) -> None:
    if least is not None:
        _whole(line, least)


def _whole(line: _Line, least: int) -> int:
    try:
        value = int(line.value)
    except ValueError:
        value = least - 1
    if not least <= value <= _INT_MAX or not re.fullmatch(r"[+-]?\d+", line.value):
        raise line.fail(f"must be a whole number from {least} to {_INT_MAX}")
    return value


def _put(result: LegacyValues, path: tuple[str, ...], value: object, line: _Line) -> None:
    section = result.values
    for name in path[:-1]:
        section = section.setdefault(name, {})
    section[path[-1]] = value
    result.origins[path] = f"{line.where} {line.name}"


def _agent(result: LegacyValues, lines: Mapping[str, _Line]) -> None:
    """Where active calls are asked for over HTTP; a file that says neither leaves it closed."""
    said = [lines[name] for name in _AGENT if name in lines]
    if not said:
        return
    told = {name: lines[name].value if name in lines else _AGENT[name] for name in _AGENT}
    address, port = told["AGENT_ADDR"], told["AGENT_PORT"]
    if not re.fullmatch(r"[A-Za-z0-9._:-]+", address):
        raise lines["AGENT_ADDR"].fail("must be a host name or an address")
    if not re.fullmatch(r"\d{1,5}", port) or not 1 <= int(port) <= _PORT_MAX:
        raise lines["AGENT_PORT"].fail(f"must be a number from 1 to {_PORT_MAX}")
    host = f"[{address}]" if ":" in address else address
    _put(result, ("worker", "active_listen"), f"{host}:{int(port)}", said[0])


def _databases(result: LegacyValues, lines: Mapping[str, _Line], path: Path) -> None:
    """The servers and, on the machine itself, the database that holds the CDRs."""
    default = _Line(f"{PREFIX}CSE_HOSTS", f"localhost:{DEFAULT_PORT}", f"{path} (default)")
    hosts = lines.get("CSE_HOSTS", default)
    user = lines["DB_USER"].value if "DB_USER" in lines else "postgres"
    password = lines["DB_PASSWORD"].value if "DB_PASSWORD" in lines else None
    local_port = DEFAULT_PORT
    for host, port in _hosts(hosts):
        if host == "localhost":
            local_port = port
        name = _server_name(host, port, result.values.get("servers", {}))
        _put(result, ("servers", name, "dsn"), _dsn(host, port, user, password), hosts)
    _put(result, ("sink", "dsn"), _dsn("localhost", local_port, user, password), hosts)


def _hosts(line: _Line) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for part in (part.strip() for part in line.value.split(",")):
        host, colon, port = part.rpartition(":") if ":" in part else (part, "", "")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", host):
            raise line.fail(f"{part!r}: must be host:port, comma separated")
        if not colon and host != "localhost":
            raise line.fail(f"{part!r} has no port: only localhost may go without")
        number = int(port) if re.fullmatch(r"\d{1,5}", port) else 0 if colon else DEFAULT_PORT
        if not 1 <= number <= _PORT_MAX:
            raise line.fail(f"{part!r}: the port must be a number from 1 to {_PORT_MAX}")
        if (host, number) in found:
            raise line.fail(f"{part!r} is there twice")
        found.append((host, number))
    return found


def _server_name(host: str, port: int, taken: Mapping[str, object]) -> str:
    """The host's name, as far as it can be one of ours; with its port where two share a host."""
    name = re.sub(r"[^a-z0-9_-]", "-", host.lower())[:34]
    return f"{name}-{port}" if name in taken else name


def _dsn(host: str, port: int, user: str, password: str | None) -> str:
    from psycopg.conninfo import make_conninfo  # noqa: PLC0415  libpq is slow to load

    parts: dict[str, str | int] = {"host": host, "port": port, "dbname": DATABASE, "user": user}
    if password is not None:
        parts["password"] = password
    build: Callable[..., str] = make_conninfo
    return build("", **parts)


KNOWN: Final = (
    "CSE_HOSTS",
    "DB_USER",
    "DB_PASSWORD",
    "LOG_LEVEL",
    "PURGE",
    *_AGES,
    *_TIMERS,
    *_AGENT,
    *_NO_MEANING,
)
