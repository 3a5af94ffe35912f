"""The page of `songcast serve` in a browser, and its API documentation."""

import base64

import httpx
import numpy as np
import pytest

from helpers.serving_models import Echo, Slow, app_of, running
from helpers.small_models import music
from helpers.small_models import song as song_of
from helpers.waiting import wait_until
from songcast.audio.songs import read_song, write_song
from songcast.serving.jobs import Limits

pytestmark = pytest.mark.browser

MINUTES = 4
IS_DRAWN = """([section, track]) => {
  const host = document.querySelector(`${section} [data-track=${track}] .wave > div`);
  return [...host.shadowRoot.querySelectorAll("canvas")].some((canvas) => {
    const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const rows = new Set();
    for (let i = 3; i < pixels.length; i += 4)
      if (pixels[i]) rows.add(Math.floor(i / 4 / canvas.width));
    return rows.size > 5;  // a flat line has fewer
  });
}"""
SENT = "name => players[0].channels[name].map((x) => Array.from(x))"
DROP = """async ([text, name]) => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name));
  const drop = document.getElementById("drop");
  for (const kind of ["dragover", "drop"])
    drop.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, cancelable: true }));
}"""


@pytest.fixture(scope="module")
def flac(tmp_path_factory):
    path = tmp_path_factory.mktemp("song") / "my song.flac"
    write_song(song_of(music(66_150)), path)
    return path


@pytest.fixture(scope="module")
def long_mp3(tmp_path_factory):
    path = tmp_path_factory.mktemp("song") / "long.mp3"
    write_song(song_of(np.tile(music(6 * 44_100), (10 * MINUTES, 1))), path)
    return path


def forecast_seconds(page):
    """The seconds of the song that are forecast, as the status line shows them."""
    text = page.locator("#status").inner_text()
    if not text.startswith("Forecast: "):
        return 0
    minutes, seconds = text.removeprefix("Forecast: ").split(" ")[0].split(":")
    return 60 * int(minutes) + int(seconds)


def test_a_four_minute_mp3_plays_its_prediction_before_the_whole_is_done(watched, long_mp3):
    with running(app_of(Slow(0.02))) as client:  # 2 600 blocks: 52 s or more
        page, watch = watched()
        page.goto(str(client.base_url))
        page.locator("#limits").get_by_text("80 MB").wait_for()
        page.set_input_files("#file", long_mp3)
        page.locator("#progress").wait_for()
        page.locator("#song .play:enabled").click()
        page.wait_for_function("() => players[0].playing && players[0].currentTime > 0.3")
        assert page.evaluate("players[0].chosen") == "pred_song"
        wait_until(lambda: forecast_seconds(page) > 0)
        first = forecast_seconds(page)
        page.keyboard.press("1")
        gains = "Object.values(players[0].sources).map(({ volume }) => volume.gain.value)"
        page.wait_for_function(f"() => String({gains}) === '1,0,0'")
        wait_until(lambda: forecast_seconds(page) > first + 3)
        assert forecast_seconds(page) < 60 * MINUTES
        assert " left" in page.locator("#status").inner_text()
        assert page.evaluate("players[0].tracks.ready < players[0].tracks.frames")
        assert all(page.evaluate(IS_DRAWN, ["#song", t]) for t in ("original", "pred_song"))
        assert "8.0000" in page.locator("#metrics").inner_text()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()
    assert (watch.errors, watch.foreign) == ([], [])


def test_cancel_frees_the_worker(watched, long_mp3, flac):
    model = Slow(0.02)
    with running(app_of(model, Limits(workers=1, max_requests=1))) as client:
        page, _ = watched()
        page.goto(str(client.base_url))
        page.set_input_files("#file", long_mp3)
        page.locator("#song .play:enabled").wait_for()
        assert client.post("/forecast", content=flac.read_bytes()).status_code == 429
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("Cancelled.").wait_for()
        wait_until(lambda: client.post("/forecast", content=flac.read_bytes()).is_success)
        assert model.forecast_blocks < 2000  # of 2 600


def test_song_prediction_and_error_arrive_exactly_and_the_song_is_continued(watched, flac):
    with running(app_of(Echo())) as client:
        page, watch = watched()
        page.goto(str(client.base_url))
        page.set_input_files("#file", flac)
        page.get_by_text("Done.").wait_for()
        song = read_song(flac)
        predicted = Echo().forecast(song).predicted
        for name, samples in (("original", song.samples), ("pred_song", predicted)):
            np.testing.assert_array_equal(np.array(page.evaluate(SENT, name)).T, samples)
        error = page.evaluate("players[0].tracks.piece('residual', 5, 1005)[0]")
        factor = page.evaluate("players[0].tracks.scale('residual')")
        expected = (song.samples.astype(float) - predicted)[5:1005, 0] * factor
        np.testing.assert_allclose(error, expected, rtol=1e-5, atol=1e-6)
        metrics = page.locator("#metrics").inner_text()
        assert "bits per sample" in metrics and "prediction gain" in metrics
        assert "my song.flac" in page.locator("#name").inner_text()
        served = page.request.get(f"{client.base_url}/version").json()
        assert served["uri"] in page.locator("#served").inner_text()
        page.fill("#seconds", "2")
        page.get_by_role("button", name="Continue the song").click()
        page.wait_for_function("() => players[1]?.tracks?.ready === 2 * 44100")
        page.locator("#continuation .play").click()
        page.wait_for_function("() => players[1].currentTime > 0.1")
        page.wait_for_function(IS_DRAWN, arg=["#continuation", "continuation"])
        page.set_input_files("#file", [])
        page.set_input_files("#file", flac)  # again: the old players are gone
        page.wait_for_function("() => players.length === 1 && players[0].tracks?.ready === 66150")
    assert (watch.errors, watch.foreign) == ([], [])


def test_an_invalid_file_gives_one_line_and_a_dropped_song_works_afterwards(watched, tmp_path):
    text = tmp_path / "letter.mp3"
    text.write_text("dear friend")
    with running(app_of(Echo())) as client:
        page, watch = watched(width=390)
        page.goto(str(client.base_url))
        page.set_input_files("#file", text)
        page.locator("#status.error").wait_for()
        assert "letter.mp3: " in page.locator("#status").inner_text()
        wav = tmp_path / "tone.wav"
        tone = np.tile(np.array([[1000], [-1000]], np.int16), (11_025, 1))
        write_song(song_of(tone), wav)
        page.evaluate(DROP, [base64.b64encode(wav.read_bytes()).decode(), "tone.wav"])
        page.get_by_text("Done.").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    # The browser itself logs the response with status 422; there are no other errors.
    assert all("422" in line for line in watch.errors)
    assert watch.foreign == []


def test_a_file_above_the_limit_is_not_sent(watched, flac):
    with running(app_of(Echo(), Limits(body_bytes=1000))) as client:
        page, watch = watched()
        page.goto(str(client.base_url))
        page.locator("#limits").get_by_text("up to").wait_for()
        page.set_input_files("#file", flac)
        page.locator("#status.error").get_by_text("choose a file of at most").wait_for()
        assert watch.errors == []  # no response with status 413


def test_the_page_asks_for_the_token(watched, flac):
    with running(app_of(Echo(), token="secret")) as client:
        page, _ = watched()
        page.goto(str(client.base_url))
        page.locator("#token").wait_for()
        page.set_input_files("#file", flac)
        page.locator("#status.error").wait_for()
        page.fill("#token", "secret")
        page.set_input_files("#file", [])
        page.set_input_files("#file", flac)
        page.get_by_text("Done.").wait_for()


def test_the_api_documentation_requests_nothing_from_other_machines(watched):
    with running(app_of(Echo(), token="secret")) as client:
        page, watch = watched()
        page.goto(f"{client.base_url}/docs")
        page.get_by_text("/invocations").first.wait_for()
        assert page.get_by_text("Authorize").first.is_visible()
        document = httpx.get(f"{client.base_url}/openapi.json", trust_env=False).json()
    assert document["openapi"].startswith("3.")
    assert (watch.errors, watch.foreign) == ([], [])
