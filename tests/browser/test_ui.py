"""The MLflow UI after a pipeline: the report and WAVs play, and the aliases are shown."""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from helpers.mlflow_store import make_bundle, use_repository, write_evaluation
from helpers.report_pages import small_evaluation, small_passages, small_report, write_listening
from helpers.waiting import wait_until
from songcast.files import write_text
from songcast.report.page import page as report_page
from songcast.stages.register import register
from songcast.tracking import store as tracking_store

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A repository whose pipeline has registered two models."""
    with pytest.MonkeyPatch.context() as patch:
        folder = use_repository(tmp_path_factory.mktemp("pipeline"), patch)
        for weight, kind in enumerate(("train", "retrain"), start=1):
            make_bundle(folder / "models" / kind, float(weight), params={"epochs": weight})
        write_evaluation(folder, small_evaluation())
        write_listening(folder)
        write_text(folder / "report.html", report_page(small_passages(), small_report(folder)))
        register(folder)
        yield folder


@pytest.fixture(scope="module")
def ui(home):
    """The address of `songcast ui`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "songcast.cli", "ui", "--port", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    server = subprocess.Popen(
        command, cwd=home, env={**environment, "DVC_ROOT": str(home)}, stdout=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(f"{address}/health"), while_true=lambda: server.poll() is None)
        yield address
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=30)


@pytest.fixture
def page(watched):
    """A page that must not send requests to other machines or have errors."""
    opened, watch = watched(width=1440, height=950)
    yield opened
    assert watch.foreign == []
    # MLflow's pages log failed requests for missing entities. Errors of scripts are not allowed.
    assert [error for error in watch.errors if "Failed to load resource" not in error] == []


def _answers(url):
    try:
        urllib.request.urlopen(url)
    except (urllib.error.URLError, ConnectionError):
        return False
    return True


def run_page(home, ui, stage, artifact=""):
    """Return the address of the page of the run of ``stage``, or of an artifact of it."""
    client = tracking_store.connect(f"sqlite:///{home / 'mlruns' / 'mlflow.db'}")
    experiment = tracking_store.experiment_id(client)
    (run,) = client.search_runs([experiment], f"tags.`songcast.stage` = '{stage}'")
    suffix = f"/artifacts/{artifact}" if artifact else ""
    return f"{ui}/#/experiments/{experiment}/runs/{run.info.run_id}{suffix}"


def test_the_report_plays_and_switches_tracks_in_the_artifact_viewer(home, ui, page):
    page.goto(run_page(home, ui, "pipeline", "report.html"))
    report = page.frame_locator("iframe").first
    song = report.locator("section.song").first
    song.locator(".play:enabled").click()
    frame = next(frame for frame in page.frames if frame.url.startswith("blob:"))

    def read():
        return frame.evaluate("[sound.currentTime, players[0].currentTime, players[0].seconds]")

    wait_until(lambda: read()[1] > 0.2)
    clock, before, length = read()
    frame.evaluate("players[0].choose('continuation')")
    later, after, _ = read()
    assert later > 0.2
    assert (after - before) % length == pytest.approx(later - clock, abs=1e-6)
    song.locator(".play").click()
    assert song.locator(".shown").inner_text() == "continuation"


def test_the_wavs_of_a_run_are_listed_and_play(home, ui, page):
    page.goto(run_page(home, ui, "train", "listening/first/pred_song.wav"))
    for name in ("original.wav", "pred_song.wav", "continuation.wav"):
        page.get_by_text(name, exact=True).first.wait_for()
    audio = page.locator("audio").first
    audio.wait_for(state="attached")
    audio.evaluate("player => player.play()")
    wait_until(lambda: audio.evaluate("player => player.currentTime") > 0.2)


def test_the_parent_run_shows_its_stages_and_the_result_table(home, ui, page):
    page.goto(run_page(home, ui, "pipeline"))
    page.get_by_text("retrain, 6.100 bits per sample").first.wait_for()
    for child in ("train", "retrain"):
        page.get_by_role("link", name=child, exact=True).first.wait_for()
    assert page.get_by_role("cell", name="persistence", exact=True).count() > 0


def test_the_registry_page_shows_the_aliases(ui, page):
    page.goto(f"{ui}/#/models/songcast")
    for alias in ("champion", "challenger"):
        page.get_by_text(alias).first.wait_for()
