"""A headless browser that records console errors and requests to other machines."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlparse

import pytest

from helpers.waiting import TIMEOUT_SECONDS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOCAL = ("127.0.0.1", "localhost", "")
# The sandbox of chromium does not work as root or in containers.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


@dataclass
class Watch:
    """The errors of a page and its requests to other machines."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser():
    """Headless chromium. Without it tests are skipped; SONGCAST_BROWSER_REQUIRED=1: they fail."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        reason = "no chromium on PATH: install it"
        if os.environ.get("SONGCAST_BROWSER_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def watched(browser) -> Iterator[Callable[..., tuple]]:
    """``watched(width=1280, height=900)`` returns a page and its ``Watch``."""
    contexts = []

    def open_page(width: int = 1280, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(TIMEOUT_SECONDS * 1000)
        contexts.append(context)
        page, watch = context.new_page(), Watch()
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        page.on(
            "console",
            lambda line: watch.errors.append(line.text) if line.type == "error" else None,
        )

        def record(request):
            place = urlparse(request.url)
            if place.scheme not in ("data", "blob", "file") and place.hostname not in LOCAL:
                watch.foreign.append(request.url)

        page.on("request", record)
        return page, watch

    yield open_page
    for context in contexts:
        context.close()
