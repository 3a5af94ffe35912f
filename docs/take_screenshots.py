"""Take the screenshots of README.md and docs/tutorial.md, after `make run` in this repository.

    .venv/bin/python docs/take_screenshots.py

The program needs chromium on PATH.
"""

import contextlib
import io
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from songcast.tracking import store as tracking_store

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "tour"
WIDTH, HEIGHT = 1280, 800
COLOURS = 192  # of the palette: a third of the size without a visible difference
PATIENCE_MS = 60_000


def main() -> None:
    """Take every screenshot, or fail at the first page that does not load."""
    PICTURES.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or sys.exit("no chromium on PATH: install it")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        take_report(new_page(browser))
        with serving("ui") as address:
            take_mlflow(new_page(browser), address)
        with serving("serve") as address:
            page = new_page(browser)
            page.goto(address)
            take(page, "served")
        browser.close()


def take_report(page: Page) -> None:
    """Take the listening report after one song has played."""
    page.goto((ROOT / "report.html").as_uri())
    song = page.locator("section.song").nth(1)
    song.scroll_into_view_if_needed()  # a song is decoded when it is near
    song.locator(".play:enabled").click()
    page.wait_for_timeout(1500)
    song.locator(".play").click()
    song.evaluate("section => window.scrollTo(0, section.offsetTop - 20)")
    take(page, "report")


def take_mlflow(page: Page, address: str) -> None:
    """Take the list of runs, a WAV of a run, two runs compared, and the registry."""
    client = tracking_store.connect()
    experiment = tracking_store.experiment_id(client)
    runs = client.search_runs([experiment], order_by=["attributes.start_time ASC"])
    newest = {run.data.tags["songcast.stage"]: run.info.run_id for run in runs}
    slug = sorted(path.name for path in (ROOT / "listening").iterdir())[1]
    here = f"{address}/#/experiments/{experiment}"
    classic = "workflowType=machine_learning"

    page.goto(f"{here}/runs?{classic}")
    page.get_by_text("pipeline").first.wait_for()
    # MLflow opens a chat on the right, which stays closed once it was closed.
    page.get_by_role("button", name="Close", exact=True).click()
    page.locator("[data-testid*=expander], .ag-row button").first.click()
    page.get_by_role("link", name="retrain", exact=True).first.wait_for()
    take(page, "runs")

    page.goto(f"{here}/runs/{newest['train']}/artifacts/listening/{slug}/pred_song.wav?{classic}")
    page.locator("audio").first.wait_for(state="attached")
    take(page, "wav")

    both = f'["{newest["train"]}","{newest["retrain"]}"]'
    page.goto(f'{address}/#/compare-runs?runs={both}&experiments=["{experiment}"]&{classic}')
    page.get_by_text("Metrics", exact=True).last.evaluate("heading => heading.scrollIntoView()")
    take(page, "compare")

    page.goto(f"{address}/#/models/songcast?{classic}")
    page.get_by_text("champion").first.wait_for()
    page.get_by_text("Versions").last.evaluate("heading => heading.scrollIntoView()")
    take(page, "registry")


def take(page: Page, name: str) -> None:
    """Write a screenshot as docs/tour/NAME.png."""
    page.wait_for_timeout(2500)
    picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = PICTURES / f"{name}.png"
    picture.quantize(COLOURS).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size // 1024} kB")


def new_page(browser: Browser) -> Page:
    """Return a page with the size of the screenshots."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(PATIENCE_MS)
    return page


@contextlib.contextmanager
def serving(command: str) -> Iterator[str]:
    """Run `songcast COMMAND` on a free port within the block; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    program = [sys.executable, "-m", "songcast.cli", command, "--port", str(port)]
    server = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if server.poll() is not None:
                sys.exit(f"songcast {command} ended unexpectedly")
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(address, timeout=5)
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(0.2)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)


if __name__ == "__main__":
    main()
