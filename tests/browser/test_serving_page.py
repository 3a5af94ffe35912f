"""The page of `songcast serve` in a browser, and its API documentation."""

import base64

import httpx
import numpy as np
import pytest

from helpers.serving_models import Echo, app_of, running
from helpers.small_models import music
from helpers.small_models import song as song_of
from songcast.audio.songs import write_song

pytestmark = pytest.mark.browser

PLAY = """async id => {
  const audio = document.getElementById(id);
  audio.muted = true;
  await audio.play();
  await new Promise(resolve => setTimeout(resolve, 400));
  return audio.currentTime;
}"""
DURATION = "id => document.getElementById(id).duration"
HAS_WAVEFORM = """id => {
  const canvas = document.querySelector(`[data-of=${id}]`);
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return pixels.some(value => value > 0);
}"""
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


def test_a_chosen_song_is_predicted_and_continued(watched, flac):
    with running(app_of(Echo())) as client:
        page, watch = watched()
        page.goto(str(client.base_url))
        page.set_input_files("#file", flac)
        page.get_by_text("Done.").wait_for()
        for name, seconds in (("original", 1.5), ("prediction", 1.5), ("continuation", 5.0)):
            assert page.evaluate(DURATION, name) == pytest.approx(seconds, abs=0.01)
            assert page.evaluate(PLAY, name) > 0.1
            assert page.evaluate(HAS_WAVEFORM, name)
        metrics = page.locator("#metrics").inner_text()
        assert "bits per sample" in metrics and "44100 Hz" in metrics
        assert "my song.flac" in page.locator("#name").inner_text()
        served = page.request.get(f"{client.base_url}/version").json()
        assert served["uri"] in page.locator("#served").inner_text()
        page.fill("#seconds", "2")
        page.set_input_files("#file", [])
        page.set_input_files("#file", flac)
        page.wait_for_function(
            "() => Math.abs(document.getElementById('continuation').duration - 2) < 0.01"
        )
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
