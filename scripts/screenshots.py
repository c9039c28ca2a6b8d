"""The pictures in docs/img, taken of a dashboard that runs: `make screenshots`.

Plays the demo and looks at its pages in a real Chromium; for the picture of a server that is late
one reader is frozen for a while. Ends the demo.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from ops.stack.debian import find_chromium  # noqa: E402  found by the line above

OUT = ROOT / "docs" / "img"
DEMO = (sys.executable, "-m", "ops.cli", "demo", "--keep", "--calls", "300")
SECONDS = 240
LATE_SECONDS = 18


def shoot(browser: Browser, url: str, name: str, *, dark: bool = False, width: int = 1_280) -> None:
    """One page as a picture."""
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if dark else "light",
        timezone_id="UTC",
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_timeout(2_500)
    page.screenshot(path=str(OUT / f"{name}.png"), full_page=True)
    context.close()
    print(f"docs/img/{name}.png")


def reader_of(server: str, config: str) -> int:
    """The demo's own reader of a server; its process id."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):
                words = (folder / "cmdline").read_bytes().decode().split("\0")
                if config in words and "reader" in words and server in words and "-m" in words[:3]:
                    return int(folder.name)
    raise SystemExit(f"the demo has no reader of {server}")


@contextmanager
def frozen(process: int) -> Iterator[None]:
    """It does nothing in this block."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def main() -> None:
    """All pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    found = find_chromium()
    demo = subprocess.Popen(
        DEMO, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=str(found.path),
                env={**os.environ, **found.env},
                args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
            )
            url = example = config = ""
            assert demo.stdout is not None
            deadline = time.monotonic() + SECONDS
            for line in demo.stdout:
                if told := re.search(r"the dashboard shows all of it: (\S+)/", line):
                    url = told[1]
                elif told := re.match(r"cdrstream explain (\S+)$", line):
                    example = told[1]
                elif told := re.search(r"cdrstream status --config (\S+)", line):
                    config = told[1]
                elif "Ctrl-C stops everything" in line or time.monotonic() > deadline:
                    break
            shoot(browser, f"{url}/", "overview-dark", dark=True)
            shoot(browser, f"{url}/", "overview-phone", width=390)
            shoot(browser, f"{url}/calls/{example}", "call")
            shoot(browser, f"{url}/quality", "quality")
            with frozen(reader_of("c", config)):
                time.sleep(LATE_SECONDS)
                shoot(browser, f"{url}/", "overview-late")
            browser.close()
    finally:
        demo.send_signal(signal.SIGINT)
        demo.wait(60)


if __name__ == "__main__":
    main()
