"""docs/configuration.md has every setting, with its default and its meaning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from ops.config import Config
from ops.config_sources import load
from ops.config_values import settings_of

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "configuration.md"


def rows() -> dict[str, list[str]]:
    """The lines of each section's table, as the settings themselves tell them."""
    found: dict[str, list[str]] = {}
    for name, field in Config.model_fields.items():
        section: Any = field.annotation
        if not (isinstance(section, type) and issubclass(section, BaseModel)):
            section = get_args(section)[1]
        found[name] = [
            f"| `{setting}` | {_default(told.default)} | {told.description} |"
            for setting, told in _ours_first(section)
        ]
    return found


def _ours_first(section: type[BaseModel]) -> list[tuple[str, Any]]:
    inherited = set(section.__mro__[1].model_fields)
    return sorted(settings_of(section).items(), key=lambda item: item[0] in inherited)


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "must be set"
    return "" if value is None else f"`{json.dumps(value)}`"


def test_every_setting_is_on_the_page():
    lines = PAGE.read_text().splitlines()
    missing = [row for section in rows().values() for row in section if row not in lines]
    assert not missing, "\n".join(missing)


def test_the_page_has_no_other_settings():
    known = {row for section in rows().values() for row in section}
    told = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    assert not [line for line in told if line not in known]


def test_the_example_of_the_readme_is_a_configuration(tmp_path):
    text = (ROOT / "README.md").read_text()
    example = text.split("```toml\n")[1].split("```")[0]
    path = tmp_path / "cdrstream.toml"
    path.write_text(example)
    assert list(load(path, {}).config.servers) == ["a", "b"]
