"""Figures of learning: the curves of a training, and what retraining changed."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from songcast.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    VERMILION,
    legend,
    less_text,
    new_figure,
    rows_height,
    song_rows,
    styled,
)


@styled
def learning_curves(
    rows: Sequence[Mapping[str, Any]],
    reference_bits: float | None = None,
    reference_name: str = "ridge",
) -> Figure:
    """Bits per sample of the validation and the training passages after each epoch.

    Each has a scale of its own: crops are drawn at random, so training wanders by more than
    validation gains.

    ``rows`` have ``step``, ``train_bits_per_sample`` and ``validation_bits_per_sample``, each
    of the two a finite number or None; the epoch of fewest validation bits is marked.
    ``reference_bits`` draws a level to beat.
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
        if reference_bits is not None:
            title += f", {less_text(reference_bits - best[1])} than {reference_name}"
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
    if reference_bits is not None:
        ax.axhline(reference_bits, color=COLOURS["ridge"], linewidth=1.6, label=reference_name)
    if best is not None:
        ax.plot(*best, "o", markersize=11, mfc="none", mec=INK, mew=1.5, label="best epoch")
    legend(figure, *ax.get_legend_handles_labels())
    return figure


@styled
def forgetting(
    before: Mapping[str, float],
    after: Mapping[str, float],
    new_songs: set[str],
    measure: Literal["bits per sample", "dB gain"] = "bits per sample",
) -> Figure:
    """What retraining changed for each song, sorted by change, worst first.

    ``before`` and ``after`` map slugs to validation bits per sample (fewer is better) or to
    prediction gain in dB (more is better), finite; ``new_songs`` are those that the first
    training did not have. A song may be missing from either.
    """
    better = -1.0 if measure == "bits per sample" else 1.0
    change = {slug: better * (after[slug] - before[slug]) for slug in before if slug in after}
    slugs = sorted(before.keys() | after.keys(), key=lambda slug: (change.get(slug, 0.0), slug))
    title = _forgetting_title(change, new_songs, measure)
    figure, axes = new_figure(title, rows_height(len(slugs)), 1, 1)
    ax = axes[0, 0]
    ax.axvline(0.0, color=INK, linewidth=1.0)
    for y, slug in enumerate(slugs):
        colour = VERMILION if change.get(slug, 0.0) < 0 else BLUE
        shape = "D" if slug in new_songs else "o"
        if slug in change:
            moved = after[slug] - before[slug]
            ax.plot([0.0, moved], [y, y], color=colour, linewidth=2.2)
            ax.plot(moved, y, shape, color=colour, markersize=7)
    song_rows(ax, slugs, new_songs)
    direction = "fewer" if better < 0 else "more"
    ax.set_xlabel(f"change of {measure} on validation ({direction} is better)")
    looks = {
        "no worse": {"marker": "o", "color": BLUE},
        "worse": {"marker": "o", "color": VERMILION},
        "new song (bold)": {"marker": "D", "color": INK},
    }
    handles = [Line2D([], [], linestyle="", **look) for look in looks.values()]  # type: ignore[arg-type]
    legend(figure, handles, list(looks))
    return figure


def _forgetting_title(change: Mapping[str, float], new_songs: set[str], measure: str) -> str:
    clauses = []
    for kind, members in (
        ("old", [slug for slug in change if slug not in new_songs]),
        ("new", [slug for slug in change if slug in new_songs]),
    ):
        if members:
            mean = float(np.mean([change[slug] for slug in members]))
            songs = f"{len(members)} {kind} song{'s' if len(members) > 1 else ''}"
            side = "better" if mean >= 0 else "worse"
            clauses.append(f"{songs} {abs(mean):.3f} {side}")
    return (
        f"After retraining: {', '.join(clauses)} ({measure})"
        if clauses
        else "Nothing to compare yet"
    )
