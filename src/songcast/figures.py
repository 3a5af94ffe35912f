"""Figures: arrays and plain values in, a matplotlib ``Figure`` out.

Nothing here touches pyplot, a display or a file but ``save_png``. Passages are
(frames, channels) in LSB (int16 units), int16 or float, finite, with at least one frame.
Titles say what the data show. A forecaster has the same colour in every figure
(Okabe and Ito's palette, which colour-blind readers can tell apart).
"""

import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from songcast.files import atomic_path
from songcast.metrics import prediction_gain_db

Samples = NDArray[Any]
Floats = NDArray[np.float64]

DPI = 120
WIDTH_INCHES = 1000 / DPI
ZOOM_SECONDS = 0.020
FULL_SCALE_LSB = 32768.0
QUANTISATION_POWER_LSB2 = 1.0 / 12.0  # of rounding to whole LSB: uniform error of width 1
SPECTRUM_FRAMES = 4096  # Welch segment: 11 Hz apart at 44.1 kHz
SPECTROGRAM_FRAMES = 1024  # 23 ms at 44.1 kHz
SPECTROGRAM_RANGE_DB = 110.0
ENVELOPE_COLUMNS = (
    300  # 17 ms of 5 s: a period of the lowest notes, so that no column misses a peak
)
MAX_COLUMNS = 1000  # of a spectrogram: as many as a figure has pixels
MAX_SEGMENTS = 1000  # of a spectrum: bounds the memory of long passages

MEAN_ROW = "mean of songs"  # no slug has spaces

INK, GREY, PALE = "#222222", "#8a8a8a", "#c9c9c9"
BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
COLOURS = {
    "persistence": GREY,
    "ridge": "#E69F00",
    "notebook": PURPLE,
    "cascade": "#56B4E9",
    "train": BLUE,
    "retrain": VERMILION,
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
_styled = matplotlib.style.context(STYLE, after_reset=True)


@_styled
def waveforms(
    original: Samples, predictions: Mapping[str, Samples], sample_rate_hz: int, title_name: str
) -> Figure:
    """Draw each channel whole, its loudest 20 ms, and the residual there; one column a channel.

    Long passages are drawn as minimum and maximum of 300 stretches. All predictions are
    (frames, channels) LSB like ``original``; the zoom is at the same frames in all panels.
    Raises ``ValueError`` where shapes differ.
    """
    x = _passage(original)
    means = {name: _passage(mean, x.shape) for name, mean in predictions.items()}
    frames, channels = x.shape
    zoom = _loudest(x, max(1, round(ZOOM_SECONDS * sample_rate_hz)))
    gains = {name: _gain_db(x, mean) for name, mean in means.items()}
    best_first = sorted(gains, key=lambda name: -gains[name])
    title = f"{_short(title_name, 40)}: prediction gain "
    title += ", ".join(f"{_db(gains[name])} ({name})" for name in best_first)
    figure, axes = _figure(
        title if gains else _short(title_name, 40), 6.4, 3, channels, (1.25, 1.25, 0.8)
    )
    for c in range(channels):
        whole, near, error = axes[:, c]
        channel = "mono" if channels == 1 else ("left", "right")[c] if channels == 2 else str(c)
        whole.set_title(f"{channel}: the whole passage")
        _envelope(whole, x[:, c], sample_rate_hz, INK, PALE, "original")
        start, stop = zoom.start / sample_rate_hz, zoom.stop / sample_rate_hz
        whole.axvline((start + stop) / 2, color=GREEN, linewidth=1.0)
        milliseconds = np.arange(zoom.stop - zoom.start) * 1000.0 / sample_rate_hz
        dot = "." if len(milliseconds) < 4 else ""
        near.plot(milliseconds, x[zoom, c], dot, color=PALE, linewidth=4.0, label="original")
        near.set_title(
            f"the loudest {(stop - start) * 1000:.2g} ms, from {start:.3f} s (green line)"
        )
        for index, (name, mean) in enumerate(means.items()):
            colour, residual = _colour(name, index), x[:, c] - mean[:, c]
            _envelope(whole, mean[:, c], sample_rate_hz, colour, None, name)
            near.plot(milliseconds, mean[zoom, c], dot, color=colour, linewidth=1.0, label=name)
            error.plot(milliseconds, residual[zoom], dot, color=colour, linewidth=1.0, label=name)
        error.set_title("original − prediction, there")
        whole.set(xlabel="time (s)", xlim=(0, frames / sample_rate_hz))
        near.set(xlim=(0, len(milliseconds) * 1000.0 / sample_rate_hz))
        error.set(xlabel="time (ms)", xlim=near.get_xlim())
        near.tick_params(labelbottom=False)
    for row, label in zip(axes, ("amplitude (LSB)",) * 2 + ("residual (LSB)",), strict=True):
        _same_height(row)
        row[0].set_ylabel(label)
    _legend(figure, *axes[1, 0].get_legend_handles_labels())
    return figure


@_styled
def spectrograms(original: Samples, prediction: Samples, sample_rate_hz: int) -> Figure:
    """Original, prediction and residual on one scale in dB, 0 being a full-scale sine.

    (frames, channels) LSB both; the power is the mean over channels. Raises ``ValueError``
    where shapes differ.
    """
    x = _passage(original)
    mean = _passage(prediction, x.shape)
    title = f"The residual lies {_below(_gain_db(x, mean))} the original"
    title = title if x.any() else "The original is silent"
    figure, axes = _figure(title, 6.6, 3, 1)
    hop = max(SPECTROGRAM_FRAMES // 4, -(-len(x) // MAX_COLUMNS))
    edge = ((SPECTROGRAM_FRAMES // 2,) * 2, (0, 0))
    starts = np.arange(0, len(x), hop)
    sine = (FULL_SCALE_LSB * np.sum(np.hanning(SPECTROGRAM_FRAMES)) / 2) ** 2
    panels = {"original": x, "prediction": mean, "residual": x - mean}
    levels = {
        name: _decibels(
            _power(np.pad(signal, edge, "reflect"), SPECTROGRAM_FRAMES, SPECTROGRAM_FRAMES, starts)
            / sine
        )
        for name, signal in panels.items()
    }
    top = 10.0 * np.ceil(max(float(level.max()) for level in levels.values()) / 10.0)
    top = max(top, SPECTROGRAM_RANGE_DB - 200.0)
    seconds = np.array([-0.5, len(starts) - 0.5]) * hop / sample_rate_hz
    for ax, (name, level) in zip(axes[:, 0], levels.items(), strict=True):
        image = ax.imshow(
            level.T,
            origin="lower",
            aspect="auto",
            extent=(seconds[0], seconds[1], 0, sample_rate_hz / 2000),
            vmin=top - SPECTROGRAM_RANGE_DB,
            vmax=top,
            cmap="magma",
        )
        ax.set(title=name, ylabel="frequency (kHz)", xlim=(0, len(x) / sample_rate_hz))
        ax.grid(False)
        ax.tick_params(labelbottom=ax is axes[-1, 0])
    axes[-1, 0].set_xlabel("time (s)")
    figure.colorbar(
        image, ax=list(axes[:, 0]), label="level (dB re full-scale sine)", aspect=40, pad=0.01
    )
    return figure


@_styled
def residual_spectrum(
    original: Samples, residuals: Mapping[str, Samples], sample_rate_hz: int
) -> Figure:
    """Power spectra (Welch) of a song and of forecasters' residuals, dB re full scale per Hz.

    (frames, channels) LSB all, the power being the mean over channels and over bands of 1/24
    octave; the line of 16-bit quantisation noise is 1/12 LSB^2 spread over 0 to half the
    sample rate. What lies near that line nobody can predict. Raises ``ValueError`` where
    shapes differ.
    """
    x = _passage(original)
    errors = {name: _passage(error, x.shape) for name, error in residuals.items()}
    power = {name: float(np.mean(error**2)) for name, error in errors.items()}
    noise_db = 10.0 * np.log10(QUANTISATION_POWER_LSB2 / (sample_rate_hz / 2) / FULL_SCALE_LSB**2)
    title = "The song against 16-bit quantisation noise"
    if power:
        best = min(power, key=lambda name: power[name])
        with np.errstate(divide="ignore"):
            under_noise_db = -10.0 * float(np.log10(power[best] / QUANTISATION_POWER_LSB2))
        song = f"{_below(_gain_db(x, x - errors[best]))} the song" if x.any() else "of silence"
        title = f"{best}'s residual: {song}, {_below(under_noise_db)} 16-bit quantisation noise"
    figure, axes = _figure(title, 4.6, 1, 1)
    ax = axes[0, 0]
    highest = noise_db
    for index, (name, signal) in enumerate({"song": x, **errors}.items()):
        hz, density = _welch(signal, sample_rate_hz)
        level = np.maximum(_decibels(density / FULL_SCALE_LSB**2), noise_db - 60)
        highest = max(highest, float(level.max()))
        colour = INK if index == 0 else _colour(name, index - 1)
        ax.plot(hz, level, color=colour, linewidth=1.3, label=name)
    noise = "16-bit quantisation noise"
    ax.axhline(noise_db, color=GREEN, linewidth=1.3, linestyle="--", label=noise)
    ax.set(
        xscale="log",
        xlim=(20.0 if sample_rate_hz > 400 else hz[0], sample_rate_hz / 2),
        ylim=(noise_db - 12, highest + 6),
        xlabel="frequency (Hz)",
        ylabel="power (dB re full scale per Hz)",
    )
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda hz, _: f"{hz:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
    _legend(figure, *ax.get_legend_handles_labels())
    return figure


@_styled
def bits_per_song(evaluation: Mapping[str, Any]) -> Figure:
    """Bits per sample of every song and forecaster, from ``metrics/evaluation.json``.

    Songs are sorted by what the best forecaster needs, hardest first, under a row of means.
    Names other than songcast's (codecs, say) are drawn as black strokes; a song may lack some.
    The title compares the best forecaster with ridge, over the songs that have both.
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
    figure, axes = _figure(_bits_title(songs, means), _rows_height(len(table)), 1, 1)
    ax = axes[0, 0]
    for y, bits in enumerate(table.values()):
        if bits:
            ax.plot([min(bits.values()), max(bits.values())], [y, y], color=PALE, linewidth=1.5)
    for index, name in enumerate(names):
        points = [(bits[name], y) for y, bits in enumerate(table.values()) if name in bits]
        own = name in MARKERS
        lift = {"cascade": -0.2, "retrain": 0.2}.get(name, 0.0)  # often beside train: stay visible
        ax.plot(
            [bits for bits, _ in points],
            [y + lift for _, y in points],
            MARKERS.get(name, "|+12"[index % 4]),
            color=_colour(name, index) if own else INK,
            markersize=7 if own else 11,
            markeredgecolor="white" if own else None,
            markeredgewidth=0.6 if own else 1.8,
            label=name,
            zorder=3 + index,
        )
    _song_rows(ax, list(table), {MEAN_ROW})
    ax.set_xlabel("bits per sample (fewer is better)")
    _legend(figure, *ax.get_legend_handles_labels())
    return figure


@_styled
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
            title += f", {_less(reference_bits - best[1])} than {reference_name}"
    figure, axes = _figure(title, 5.2, 2, 1)
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
    _legend(figure, *ax.get_legend_handles_labels())
    return figure


@_styled
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
    figure, axes = _figure(title, _rows_height(len(slugs)), 1, 1)
    ax = axes[0, 0]
    ax.axvline(0.0, color=INK, linewidth=1.0)
    for y, slug in enumerate(slugs):
        colour = VERMILION if change.get(slug, 0.0) < 0 else BLUE
        shape = "D" if slug in new_songs else "o"
        if slug in change:
            moved = after[slug] - before[slug]
            ax.plot([0.0, moved], [y, y], color=colour, linewidth=2.2)
            ax.plot(moved, y, shape, color=colour, markersize=7)
    _song_rows(ax, slugs, new_songs)
    direction = "fewer" if better < 0 else "more"
    ax.set_xlabel(f"change of {measure} on validation ({direction} is better)")
    looks = {
        "no worse": {"marker": "o", "color": BLUE},
        "worse": {"marker": "o", "color": VERMILION},
        "new song (bold)": {"marker": "D", "color": INK},
    }
    handles = [Line2D([], [], linestyle="", **look) for look in looks.values()]  # type: ignore[arg-type]
    _legend(figure, handles, list(looks))
    return figure


@_styled
def save_png(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` as a PNG of 120 dpi, atomically.

    The same figure gives the same bytes: no date, no version in it. Raises ``OSError``.
    """
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})


def _figure(
    title: str, height: float, rows: int, columns: int, ratios: tuple[float, ...] | None = None
) -> tuple[Figure, NDArray[Any]]:
    """Return a figure with its title and (rows, columns) axes."""
    figure = Figure(figsize=(WIDTH_INCHES, height), dpi=DPI, layout="constrained")
    figure.suptitle(textwrap.fill(title, 92), x=0.01, horizontalalignment="left")
    return figure, figure.subplots(rows, columns, squeeze=False, height_ratios=ratios)


def _legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend under the axes, in one row or two."""
    if handles:
        columns = len(labels) if len(labels) <= 6 else -(-len(labels) // 2)
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


def _passage(samples: Samples, shape: tuple[int, ...] | None = None) -> Floats:
    """Float copy of a passage (frames, channels); ``ValueError`` unless of the right shape."""
    x = np.asarray(samples, np.float64)
    if x.ndim != 2 or x.size == 0 or (shape is not None and x.shape != shape):
        wanted = "(frames, channels), at least one each" if shape is None else f"{shape}"
        raise ValueError(f"a passage to draw must have shape {wanted}; got {x.shape}")
    return x


def _gain_db(x: Floats, mean: Floats) -> float:
    """Mean prediction gain of the channels that are not silent, in dB; 0 if all are."""
    heard = np.any(x != 0, axis=0)
    return float(np.mean(prediction_gain_db(x[:, heard], mean[:, heard]))) if heard.any() else 0.0  # type: ignore[arg-type]


def _loudest(x: Floats, length: int) -> slice:
    """Frames of the window of ``length`` with most energy; the first of equals."""
    energy = np.concatenate([[0.0], np.cumsum(np.sum(x**2, axis=1))])
    length = min(length, len(x))
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return slice(start, start + length)


def _envelope(
    ax: Axes, x: Floats, sample_rate_hz: int, colour: str, fill: str | None, label: str
) -> None:
    """Draw (frames,) as a line, or as minimum and maximum per column where it is long."""
    if len(x) <= 4 * ENVELOPE_COLUMNS:
        marker = "." if len(x) < 4 else ""
        wide = 4.0 if fill else 1.0
        seconds = np.arange(len(x)) / sample_rate_hz
        ax.plot(seconds, x, marker, color=fill or colour, linewidth=wide, label=label)
        return
    starts = np.linspace(0, len(x), ENVELOPE_COLUMNS, endpoint=False).astype(int)
    low, high = np.minimum.reduceat(x, starts), np.maximum.reduceat(x, starts)
    seconds = (starts + len(x) / ENVELOPE_COLUMNS / 2) / sample_rate_hz
    if fill:
        ax.fill_between(seconds, low, high, color=fill, linewidth=0.8, label=label)
    else:
        ax.plot(seconds, low, color=colour, linewidth=0.8, label=label)
        ax.plot(seconds, high, color=colour, linewidth=0.8)


def _same_height(axes: Sequence[Axes]) -> None:
    """Give a row of axes one range, symmetric about 0, labelled once."""
    limits = [abs(limit) for ax in axes if ax.has_data() for limit in ax.dataLim.intervaly]
    top = max([1.0, *limits])
    for index, ax in enumerate(axes):
        ax.set_ylim(-1.08 * top, 1.08 * top)
        ax.tick_params(labelleft=index == 0)


def _power(x: Floats, length: int, bins_of: int, starts: NDArray[np.int64]) -> Floats:
    """|DFT|^2 under a Hann window of ``length`` at each start, mean over channels.

    ``x`` (frames, channels), the DFT over ``bins_of`` points; returns (starts, bins).
    """
    window = np.hanning(length + 2)[1:-1]  # without its two zeros: one frame is a window too
    cut = np.lib.stride_tricks.sliding_window_view(x, length, axis=0)[starts]
    spectra = np.fft.rfft(cut * window, bins_of)  # (starts, channels, bins)
    return np.asarray(np.mean(np.abs(spectra) ** 2, axis=1), np.float64)


def _welch(x: Floats, sample_rate_hz: int) -> tuple[Floats, Floats]:
    """Power spectral density in bands of 1/24 octave or one bin: their Hz, their LSB^2 / Hz.

    One-sided, without the bin at 0 Hz; both (bands,).
    """
    length = min(SPECTRUM_FRAMES, len(x))
    hop = max(1, length // 2, len(x) // MAX_SEGMENTS)
    power = _power(x, length, SPECTRUM_FRAMES, np.arange(0, len(x) - length + 1, hop))
    density = 2 * power.mean(axis=0) / np.sum(np.hanning(length + 2) ** 2) / sample_rate_hz
    hz = np.fft.rfftfreq(SPECTRUM_FRAMES, 1 / sample_rate_hz)[1:-1]
    band = np.floor(24 * np.log2(hz / hz[0]))
    starts = np.flatnonzero(np.diff(band, prepend=-1.0))
    widths = np.diff(starts, append=len(hz))
    return np.add.reduceat(hz, starts) / widths, np.add.reduceat(density[1:-1], starts) / widths


def _decibels(power: Floats) -> Floats:
    return np.asarray(10.0 * np.log10(np.maximum(power, 1e-20)), np.float64)


def _db(value: float) -> str:
    return f"{value:.1f} dB".replace("inf", "∞").replace("-", "−")


def _below(gain_db: float) -> str:
    return f"{_db(abs(gain_db))} {'below' if gain_db >= 0 else 'above'}"


def _less(difference: float, unit: str = "") -> str:
    return f"{abs(difference):.2f}{unit} {'less' if difference >= 0 else 'more'}"


def _common(songs: Mapping[str, Mapping[str, float]], *names: str) -> Floats:
    """Bits (songs, names) of the songs that have all the names."""
    rows = [[bits[n] for n in names] for bits in songs.values() if all(n in bits for n in names)]
    return np.reshape(np.array(rows, np.float64), (-1, len(names)))


def _bits_title(songs: Mapping[str, Mapping[str, float]], means: Mapping[str, float]) -> str:
    known = [name for name in means if name in MARKERS] or list(means)
    if not known:
        return "Nothing evaluated yet"
    best, *others = sorted(known, key=lambda name: means[name])
    others = [name for name in others if len(_common(songs, best, name))]
    finding, table = f"{best} needs {means[best]:.2f} bits per sample", _common(songs, best)
    if others:
        other = "ridge" if "ridge" in others else others[0]
        table = _common(songs, best, other)
        less = _less(float(np.mean(table[:, 1] - table[:, 0])), " bits per sample")
        finding = f"{best} needs {less} than {other}"
    return finding + (f", mean of {len(table)} songs" if len(table) > 1 else "")


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


def _rows_height(rows: int) -> float:
    return 1.5 + max(rows, 2) * (0.36 if rows <= 14 else 0.25)


def _song_rows(ax: Axes, slugs: list[str], bold: set[str]) -> None:
    """Name the rows 0, 1, ... from the top after songs."""
    ax.set_yticks(range(len(slugs)), [_short(slug, 34) for slug in slugs])
    for slug, label in zip(slugs, ax.get_yticklabels(), strict=True):
        label.set_fontweight("bold" if slug in bold else "normal")
    ax.set_ylim(max(len(slugs), 1) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False, axis="y")


def _short(name: str, most: int) -> str:
    """``name`` with its middle left out where it is longer than ``most`` letters."""
    return name if len(name) <= most else f"{name[: most - 13]}…{name[-12:]}"


def _colour(name: str, index: int) -> str:
    spare = (BLUE, VERMILION, GREEN, PURPLE)
    return COLOURS.get(name, spare[index % len(spare)])
