"""Figure of all songs: bits per sample of every forecaster."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from songcast.report.figures.style import (
    INK,
    MARKERS,
    PALE,
    colour_of,
    legend,
    new_figure,
    rows_height,
    song_rows,
    styled,
)
from songcast.report.figures.values import Floats, less_text

MEAN_ROW = "mean of songs"  # no slug has spaces


@styled
def bits_per_song(evaluation: Mapping[str, Any]) -> Figure:
    """Draw bits per sample of every song and forecaster, from ``metrics/evaluation.json``.

    Songs are sorted by the bits of the best forecaster, most bits first, under a row of means.
    Other names, such as codecs, are drawn as black strokes; a song may lack some. The title
    compares the best forecaster with ridge and the first of the other names, over the songs that
    have all three.
    """
    songs = {
        slug: {name: float(entry["bits_per_sample"]) for name, entry in entries.items()}
        for slug, entries in evaluation["songs"].items()
    }
    present = dict.fromkeys(name for bits in songs.values() for name in bits)
    names = [n for n in MARKERS if n in present] + [n for n in present if n not in MARKERS]
    means = {name: float(np.mean(_common(songs, name))) for name in names}
    rows = dict(sorted(songs.items(), key=lambda row: -min(row[1].values(), default=0.0)))
    table = {MEAN_ROW: means, **rows} if len(songs) > 1 else rows
    figure, axes = new_figure(_bits_title(songs, means), rows_height(len(table)), 1, 1)
    ax = axes[0, 0]
    for y, bits in enumerate(table.values()):
        if bits:
            ax.plot([min(bits.values()), max(bits.values())], [y, y], color=PALE, linewidth=1.5)
    for index, name in enumerate(names):
        points = [(bits[name], y) for y, bits in enumerate(table.values()) if name in bits]
        own = name in MARKERS
        lift = {"cascade": -0.2, "retrain": 0.2}.get(name, 0.0)  # visible beside train
        ax.plot(
            [bits for bits, _ in points],
            [y + lift for _, y in points],
            MARKERS.get(name, "|+12"[(index - len(MARKERS)) % 4]),
            color=colour_of(name, index) if own else INK,
            markersize=7 if own else 11,
            markeredgecolor="white" if own else None,
            markeredgewidth=0.6 if own else 1.8,
            label=name,
            zorder=3 + index,
        )
    song_rows(ax, list(table), {MEAN_ROW})
    ax.set_xlabel("bits per sample (fewer is better)")
    legend(figure, *ax.get_legend_handles_labels())
    return figure


def _common(songs: Mapping[str, Mapping[str, float]], *names: str) -> Floats:
    """Return bits (songs, names) of the songs that have all the names."""
    rows = [[bits[n] for n in names] for bits in songs.values() if all(n in bits for n in names)]
    return np.reshape(np.array(rows, np.float64), (-1, len(names)))


def _bits_title(songs: Mapping[str, Mapping[str, float]], means: Mapping[str, float]) -> str:
    known = [name for name in means if name in MARKERS] or list(means)
    if not known:
        return "No evaluation yet"
    best, *others = sorted(known, key=lambda name: means[name])
    others = [name for name in others if len(_common(songs, best, name))]
    baselines = ["ridge"] if "ridge" in others else others[:1]
    baselines += [name for name in means if name not in MARKERS and name not in others][:1]
    table = _common(songs, best, *baselines)
    text = f"{best} needs {means[best]:.2f} bits per sample"
    if baselines and len(table):
        less = [float(np.mean(column - table[:, 0])) for column in table.T[1:]]
        text = f"{best} needs " + ", ".join(
            f"{less_text(bits, '' if place else ' bits per sample')} than {name}"
            for place, (name, bits) in enumerate(zip(baselines, less, strict=True))
        )
    return text + (f", mean of {len(table)} songs" if len(table) > 1 else "")
