"""report.html in a browser, opened from disk: it plays and switches tracks without requests."""

import numpy as np
import pytest

from helpers.report_pages import PAGE_SONGS, small_passages, small_report
from helpers.waiting import wait_until
from songcast.files import write_text
from songcast.report.page import page as report_page

pytestmark = pytest.mark.browser
AUDIBLE = (
    "String(Object.keys(players[0].sources)"
    ".filter((name) => players[0].sources[name].volume.gain.value > 0.5))"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The page on disk."""
    folder = tmp_path_factory.mktemp("report")
    write_text(folder / "report.html", report_page(small_passages(), small_report(folder)))
    return folder / "report.html"


@pytest.fixture
def report(written, watched):
    """The page, opened from disk and ready."""
    page, watch = watched()
    page.goto(written.as_uri())
    page.locator("section.song .play:enabled").first.wait_for()
    yield page
    assert watch.errors == []
    assert watch.foreign == []


def now(page, song=0):
    """Position of a player in seconds."""
    return page.evaluate(f"players[{song}].currentTime")


def until(page, expression):
    """Wait until ``expression`` is true; Playwright's wait needs eval, which is forbidden."""
    wait_until(lambda: page.evaluate(expression))


def test_it_plays_and_the_position_advances(report):
    song = report.locator("section.song").first
    song.get_by_role("button").click()
    until(report, "players[0].currentTime > 0.3")
    assert float(song.locator("output").inner_text().split()[0]) > 0.2
    assert float(song.get_by_role("slider").input_value()) > 0.2
    song.get_by_role("button").click()
    stopped = now(report)
    report.wait_for_timeout(200)
    assert now(report) == stopped


def test_switching_between_tracks_leaves_no_gap_in_position(report):
    report.locator("section.song .play").first.click()
    until(report, "players[0].currentTime > 0.2")
    for key in ("3", "5", "4", "2", "1"):
        # Clock and position are read in one call, so no time passes between them.
        before = report.evaluate("[sound.currentTime, players[0].currentTime]")
        report.keyboard.press(key)
        after = report.evaluate("[sound.currentTime, players[0].currentTime]")
        passed = after[0] - before[0]
        length = report.evaluate("players[0].seconds")
        moved = (after[1] - before[1]) % length
        assert moved == pytest.approx(passed, abs=1e-6)
        assert report.locator(".track.chosen").first.get_attribute("data-key") == key
        chosen = report.locator(".track.chosen").first.get_attribute("data-track")
        until(report, f"{AUDIBLE} === '{chosen}'")


def test_the_browser_decodes_the_exact_samples_of_the_wavs(report):
    for index, passage in enumerate(small_passages()):
        rate = report.evaluate(
            f"players[{index}].prepare().then(() => players[{index}].sampleRate)"
        )
        assert rate == passage.sample_rate_hz
        for name, samples in passage.tracks.items():
            decoded = report.evaluate(
                f"players[{index}].channels['{name}'].map((x) => Array.from(x))"
            )
            whole = np.rint(np.array(decoded).T * 32768).astype(int)
            np.testing.assert_array_equal(whole, samples, err_msg=name)
        residual = report.evaluate(f"Array.from(players[{index}].channels.residual[0])")
        error = (
            passage.tracks["original"][:, 0].astype(float)
            - passage.tracks["pred_song_updated"][:, 0]
        )
        factor = 10 ** (passage.amplified_db / 20)
        np.testing.assert_allclose(np.array(residual) * 32768, error * factor, rtol=1e-4, atol=0.1)


def test_the_keyboard_plays_switches_and_moves(report):
    report.keyboard.press("Space")
    until(report, "players[0].playing && players[0].currentTime > 0.1")
    report.keyboard.press("Space")
    until(report, "!players[0].playing")
    stopped = now(report)
    report.keyboard.press("ArrowRight")
    until(report, f"Math.abs(players[0].currentTime - {stopped} - 0.5) < 0.01")
    report.keyboard.press("5")
    assert report.locator(".track.chosen").first.get_attribute("data-track") == "residual"
    assert report.locator(".shown").first.inner_text() == "residual"


def test_a_second_song_stops_the_first(report):
    songs = report.locator("section.song")
    songs.nth(0).locator(".play").click()
    until(report, "players[0].currentTime > 0.1")
    songs.nth(1).scroll_into_view_if_needed()
    songs.nth(1).locator(".play").click()
    until(report, "players[1].playing && !players[0].playing")


def test_a_click_on_a_waveform_selects_the_track_and_moves_there(report):
    wave = report.locator("section.song").first.locator("[data-track=pred_song] .wave")
    box = wave.bounding_box()
    wave.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    until(report, "Math.abs(players[0].currentTime / players[0].seconds - 0.5) < 0.02")
    assert report.evaluate("players[0].chosen") == "pred_song"


def test_waveform_and_spectrogram_are_drawn(report):
    wave = report.locator("section.song").first.locator("[data-track=original] .wave > div")
    assert wave.evaluate("host => host.shadowRoot.querySelectorAll('canvas').length") > 0
    picture = report.locator("section.song").first.locator(".picture canvas").first
    picture.wait_for()
    colours = picture.evaluate(
        "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    )
    assert colours > 20


def test_every_control_has_a_name_and_text_has_contrast(report):
    report.add_script_tag(content=CONTRAST)
    assert report.evaluate("tooFaint()") == []
    for role in ("button", "slider", "radio"):
        for control in report.get_by_role(role).all():
            name = control.evaluate(
                "c => c.getAttribute('aria-label') || c.labels?.[0]?.innerText || c.innerText"
            )
            assert name, role
    assert report.get_by_role("radio").count() == sum(len(p.tracks) + 1 for p in small_passages())
    assert report.locator("html").get_attribute("lang") == "en"
    assert report.locator("img:not([alt])").count() == 0


def test_a_narrow_screen_needs_no_sideways_scrolling(written, watched):
    page, _ = watched(width=400, height=800)
    page.goto(written.as_uri())
    page.locator("section.song .play:enabled").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    assert page.evaluate("players.length") == len(PAGE_SONGS)


# WCAG 2.2, 1.4.3: 4.5 : 1 for all text, against the nearest opaque background.
CONTRAST = """
function tooFaint() {
  const parts = (text) => text.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parts(getComputedStyle(node).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const node of document.querySelectorAll("body *:not(script):not(style)")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || node.closest(".picture") || !node.checkVisibility() || node.disabled) continue;
    const [a, b] = [luminance(parts(getComputedStyle(node).color)), luminance(behind(node))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) faint.push(`${node.textContent.slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""
