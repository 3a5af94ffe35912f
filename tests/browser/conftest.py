"""A headless browser that tolerates no console error and no request to another machine."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlparse

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOCAL = ("127.0.0.1", "localhost", "")
# A sandbox of its own needs rights that containers and root do not have.
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]


@dataclass
class Watch:
    """What a page complained about, and whom it asked."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser():
    """Chromium, headless. No browser: a skip, or a failure where SONGCAST_BROWSER_REQUIRED=1."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        reason = "no chromium on PATH: `make test-browser` installs Debian's"
        if os.environ.get("SONGCAST_BROWSER_REQUIRED") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def watched(browser) -> Iterator[Callable[..., tuple]]:
    """watched(width=1280, height=900): a page and its ``Watch``."""
    contexts = []

    def open_page(width: int = 1280, height: int = 900):
        context = browser.new_context(viewport={"width": width, "height": height})
        contexts.append(context)
        page, watch = context.new_page(), Watch()
        page.on("pageerror", lambda error: watch.errors.append(str(error)))
        page.on(
            "console",
            lambda said: watch.errors.append(said.text) if said.type == "error" else None,
        )

        def asked(request):
            place = urlparse(request.url)
            if place.scheme not in ("data", "blob", "file") and place.hostname not in LOCAL:
                watch.foreign.append(request.url)

        page.on("request", asked)
        return page, watch

    yield open_page
    for context in contexts:
        context.close()
