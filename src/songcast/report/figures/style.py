"""The common style of all figures, their layout, numbers in titles, and the PNG writer.

A forecaster has the same colour in every figure (the palette of Okabe and Ito, which
colour-blind readers can distinguish).
"""

import os
import textwrap
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from songcast.files import atomic_path
from songcast.forecasting.metrics import prediction_gain_db

Samples = NDArray[Any]
Floats = NDArray[np.float64]

DPI = 120
WIDTH_INCHES = 1000 / DPI

INK, GREY, PALE = "#222222", "#8a8a8a", "#c9c9c9"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = {
    "persistence": GREY,
    "ridge": "#E69F00",
    "notebook": PURPLE,
    "cascade": "#56B4E9",
    "train": BLUE,
    "retrain": VERMILION,
    "continuation": GREEN,
}
MARKERS = {
    "persistence": "X",
    "ridge": "s",
    "notebook": "^",
    "cascade": "D",
    "train": "o",
    "retrain": "v",
}
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.titlesize": 11,
    "figure.titleweight": "bold",
    "text.parse_math": False,  # the name of a song may contain a $
}
# After a reset, so that a user's matplotlibrc changes nothing. Matplotlib creates ticks while it
# draws a figure, so save_png needs the style as much as the functions that build figures.
styled = matplotlib.style.context(STYLE, after_reset=True)


@styled
def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` as a PNG of 120 dpi, atomically.

    The same figure gives the same bytes: the file holds no date and no version. Raises
    ``OSError``.
    """
    with atomic_path(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # an emoji in the name of a song
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def new_figure(
    title: str, height: float, rows: int, columns: int, ratios: tuple[float, ...] | None = None
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with its title and (rows, columns) axes."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    figure.suptitle(textwrap.fill(title, 92), x=0.01, horizontalalignment="left")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)


def legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend under the axes, in one row or two."""
    if handles:
        columns = len(labels) if len(labels) <= 6 else -(-len(labels) // 2)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def rows_height(rows: int) -> float:
    """Return the height in inches of a figure with a row per song."""
    return 1.5 + max(rows, 2) * (0.36 if rows <= 14 else 0.25)


def song_rows(ax: Axes, slugs: list[str], bold: set[str]) -> None:
    """Label the rows 0, 1, ... from the top with songs."""
    ax.set_yticks(range(len(slugs)), [shortened(slug, 34) for slug in slugs])
    for slug, label in zip(slugs, ax.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if slug in bold else "normal")
    ax.set_ylim(max(len(slugs), 1) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")


def colour_of(name: str, index: int) -> str:
    """Return the colour of a forecaster; an unknown name takes the one of its ``index``."""
    spare = (BLUE, VERMILION, GREEN, PURPLE)
    return COLOURS.get(name, spare[index % len(spare)])


def mean_gain_db(x: Floats, mean: Floats) -> float:
    """Return the mean prediction gain of the channels that are not silent; 0 if all are."""
    loud = np.any(x != 0, axis=0)
    return float(np.mean(prediction_gain_db(x[:, loud], mean[:, loud]))) if loud.any() else 0.0  # type: ignore[arg-type]


def decibels(power: Floats) -> Floats:
    """Return power in dB, at least -200."""
    return np.asarray(10.0 * np.log10(np.maximum(power, 1e-20)), np.float64)


def db_text(value: float) -> str:
    """Return a level or gain as text; it may be negative or infinite."""
    return f"{value:.1f} dB".replace("inf", "∞").replace("-", "−")


def below_text(gain_db: float) -> str:
    """Return ``12.0 dB below``, or above where ``gain_db`` is negative."""
    return f"{db_text(abs(gain_db))} {'below' if gain_db >= 0 else 'above'}"


def less_text(difference: float, unit: str = "") -> str:
    """Return ``0.92 less``, or more where ``difference`` is negative."""
    return f"{abs(difference):.2f}{unit} {'less' if difference >= 0 else 'more'}"


def shortened(name: str, most: int) -> str:
    """Return ``name``, its middle left out where it is longer than ``most`` characters."""
    return name if len(name) <= most else f"{name[: most - 13]}…{name[-12:]}"
