"""The page carries the exact samples and numbers, fits its limit, and makes no requests."""

import base64
import hashlib
import json
import re
import tomllib
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest

from helpers.report_pages import (
    RATE_HZ,
    small_evaluation,
    small_passages,
    small_report,
    write_listening,
)
from songcast.audio.songs import read_song
from songcast.files import write_text
from songcast.report.page import page
from songcast.report.tracks import Passage, encoded, read_passages
from songcast.tracking.descriptions import note_of_pipeline, note_of_run

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "songcast"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return small_report(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def html(report):
    return page(small_passages(), report)


def sent(html, slug):
    """The document of a song in the page."""
    return json.loads(re.search(rf'id="data-song-{slug}">(.*?)</script>', html)[1])


def decoded(text, folder):
    (folder / "track.flac").write_bytes(base64.b64decode(text))
    return read_song(folder / "track.flac").samples


def passage_of(**tracks):
    shaped = {name: np.array(x, np.int16)[:, None] for name, x in tracks.items()}
    return Passage(slug="song", sample_rate_hz=RATE_HZ, tracks=shaped)


def test_the_page_carries_the_samples_of_the_wavs_exactly(html, tmp_path):
    for passage in small_passages():
        song = sent(html, passage.slug)
        assert song["sampleRate"] == RATE_HZ
        assert list(song["tracks"]) == list(passage.tracks)
        for name, samples in passage.tracks.items():
            np.testing.assert_array_equal(decoded(song["tracks"][name], tmp_path), samples)


def test_too_much_sound_is_cut_by_the_same_share(report):
    passages = small_passages()
    whole = sum(len(t) for _, song in encoded(passages) for t in song["tracks"].values())
    cut = encoded(passages, limit=whole // 2)
    assert sum(len(t) for _, song in cut for t in song["tracks"].values()) <= whole // 2
    shares = [
        len(p.tracks["original"]) / len(q.tracks["original"])
        for (p, _), q in zip(cut, passages, strict=True)
    ]
    assert max(shares) - min(shares) < 0.01
    assert 0.3 < min(shares) < 0.5


def test_passages_are_read_as_they_were_written(tmp_path):
    write_listening(tmp_path)
    (tmp_path / "listening" / "first" / "continuation.wav").unlink()
    passages = read_passages(tmp_path / "listening")
    assert [passage.slug for passage in passages] == ["first", "second"]
    assert "continuation" not in passages[0].tracks
    for passage, expected in zip(passages, small_passages(), strict=True):
        for name, samples in passage.tracks.items():
            np.testing.assert_array_equal(samples, expected.tracks[name])


def test_a_missing_continuation_keeps_the_keys_of_the_others(report):
    passages = [
        replace(p, tracks={n: x for n, x in p.tracks.items() if n != "continuation"})
        for p in small_passages()
    ]
    keys = re.findall(r'data-track="(\w+)" data-key="(\d)"', page(passages, report))
    assert dict(keys) == {
        "original": "1",
        "pred_song": "2",
        "pred_song_updated": "3",
        "residual": "5",
    }


def test_the_residual_is_amplified_to_the_peak_of_the_song():
    x = np.array([0, 10_000, -8000, 0])
    assert passage_of(original=x, pred_song_updated=x + np.array([0, 0, 100, 0])).amplified_db == 40
    assert (
        passage_of(original=x, pred_song_updated=x).amplified_db == 80
    )  # the residual counts as 1 LSB
    assert passage_of(original=x * 0, pred_song_updated=x).amplified_db == -80


def test_the_tables_hold_the_measured_numbers_and_mark_the_best(html):
    summary = small_evaluation()["summary"]
    table = html[html.index("All songs<") :]
    for name, measures in summary.items():
        row = re.search(rf'<th scope="row">{name}</th>(.*?)</tr>', table)[1]
        assert f"{measures['bits_per_sample']:.4f}" in row
        assert ('class="best">6.1000' in row) == (name == "retrain")
    assert "<b>100 × smaller</b>" in html  # 40 dB
    assert "12" in html[html.index("Settings of train") :]


def test_the_data_report_names_every_song_and_warning_songs_with_warnings_first(html):
    section = html[html.index('aria-labelledby="data"') : html.index('aria-labelledby="proven')]
    first = section.index('<th scope="row">first</th>')
    second = section[section.index('<th scope="row">second</th>') : first]
    cells = ("16000 Hz, stereo", "1.50 s", "−3.2", "−16.5", "0.250", "50.0", "7000", "–", "16.0")
    assert all(f"<td>{cell}</td>" in second for cell in cells)
    assert second.endswith("<td>3</td><td>1</td></tr><tr>")  # dropouts, warnings
    assert section.count("<li>") == 2 and "<li>second: 3 dropouts &lt;b&gt;</li>" in section
    assert "<li>first and second share 1.5 s of the same recording</li>" in section


def test_the_page_makes_no_requests_and_forbids_them(html):
    markup = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    for target in re.findall(r'(?:src|href)="([^"]*)"', markup):
        assert target.startswith(("#", "data:"))
    assert "default-src 'none'" in html
    assert "<link" not in html
    assert "$" not in markup


def test_names_are_escaped(report, tmp_path):
    hostile = replace(
        report,
        lineage={"<script>alert(1)</script>": "\"'><img src=x>"},
        params={"train": {"<b>": "&"}},
    )
    html = page(small_passages(), hostile)
    assert "<script>alert(1)" not in html
    assert "<img src=x>" not in html
    assert "&lt;script&gt;" in html


def test_a_silent_song_is_shown(report):
    silent = passage_of(original=[0] * 100, pred_song_updated=[0] * 100)
    measures = {"train": {"prediction_gain_db": [None], "bits_per_sample": 0.1, "lag_samples": [0]}}
    html = page(
        [silent], replace(report, evaluation={"summary": measures, "songs": {"song": measures}})
    )
    assert 'id="song-song"' in html
    assert "<td>–</td>" in html


def test_a_failed_write_leaves_the_old_page(report, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    monkeypatch.setattr(Path, "write_text", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_text(path, page(small_passages(), report))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_vendored_player_has_the_digests_of_its_readme():
    vendor = PACKAGE / "report" / "vendor"
    documented = dict(
        re.findall(r"\| (\S+\.js) \| \S+ \| ([0-9a-f]{64}) \|", (vendor / "README.md").read_text())
    )
    present = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in vendor.glob("*.js")
    }
    assert documented == present
    assert "Redistribution and use" in (vendor / "LICENSE").read_text()


def test_every_file_of_the_page_is_packaged():
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = pyproject["tool"]["setuptools"]["package-data"]["songcast"]
    for path in (PACKAGE / "report").rglob("*"):
        name = path.relative_to(PACKAGE).as_posix()
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(fnmatch(name, pattern) for pattern in patterns), name


def test_descriptions_hold_the_result_and_the_numbers_of_every_forecaster():
    evaluation = small_evaluation()
    run = note_of_run(evaluation, "train")
    assert run.startswith("**train, 6.200 bits per sample")
    assert "| retrain | **40.00** | **6.1000** | 0 |" in run
    assert "| first | 40.00 | 6.2000 |" in run
    parent = note_of_pipeline(evaluation, {"train": "a1", "retrain": "b2"})
    assert parent.startswith("**retrain, 6.100 bits per sample")
    assert "train `a1`, retrain `b2`" in parent
    assert all(f"| {name} |" in parent for name in ("persistence", "ridge", "notebook"))
