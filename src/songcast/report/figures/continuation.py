"""How far continuations are from what the songs really did, the further they go."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from songcast.evaluation.horizons import CONTINUATION
from songcast.report.figures import COLOURS, GREY, PALE, PURPLE, legend, new_figure, styled

MEASURE = "log_mel_distance_db"
# Name in metrics/evaluation.json: name for people, colour, marker.
LOOKS = {
    CONTINUATION: ("songcast", COLOURS[CONTINUATION], "o"),
    "paste": ("best-matching passage pasted", PURPLE, "s"),
    "loop": ("last second looped", COLOURS["ridge"], "^"),
    "burg": ("Burg extrapolation", GREY, "D"),
    "silence": ("silence", PALE, "X"),
}


@styled
def distance_over_horizon(continuation: Mapping[str, Any]) -> Figure:
    """Mean log-mel distance from the true song of each way to go on, by horizon.

    ``continuation``: that value of metrics/evaluation.json. Songs are small dots, for the model
    alone; horizons that no song is long enough for are left out.
    """
    horizons = continuation["horizons_seconds"]
    means = {name: found[MEASURE] for name, found in continuation["summary"].items()}
    shown = [i for i in range(len(horizons)) if any(means[name][i] is not None for name in means)]
    figure, axes = new_figure(_title(means, horizons, shown), 4.2, 1, 1)
    ax = axes[0, 0]
    for name, (said, colour, marker) in LOOKS.items():
        points = [(place, means[name][i]) for place, i in enumerate(shown) if name in means]
        ax.plot(*np.reshape(points, (-1, 2)).T, color=colour, marker=marker, label=said)
    for found in continuation["songs"].values():
        values = found.get(CONTINUATION, {}).get(MEASURE, [])
        dots = [(place, values[i]) for place, i in enumerate(shown) if values[i] is not None]
        ax.plot(*np.reshape(dots, (-1, 2)).T, ".", color=COLOURS[CONTINUATION], alpha=0.4)
    ax.set_xticks(range(len(shown)), [f"{horizons[i][0]:g} to {horizons[i][1]:g} s" for i in shown])
    ax.set(xlabel="after the song's end", ylabel="log-mel distance, dB", yscale="log")
    ticks = (5, 10, 20, 40)
    ax.set_yticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    legend(figure, *ax.get_legend_handles_labels())
    return figure


def _title(means: Mapping[str, Any], horizons: list[list[float]], shown: list[int]) -> str:
    """Say where the model is the nearest of all."""
    best = [
        f"{horizons[i][0]:g} to {horizons[i][1]:g} s"
        for i in shown
        if min(means, key=lambda name: means[name][i]) == CONTINUATION
    ]
    if not best:
        return "Others are nearer to the true song at every horizon"
    return f"Nearest to the true song: songcast at {', '.join(best)}"
