"""The PNG files of stage report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from songcast.report.figures.rhythm import rhythm
from songcast.report.figures.sound import residual_spectrum, spectrograms, waveforms
from songcast.report.figures.style import save_png
from songcast.report.figures.summary import (
    bits_per_song,
    distance_over_horizon,
    forgetting,
    learning_curves,
)
from songcast.report.tracks import CONTINUATION, ORIGINAL, Passage, Samples


def draw_song(passage: Passage, notebook: Samples, folder: Path) -> None:
    """Draw one song's passage into ``folder``/KIND/SLUG.png.

    ``notebook``: the forecast of the notebook's model, int16 (frames, channels).
    """
    x, rate_hz, slug = passage.tracks[ORIGINAL], passage.sample_rate_hz, passage.slug
    forecasts = {"train": passage.tracks["pred_song"], "notebook": notebook}
    free = {name: passage.tracks[name] for name in (CONTINUATION,) if name in passage.tracks}
    residuals = {name: x.astype(float) - mean for name, mean in forecasts.items()}
    figures = {
        "waveforms": waveforms(x, forecasts, rate_hz, slug),
        "spectrograms": spectrograms(x, forecasts["train"], rate_hz),
        "residuals": residual_spectrum(x, residuals, rate_hz),
        "rhythm": rhythm(x, forecasts | free, rate_hz),
    }
    for kind, figure in figures.items():
        _save(figure, folder / kind / f"{slug}.png")


def draw_summary(
    evaluation: Mapping[str, Any],
    retrained: Mapping[str, Any],
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    folder: Path,
) -> dict[str, Path]:
    """Draw the figures of all songs; return the file of each, by its description.

    ``retrained``: the content of metrics/retrain.json. ``histories``: for train and retrain, the
    rows of history.csv.
    """
    change = {
        slug: entry["after"]["bits_per_sample"] - entry["before"]["bits_per_sample"]
        for slug, entry in retrained["songs"].items()
    }
    figures = {
        "bits": bits_per_song(evaluation),
        **{f"learning_{kind}": learning_curves(rows) for kind, rows in histories.items()},
        "forgetting": forgetting(change, set(retrained["new_songs"])),
    }
    if "continuation" in evaluation:
        figures["continuation"] = distance_over_horizon(evaluation["continuation"])
    files = {}
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        _save(figure, path)
        files[f"{name.replace('_', ', ')}: {figure.get_suptitle()}"] = path
    return files


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_png(figure, path)
