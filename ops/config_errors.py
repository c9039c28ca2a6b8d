"""What is said about a wrong setting: its path, its value, where it is from, what is allowed.

Owns the wording. Refuses to know how settings are read.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, Secret, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from ops.config_values import settings_of
from ops.redaction import HIDDEN

_SHOWN_CHARACTERS: Final = 80
_LISTED_NAMES: Final = 16
_UNKNOWN: Final = "extra_forbidden"


def explain_validation(
    error: ValidationError, model: type[BaseModel], origin: Callable[[tuple[str, ...]], str]
) -> str:
    """One line for each wrong setting, all of them, so that a file is corrected in one go."""
    by_path: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        path = _setting(model, tuple(str(part) for part in details["loc"]))
        by_path.setdefault(path, []).append(details)
    lines = []
    for path, found in by_path.items():
        held = path[:-1] if found[0]["type"] == "missing" else path
        lines.append(_line(path, found, model, origin(held)))
    return "\n".join(lines)


def _line(
    path: tuple[str, ...], details: list[ErrorDetails], model: type[BaseModel], origin: str
) -> str:
    where = "" if origin == "default" else f"{origin}: "
    name = ".".join(path)
    kind = details[0]["type"]
    if kind == _UNKNOWN:
        told = _told_of_unknown(details[0].get("input"))
        return f"{where}{name}{told}: unknown setting{_suggestion(path, model)}"
    if kind == "missing":
        return f"{where}{name}: must be set: {_description(path, model)}"
    allowed = " or ".join(dict.fromkeys(_allowed(one) for one in details))
    if not path:
        return f"{where}{allowed}"
    value = details[0].get("input")
    if isinstance(value, Mapping) and kind == "value_error":
        return f"{where}{name}: {allowed}"
    return f"{where}{name} = {_shown(value, path, model)}: {allowed}"


def _allowed(details: ErrorDetails) -> str:
    message = details["msg"]
    for before, after in (
        ("Value error, ", ""),
        ("Input should be a valid dictionary or instance of", "must be a table, as in"),
        ("Input should be", "must be"),
        ("String should", "must"),
        (", unable to parse string as a number", ""),
        (", unable to parse string as an integer", ""),
    ):
        message = message.replace(before, after)
    return message


def _shown(value: object, path: tuple[str, ...], model: type[BaseModel]) -> str:
    annotation = _annotation(path, model)
    if annotation is None or _is_secret(annotation):
        return HIDDEN
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def _told_of_unknown(value: object) -> str:
    """The value of an unknown setting; a text may be a misspelt password, and is hidden."""
    if isinstance(value, Mapping | list):
        return ""
    return f" = {value!r}" if isinstance(value, bool | int | float) else f" = {HIDDEN}"


def _setting(model: type[BaseModel], loc: tuple[str, ...]) -> tuple[str, ...]:
    """The path of the setting: pydantic adds the branch of a union that it tried."""
    path: tuple[str, ...] = ()
    inner: Any = model
    for part in loc:
        inner = _step(inner, part)
        path = (*path, part)
        if inner is None or not (_model(inner) or _mapping(inner)):
            break
    return path


def _step(annotation: Any, name: str) -> Any:
    model = _model(annotation)
    if model is not None:
        field = settings_of(model).get(name)
        return None if field is None else field.annotation
    return get_args(annotation)[1] if _mapping(annotation) else None


def _annotation(path: tuple[str, ...], model: type[BaseModel]) -> Any:
    inner: Any = model
    for name in path:
        inner = _step(inner, name)
    return inner


def _model(annotation: Any) -> type[BaseModel] | None:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_model else None


def _mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _is_secret(annotation: Any) -> bool:
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return any(_is_secret(part) for part in get_args(annotation))
    origin = get_origin(annotation) or annotation
    return isinstance(origin, type) and issubclass(origin, (SecretStr, Secret))


def _description(path: tuple[str, ...], model: type[BaseModel]) -> str:
    inner = _model(_annotation(path[:-1], model))
    field = settings_of(inner).get(path[-1]) if inner else None
    return (field.description if field else None) or "it has no default"


def _suggestion(path: tuple[str, ...], model: type[BaseModel]) -> str:
    """The nearest known name in the same section, else in any; else what the section has."""
    siblings = _names(_annotation(path[:-1], model))
    near = get_close_matches(path[-1], siblings, 1, 0.6)
    if near:
        return f"; did you mean {'.'.join((*path[:-1], near[0]))}?"
    elsewhere = {
        name: section
        for section, field in model.model_fields.items()
        for name in _names(field.annotation)
    }
    near = get_close_matches(path[-1], list(elsewhere), 1, 0.8)
    if near:
        return f"; did you mean {elsewhere[near[0]]}.{near[0]}?"
    if not siblings or len(siblings) > _LISTED_NAMES:
        return "; docs/configuration.md has them all"
    return f"; known here: {', '.join(siblings)}"


def _names(annotation: Any) -> list[str]:
    model = _model(annotation)
    if model is not None:
        return list(settings_of(model))
    return []
