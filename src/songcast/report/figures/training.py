"""Figures of training: learning curves, and the effect of retraining on each song."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from songcast.report.figures.style import (
    BLUE,
    GREY,
    INK,
    VERMILION,
    legend,
    new_figure,
    rows_height,
    song_rows,
    styled,
)


@styled
def learning_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw bits per sample of validation and training after each epoch; mark the best epoch.

    ``rows`` have ``step``, ``train_bits_per_sample`` and ``validation_bits_per_sample``, the last
    two finite or None. Each has its own scale: the random crops of training vary by more than
    validation improves.
    """
    keys = {"training": "train_bits_per_sample", "validation": "validation_bits_per_sample"}
    curves = {
        name: [(row["step"], float(row[key])) for row in rows if row.get(key) is not None]
        for name, key in keys.items()
    }
    title = "No epoch yet"
    best = min(curves["validation"], key=lambda point: point[1], default=None)
    if best is not None:
        title = f"Best at epoch {best[0]:g}: {best[1]:.3f} bits per sample on validation"
    figure, axes = new_figure(title, 5.2, 2, 1)
    looks = {"validation": (axes[0, 0], BLUE), "training": (axes[1, 0], GREY)}
    for name, (ax, colour) in looks.items():
        points = np.reshape(curves[name], (-1, 2)).T
        ax.plot(*points, marker=".", color=colour, linewidth=1.6, label=name)
        ax.set(xlabel="epoch", ylabel=f"bits per sample,\n{name}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    steps = [step for points in curves.values() for step, _ in points] or [0]
    for ax in axes[:, 0]:
        ax.set_xlim(min(steps) - 0.5, max(steps) + 0.5)
    ax = axes[0, 0]
    if best is not None:
        ax.plot(*best, "o", markersize=11, mfc="none", mec=INK, mew=1.5, label="best epoch")
    legend(figure, *ax.get_legend_handles_labels())
    return figure


@styled
def forgetting(
    before: Mapping[str, float], after: Mapping[str, float], new_songs: set[str]
) -> Figure:
    """Draw how retraining changed the validation bits per sample of each song, worst first.

    ``before`` and ``after`` map slugs to finite values, and either may lack a song; ``new_songs``
    are those that the first training did not have.
    """
    change = {slug: after[slug] - before[slug] for slug in before if slug in after}
    slugs = sorted(before.keys() | after.keys(), key=lambda slug: (-change.get(slug, 0.0), slug))
    title = _forgetting_title(change, new_songs)
    figure, axes = new_figure(title, rows_height(len(slugs)), 1, 1)
    ax = axes[0, 0]
    ax.axvline(0.0, color=INK, linewidth=1.0)
    for y, slug in enumerate(slugs):
        if slug in change:
            colour = VERMILION if change[slug] > 0 else BLUE
            shape = "D" if slug in new_songs else "o"
            ax.plot([0.0, change[slug]], [y, y], color=colour, linewidth=2.2)
            ax.plot(change[slug], y, shape, color=colour, markersize=7)
    song_rows(ax, slugs, new_songs)
    ax.set_xlabel("change of bits per sample on validation (fewer is better)")
    looks = {
        "no worse": {"marker": "o", "color": BLUE},
        "worse": {"marker": "o", "color": VERMILION},
        "new song (bold)": {"marker": "D", "color": INK},
    }
    handles = [Line2D([], [], linestyle="", **look) for look in looks.values()]  # type: ignore[arg-type]
    legend(figure, handles, list(looks))
    return figure


def _forgetting_title(change: Mapping[str, float], new_songs: set[str]) -> str:
    clauses = []
    for kind, slugs in (("old", change.keys() - new_songs), ("new", change.keys() & new_songs)):
        if slugs:
            mean = float(np.mean([change[slug] for slug in change if slug in slugs]))
            songs = f"{len(slugs)} {kind} song{'s' if len(slugs) > 1 else ''}"
            clauses.append(f"{songs} {abs(mean):.3f} {'worse' if mean > 0 else 'better'}")
    return f"After retraining: {', '.join(clauses)} (bits per sample)" if clauses else "No song yet"
