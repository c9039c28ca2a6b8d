"""Every broken rule is caught by the fast tests, and the rules as they are pass them."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.mutation.mutants import MUTANTS, SOURCES

FAST = (
    "test_resolution_start.py",
    "test_resolution_end.py",
    "test_call.py",
    "test_clocks.py",
    "test_ordering.py",
    "test_watermark.py",
    "test_processor.py",
)
ROOT = SOURCES.parent


def run_tests(mutant: str) -> subprocess.CompletedProcess[str]:
    """The fast tests, up to the first failure, over the rules with this mutant."""
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=line"),
            *("-p", "tests.mutation.apply", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
            *("-k", "not costs and not flood"),
            *(str(ROOT / "tests" / "unit" / name) for name in FAST),
        ],
        cwd=ROOT,
        env={**os.environ, "MUTANT": mutant, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def tried() -> dict[str, subprocess.CompletedProcess[str]]:
    names = ["", *(mutant.name for mutant in MUTANTS)]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return dict(zip(names, pool.map(run_tests, names), strict=True))


def test_the_rules_as_they_are_pass(tried: dict[str, subprocess.CompletedProcess[str]]) -> None:
    assert tried[""].returncode == 0, tried[""].stdout


@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_a_broken_rule_is_caught(
    name: str, tried: dict[str, subprocess.CompletedProcess[str]]
) -> None:
    result = tried[name]
    # 1: tests ran and some failed; anything else is a mutant that could not be tried
    assert result.returncode == 1, f"{result.stdout[-500:]}{result.stderr[-500:]}"
    assert "1 failed" in result.stdout


def test_a_mutant_breaks_one_thing_in_one_place() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
    for mutant in MUTANTS:
        assert isinstance(mutant.module(), Path)
        assert mutant.text != mutant.instead
