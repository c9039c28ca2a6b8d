"""A real Chromium and a whole installation, one of each for a file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ops.stack.debian import find_chromium
from tests.cli_kit import until
from tests.site_kit import HOSTILE, Site, row, site, whole_call

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
Opened = Callable[..., Page]
PATIENCE_MS = 60_000  # costs nothing where what is waited for comes
CALLS = (
    "SELECT (SELECT count(*) FROM cdrs), (SELECT count(*) FROM active_calls"
    " WHERE call_id = 'talking@example.com')"
)

expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With calls in it: usual, hostile, over two servers, in progress."""
    with site(tmp_path_factory.mktemp("site")) as running:
        for number in range(60):
            running.put(whole_call(f"usual-{number}@example.com"))
        for name, header in HOSTILE.items():
            running.put(whole_call(f"{name}<b>@example.com", from_url=header))
        running.put([row("two-servers@example.com", "R", 5, via_count=1)])
        running.put(
            [
                row("two-servers@example.com", "R", 4.9, via_count=2, branch_id="z9hG4bK2"),
                row("two-servers@example.com", "S", 4, to_tag="t", via_count=2),
            ],
            server="b",
        )
        running.put([row("two-servers@example.com", "S", 3.9, to_tag="t", via_count=1)])
        running.put([row("two-servers@example.com", "E", 3, to_tag="t", cseq=2)], server="b")
        running.put(
            [row("talking@example.com", "R", 2), row("talking@example.com", "S", to_tag="t")]
        )
        running.put([row("nobody@example.com", "E", 2, to_tag="t")])  # a dead letter some day
        with running.stack.sink.connect() as sink:
            told = (60 + len(HOSTILE) + 1, 1)
            until(lambda: sink.execute(CALLS).fetchone() == told)
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window; no test with an event loop of its own can run while it is open."""
    found = find_chromium()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=str(found.path),
            env={**os.environ, **found.env},
            # Runs as root in containers too, where it has neither sandbox nor shared memory.
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Browser, installation: Site) -> Iterator[Opened]:
    """Opens a page of the dashboard; whatever the browser complains of fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(path: str = "/", *, quiet: bool = True, **options: Any) -> Page:
        options = {"viewport": {"width": 1_300, "height": 900}, **options}
        context = browser.new_context(timezone_id="Europe/Berlin", **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        if quiet:
            page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
        url = path if path.startswith("http") else installation.url + path
        page.goto(url, wait_until="load")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints


@pytest.fixture(scope="session")
def serious() -> Callable[[Page], list[str]]:
    """What axe-core finds on a page that is serious or critical."""

    def check(page: Page) -> list[str]:
        page.evaluate(AXE)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {node['html'][:160]}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"][:3]
        ]

    return check
