"""Figure of continuations: their distance from the true song, by horizon."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from songcast.evaluation.summary import CONTINUATION
from songcast.report.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    PALE,
    PURPLE,
    legend,
    new_figure,
    styled,
)

MEASURE = "log_mel_distance_db"
# Name in metrics/evaluation.json: label, colour, marker.
LOOKS = {
    CONTINUATION: ("songcast", COLOURS[CONTINUATION], "o"),
    "paste": ("best-matching passage", PURPLE, "s"),
    "mean": ("mean level of the passages", COLOURS["cascade"], "v"),
    "blend": ("linear blend", BLUE, "P"),
    "loop": ("loop of the last second", COLOURS["ridge"], "^"),
    "burg": ("Burg extrapolation", GREY, "D"),
    "silence": ("silence", PALE, "X"),
}


@styled
def distance_over_horizon(continuation: Mapping[str, Any]) -> Figure:
    """Draw the mean log-mel distance of each continuation from the true song, by horizon.

    ``continuation``: that value of metrics/evaluation.json. Small dots are the songs, for the
    model only; horizons beyond the end of every song are left out.
    """
    horizons = continuation["horizons_seconds"]
    means = {name: entry[MEASURE] for name, entry in continuation["summary"].items()}
    shown = [i for i in range(len(horizons)) if any(means[name][i] is not None for name in means)]
    figure, axes = new_figure(_title(means, horizons, shown), 4.2, 1, 1)
    ax = axes[0, 0]
    for name, (label, colour, marker) in LOOKS.items():
        points = [(place, means[name][i]) for place, i in enumerate(shown) if name in means]
        ax.plot(*np.reshape(points, (-1, 2)).T, color=colour, marker=marker, label=label)
    for entry in continuation["songs"].values():
        values = entry.get(CONTINUATION, {}).get(MEASURE, [])
        dots = [(place, values[i]) for place, i in enumerate(shown) if values[i] is not None]
        ax.plot(*np.reshape(dots, (-1, 2)).T, ".", color=COLOURS[CONTINUATION], alpha=0.4)
    ax.set_xticks(range(len(shown)), [f"{horizons[i][0]:g} to {horizons[i][1]:g} s" for i in shown])
    ax.set(xlabel="time after the end of the prompt", ylabel="log-mel distance, dB", yscale="log")
    ticks = (5, 10, 20, 40)
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    legend(figure, *ax.get_legend_handles_labels())
    return figure


def _title(means: Mapping[str, Any], horizons: list[list[float]], shown: list[int]) -> str:
    """Return the horizons at which the model has the smallest distance."""
    best = [
        f"{horizons[i][0]:g} to {horizons[i][1]:g} s"
        for i in shown
        if min(means, key=lambda name: means[name][i]) == CONTINUATION
    ]
    if not best:
        return "Continuations: a baseline has the smallest distance at every horizon"
    return f"Continuations: songcast has the smallest distance at {', '.join(best)}"
