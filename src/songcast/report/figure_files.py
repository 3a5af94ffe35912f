"""The pictures of stage report: what of which song, into which file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from songcast.report.figures import save_png
from songcast.report.figures.continuation import distance_over_horizon
from songcast.report.figures.rhythm import rhythm
from songcast.report.figures.songs import bits_per_song
from songcast.report.figures.sound import residual_spectrum, spectrograms, waveforms
from songcast.report.figures.training import forgetting, learning_curves
from songcast.report.tracks import CONTINUATION, ORIGINAL, Passage, Samples
from songcast.tracking import read_history


def draw_song(passage: Passage, notebook: Samples, folder: Path) -> None:
    """Draw one song's listening passage into ``folder``/KIND/SLUG.png.

    ``notebook``: what the notebook predicted of it, int16 (frames, channels).
    """
    x, rate_hz, slug = passage.tracks[ORIGINAL], passage.sample_rate_hz, passage.slug
    heard = {"train": passage.tracks["pred_song"], "notebook": notebook}
    free = {name: passage.tracks[name] for name in (CONTINUATION,) if name in passage.tracks}
    residuals = {name: x.astype(float) - mean for name, mean in heard.items()}
    drawn = {
        "waveforms": waveforms(x, heard, rate_hz, slug),
        "spectrograms": spectrograms(x, heard["train"], rate_hz),
        "residuals": residual_spectrum(x, residuals, rate_hz),
        "rhythm": rhythm(x, heard | free, rate_hz),
    }
    for kind, figure in drawn.items():
        _save(figure, folder / kind / f"{slug}.png")


def draw_summary(
    evaluation: Mapping[str, Any], retrained: Mapping[str, Any], models: Path, folder: Path
) -> dict[str, Path]:
    """Draw what concerns all songs; return a description of each picture, and its file.

    ``retrained``: the content of metrics/retrain.json. ``models``: where the bundles are.
    """
    bits = {
        when: {slug: entry[when]["bits_per_sample"] for slug, entry in retrained["songs"].items()}
        for when in ("before", "after")
    }
    drawn = {
        "bits": bits_per_song(evaluation),
        "learning_train": learning_curves(read_history(models / "train" / "history.csv")),
        "learning_retrain": learning_curves(read_history(models / "retrain" / "history.csv")),
        "forgetting": forgetting(bits["before"], bits["after"], set(retrained["new_songs"])),
    }
    if "continuation" in evaluation:
        drawn["continuation"] = distance_over_horizon(evaluation["continuation"])
    said = {}
    for name, figure in drawn.items():
        path = folder / f"{name}.png"
        _save(figure, path)
        said[f"{name.replace('_', ', ')}: {figure.get_suptitle()}"] = path
    return said


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, path)
