"""Small reports for tests: two songs, all tracks."""

from pathlib import Path

import numpy as np

from helpers.mlflow_store import numbers
from helpers.small_models import music
from songcast.audio.songs import Song, write_song
from songcast.report.figures.style import save_png
from songcast.report.figures.summary import bits_per_song
from songcast.report.page import Report
from songcast.report.tracks import Passage

RATE_HZ, SECONDS = 16000, 1.5
PAGE_SONGS = {"first": 2, "second": 1}  # slug: channels
FORECASTERS = {"persistence": 11.0, "ridge": 9.0, "cascade": 6.5, "notebook": 10.0}
FITTED = {"train": 6.2, "retrain": 6.1}


def small_passages() -> list[Passage]:
    """Two passages with predictions of different quality and a continuation."""
    return [
        _passage(slug, channels, seed) for seed, (slug, channels) in enumerate(PAGE_SONGS.items())
    ]


def small_evaluation() -> dict:
    """The content of metrics/evaluation.json for these songs."""
    bits = FORECASTERS | FITTED
    return {
        "summary": {name: numbers(b) for name, b in bits.items()},
        "songs": {
            slug: {
                name: numbers(b, prediction_gain_db=[40.0] * channels, lag_samples=[0] * channels)
                for name, b in bits.items()
            }
            for slug, channels in PAGE_SONGS.items()
        },
    }


def small_data() -> dict:
    """The content of metrics/data.json for these songs, with a duplicate and a warning."""
    entry = {
        "seconds": SECONDS,
        "sample_rate_hz": RATE_HZ,
        "channels": 2,
        "peak_dbfs": -3.25,
        "loudness_lufs": -16.5,
        "clipped_share": 0.0025,
        "silent_share": 0.5,
        "bandwidth_hz": 7000,
        "low_pass_hz": None,
        "effective_bits": 16.0,
        "channel_relation": "stereo",
        "dropouts": 3,
    }
    warnings = ["first and second share 1.5 s of the same recording", "second: 3 dropouts <b>"]
    return {"songs": dict.fromkeys(PAGE_SONGS, entry), "duplicates": [], "warnings": warnings}


def small_report(folder: Path) -> Report:
    """A report on these songs with one picture, which is written into ``folder``."""
    picture = folder / "bits.png"
    save_png(bits_per_song(small_evaluation()), picture)
    return Report(
        evaluation=small_evaluation(),
        data=small_data(),
        figures={"bits of every song": picture},
        lineage={"songs": "0123.dir"},
        params={"train": {"epochs": "12", "units": "96"}, "retrain": {"epochs": "5"}},
    )


def write_listening(folder: Path) -> None:
    """Write the passages as the WAVs of stage evaluate, below ``folder``/listening."""
    for passage in small_passages():
        home = folder / "listening" / passage.slug
        home.mkdir(parents=True)
        for name, samples in passage.tracks.items():
            song = Song(samples=samples, sample_rate_hz=RATE_HZ, name=name)
            write_song(song, home / f"{name}.wav")


def _passage(slug: str, channels: int, seed: int) -> Passage:
    x = music(round(SECONDS * RATE_HZ), channels, seed)
    rng = np.random.default_rng(seed)
    tracks = {"original": x}
    for name, error in (("pred_song", 90.0), ("pred_song_updated", 60.0)):
        tracks[name] = np.rint(x + rng.normal(0, error, x.shape)).astype(np.int16)
    tracks["continuation"] = music(len(x), channels, seed + 100)
    return Passage(slug=slug, sample_rate_hz=RATE_HZ, tracks=tracks)
