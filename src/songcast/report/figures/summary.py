"""Figures of all songs: bits per sample, continuations, learning curves, effect of retraining."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from songcast.evaluation.summary import CONTINUATION
from songcast.report.figures import style
from songcast.report.figures.style import INK, MARKERS, less_text, new_figure, rows_height

MEAN_ROW = "mean of songs"  # no slug has spaces


@style.styled
def bits_per_song(evaluation: Mapping[str, Any]) -> Figure:
    """Draw bits per sample of every song and forecaster, from ``metrics/evaluation.json``.

    Songs are sorted by the bits of the best forecaster, most bits first, under a row of means.
    Other names, such as codecs, are drawn as black strokes. The title compares the best forecaster
    with ridge and the first of the other names.
    """
    songs = {
        slug: {name: float(entry["bits_per_sample"]) for name, entry in entries.items()}
        for slug, entries in evaluation["songs"].items()
    }
    present = next(iter(songs.values()))
    names = [n for n in MARKERS if n in present] + [n for n in present if n not in MARKERS]
    means = {name: float(np.mean([bits[name] for bits in songs.values()])) for name in names}
    rows = dict(sorted(songs.items(), key=lambda row: -min(row[1].values())))
    table = {MEAN_ROW: means, **rows} if len(songs) > 1 else rows
    figure, axes = new_figure(_bits_title(means, len(songs)), rows_height(len(table)), 1, 1)
    ax = axes[0, 0]
    for y, bits in enumerate(table.values()):
        ax.plot([min(bits.values()), max(bits.values())], [y, y], color=style.PALE, linewidth=1.5)
    for index, name in enumerate(names):
        own = name in MARKERS
        lift = {"cascade": -0.2, "retrain": 0.2}.get(name, 0.0)  # visible beside train
        ax.plot(
            [bits[name] for bits in table.values()],
            [y + lift for y in range(len(table))],
            MARKERS.get(name, "|+12"[(index - len(MARKERS)) % 4]),
            color=style.colour_of(name, index) if own else INK,
            markersize=7 if own else 11,
            markeredgecolor="white" if own else None,
            markeredgewidth=0.6 if own else 1.8,
            label=name,
            zorder=3 + index,
        )
    style.song_rows(ax, list(table), {MEAN_ROW})
    ax.set_xlabel("bits per sample (fewer is better)")
    style.legend(figure, *ax.get_legend_handles_labels())
    return figure


def _bits_title(means: Mapping[str, float], songs: int) -> str:
    best, *others = sorted((n for n in means if n in MARKERS), key=lambda name: means[name])
    baselines = ["ridge"] if "ridge" in others else others[:1]
    baselines += [name for name in means if name not in MARKERS][:1]
    text = f"{best} needs " + ", ".join(
        f"{less_text(means[name] - means[best], '' if place else ' bits per sample')} than {name}"
        for place, name in enumerate(baselines)
    )
    return text + (f", mean of {songs} songs" if songs > 1 else "")


MEASURE = "log_mel_distance_db"
# Name in metrics/evaluation.json: label, colour, marker.
LOOKS = {
    CONTINUATION: ("songcast", style.COLOURS[CONTINUATION], "o"),
    "paste": ("best-matching passage", style.PURPLE, "s"),
    "mean": ("mean level of the passages", style.COLOURS["cascade"], "v"),
    "blend": ("linear blend", style.BLUE, "P"),
    "loop": ("loop of the last second", style.COLOURS["ridge"], "^"),
    "burg": ("Burg extrapolation", style.GREY, "D"),
    "silence": ("silence", style.PALE, "X"),
}


@style.styled
def distance_over_horizon(continuation: Mapping[str, Any]) -> Figure:
    """Draw the mean log-mel distance of each continuation from the true song, by horizon.

    ``continuation``: that value of metrics/evaluation.json. Small dots are the songs, for the
    model only; horizons beyond the end of every song are left out.
    """
    horizons = continuation["horizons_seconds"]
    means = {name: entry[MEASURE] for name, entry in continuation["summary"].items()}
    shown = [i for i in range(len(horizons)) if any(means[name][i] is not None for name in means)]
    figure, axes = new_figure(_continuation_title(means, horizons, shown), 4.2, 1, 1)
    ax = axes[0, 0]
    for name, (label, colour, marker) in LOOKS.items():
        points = [(place, means[name][i]) for place, i in enumerate(shown) if name in means]
        ax.plot(*np.reshape(points, (-1, 2)).T, color=colour, marker=marker, label=label)
    for entry in continuation["songs"].values():
        values = entry.get(CONTINUATION, {}).get(MEASURE, [])
        dots = [(place, values[i]) for place, i in enumerate(shown) if values[i] is not None]
        ax.plot(*np.reshape(dots, (-1, 2)).T, ".", color=style.COLOURS[CONTINUATION], alpha=0.4)
    ax.set_xticks(range(len(shown)), [f"{horizons[i][0]:g} to {horizons[i][1]:g} s" for i in shown])
    ax.set(xlabel="time after the end of the prompt", ylabel="log-mel distance, dB", yscale="log")
    ticks = (5, 10, 20, 40)
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    style.legend(figure, *ax.get_legend_handles_labels())
    return figure


def _continuation_title(
    means: Mapping[str, Any], horizons: list[list[float]], shown: list[int]
) -> str:
    """Return the horizons at which the model has the smallest distance."""
    best = [
        f"{horizons[i][0]:g} to {horizons[i][1]:g} s"
        for i in shown
        if min(means, key=lambda name: means[name][i]) == CONTINUATION
    ]
    if not best:
        return "Continuations: a baseline has the smallest distance at every horizon"
    return f"Continuations: songcast has the smallest distance at {', '.join(best)}"


@style.styled
def learning_curves(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw bits per sample of validation and training after each epoch; mark the best epoch.

    ``rows`` have ``step``, ``train_bits_per_sample`` and ``validation_bits_per_sample``. Each has
    its own scale: the random crops of training vary by more than validation improves.
    """
    steps = [row["step"] for row in rows]
    bits = {
        name: [row[f"{name}_bits_per_sample"] for row in rows] for name in ("validation", "train")
    }
    fewest, best = min(zip(bits["validation"], steps, strict=True))
    title = f"Best at epoch {best:g}: {fewest:.3f} bits per sample on validation"
    figure, axes = new_figure(title, 5.2, 2, 1)
    looks = (("validation", "validation", style.BLUE), ("train", "training", style.GREY))
    for ax, (key, name, colour) in zip(axes[:, 0], looks, strict=True):
        ax.plot(steps, bits[key], marker=".", color=colour, linewidth=1.6, label=name)
        ax.set(xlabel="epoch", ylabel=f"bits per sample,\n{name}")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.set_xlim(min(steps) - 0.5, max(steps) + 0.5)
    ax = axes[0, 0]
    ax.plot(best, fewest, "o", markersize=11, mfc="none", mec=INK, mew=1.5, label="best epoch")
    style.legend(figure, *ax.get_legend_handles_labels())
    return figure


@style.styled
def forgetting(change: Mapping[str, float], new_songs: set[str]) -> Figure:
    """Draw how retraining changed the validation bits per sample of each song, worst first.

    ``change``: by slug. ``new_songs``: those that the first training did not have.
    """
    slugs = sorted(change, key=lambda slug: (-change[slug], slug))
    title = _forgetting_title(change, new_songs)
    figure, axes = new_figure(title, rows_height(len(slugs)), 1, 1)
    ax = axes[0, 0]
    ax.axvline(0.0, color=INK, linewidth=1.0)
    for y, slug in enumerate(slugs):
        colour = style.VERMILION if change[slug] > 0 else style.BLUE
        shape = "D" if slug in new_songs else "o"
        ax.plot([0.0, change[slug]], [y, y], color=colour, linewidth=2.2)
        ax.plot(change[slug], y, shape, color=colour, markersize=7)
    style.song_rows(ax, slugs, new_songs)
    ax.set_xlabel("change of bits per sample on validation (fewer is better)")
    looks = {
        "no worse": {"marker": "o", "color": style.BLUE},
        "worse": {"marker": "o", "color": style.VERMILION},
        "new song (bold)": {"marker": "D", "color": INK},
    }
    handles = [Line2D([], [], linestyle="", **look) for look in looks.values()]  # type: ignore[arg-type]
    style.legend(figure, handles, list(looks))
    return figure


def _forgetting_title(change: Mapping[str, float], new_songs: set[str]) -> str:
    clauses = []
    for kind, slugs in (("old", change.keys() - new_songs), ("new", change.keys() & new_songs)):
        if slugs:
            mean = float(np.mean([change[slug] for slug in change if slug in slugs]))
            songs = f"{len(slugs)} {kind} song{'s' if len(slugs) > 1 else ''}"
            clauses.append(f"{songs} {abs(mean):.3f} {'worse' if mean > 0 else 'better'}")
    return f"After retraining: {', '.join(clauses)} (bits per sample)" if clauses else "No song yet"
