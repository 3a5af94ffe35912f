"""What all figures share: one style, colours, and the way onto the disk.

Figures are functions in sound.py, rhythm.py, songs.py, continuation.py and
training.py: arrays and plain values in, a matplotlib ``Figure`` out. Nothing
touches pyplot, a display or a file but ``save_png``. Passages are (frames, channels) in LSB
(int16 units), int16 or float, finite, with at least one frame. Titles say what the data show.
A forecaster has the same colour in every figure (Okabe and Ito's palette, which colour-blind
readers can tell apart).
"""

import os
import textwrap
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
    "text.parse_math": False,  # a $ in a song's name is a dollar
}
# After a reset, so that a user's matplotlibrc changes nothing. Ticks are made when a figure is
# drawn, so save_png needs the style as well as the functions that build.
styled = matplotlib.style.context(STYLE, after_reset=True)


@styled
def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` as a PNG of 120 dpi, atomically.

    The same figure gives the same bytes: no date, no version in it. Raises ``OSError``.
    """
    with atomic_path(path) as temporary:
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


def passage_of(samples: Samples, shape: tuple[int, ...] | None = None) -> Floats:
    """Float copy of a passage (frames, channels); ``ValueError`` unless of the right shape."""
    x = np.asarray(samples, np.float64)
    if x.ndim != 2 or x.size == 0 or (shape is not None and x.shape != shape):
        wanted = "(frames, channels), at least one each" if shape is None else f"{shape}"
        raise ValueError(f"a passage to draw must have shape {wanted}; got {x.shape}")
    return x


def mean_gain_db(x: Floats, mean: Floats) -> float:
    """Mean prediction gain of the channels that are not silent, in dB; 0 if all are."""
    heard = np.any(x != 0, axis=0)
    return float(np.mean(prediction_gain_db(x[:, heard], mean[:, heard]))) if heard.any() else 0.0  # type: ignore[arg-type]


def db_text(value: float) -> str:
    """A level or gain for a title; any sign, infinite too."""
    return f"{value:.1f} dB".replace("inf", "∞").replace("-", "−")


def below_text(gain_db: float) -> str:
    """``12.0 dB below``, or above where ``gain_db`` is negative."""
    return f"{db_text(abs(gain_db))} {'below' if gain_db >= 0 else 'above'}"


def less_text(difference: float, unit: str = "") -> str:
    """``0.92 less``, or more where ``difference`` is negative."""
    return f"{abs(difference):.2f}{unit} {'less' if difference >= 0 else 'more'}"


def rows_height(rows: int) -> float:
    """Height in inches of a figure of so many rows."""
    return 1.5 + max(rows, 2) * (0.36 if rows <= 14 else 0.25)


def song_rows(ax: Axes, slugs: list[str], bold: set[str]) -> None:
    """Name the rows 0, 1, ... from the top after songs."""
    ax.set_yticks(range(len(slugs)), [shortened(slug, 34) for slug in slugs])
    for slug, label in zip(slugs, ax.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if slug in bold else "normal")
    ax.set_ylim(max(len(slugs), 1) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")


def shortened(name: str, most: int) -> str:
    """``name`` with its middle left out where it is longer than ``most`` letters."""
    return name if len(name) <= most else f"{name[: most - 13]}…{name[-12:]}"


def colour_of(name: str, index: int) -> str:
    """The colour of a forecaster; another name takes the one of its ``index``."""
    spare = (BLUE, VERMILION, GREEN, PURPLE)
    return COLOURS.get(name, spare[index % len(spare)])


def decibels(power: Floats) -> Floats:
    """Power in dB, -200 at least."""
    return np.asarray(10.0 * np.log10(np.maximum(power, 1e-20)), np.float64)
