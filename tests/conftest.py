"""What all tests share: traffic folders of `tests/data`, and the option to go without servers."""

from __future__ import annotations

import lzma
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# What runs unattended draws the same examples each time, and prints how to draw a failure again.
settings.register_profile(
    "ci",
    derandomize=True,
    deadline=None,
    print_blob=True,
    suppress_health_check=(HealthCheck.too_slow,),
)
settings.register_profile(
    "search",
    settings.get_profile("ci"),
    derandomize=False,
    max_examples=2_000,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

DATA = Path(__file__).parent / "data"
NEED_SERVICES = ("integration", "e2e")


def pytest_sessionstart() -> None:
    """Sees that all is as the tests expect it.

    Raises:
        UsageError: `make test-compiled` would pass on the sources.
    """
    import callstate.processor

    if os.environ.get("PYTEST_XDIST_WORKER"):
        # Its processes ignore Ctrl-C, and all that they start would.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if os.environ.get("EXPECT_COMPILED") and callstate.processor.__file__.endswith(".py"):
        raise pytest.UsageError(f"not compiled: {callstate.processor.__file__}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-services",
        action="store_true",
        help="leave out the tests that start PostgreSQL and Kafka (never by itself)",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    without = [DATA.parent / name for name in NEED_SERVICES]
    return True if config.getoption("--no-services") and collection_path in without else None


def pytest_report_header(config: pytest.Config) -> str | None:
    if not config.getoption("--no-services"):
        return None
    return f"LEFT OUT by --no-services: {', '.join(NEED_SERVICES)}"


@pytest.fixture(scope="session")
def traffic_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder of `tests/data` by name, its files unpacked."""
    unpacked: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in unpacked:
            place = tmp_path_factory.mktemp(name)
            for packed in sorted((DATA / name).glob("*.xz")):
                (place / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
            unpacked[name] = place
        return unpacked[name]

    return folder
