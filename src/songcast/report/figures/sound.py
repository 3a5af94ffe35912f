"""Figures of one passage: waveforms, spectrograms, spectrum of the residual."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from songcast.report.figures import style
from songcast.report.figures.style import Floats, Samples, below_text, colour_of, db_text, decibels

ZOOM_SECONDS = 0.020
FULL_SCALE_LSB = 32768.0
QUANTISATION_POWER_LSB2 = 1.0 / 12.0  # of rounding to whole LSB: uniform error of width 1
SPECTRUM_FRAMES = 4096  # Welch segment: 11 Hz apart at 44.1 kHz
SPECTROGRAM_FRAMES = 1024  # 23 ms at 44.1 kHz
SPECTROGRAM_RANGE_DB = 110.0
# 17 ms of 5 s: a period of the lowest notes, so that no column misses a peak.
ENVELOPE_COLUMNS = 300
MAX_COLUMNS = 1000  # of a spectrogram: the pixels of a figure
MAX_SEGMENTS = 1000  # of a spectrum: limits memory for long passages


@style.styled
def waveforms(
    original: Samples, forecasts: Mapping[str, Samples], sample_rate_hz: int, title_name: str
) -> Figure:
    """Draw each channel, its loudest 20 ms and the residual in them, one column per channel.

    Long passages are drawn as minimum and maximum of 300 segments. All forecasts are
    (frames, channels) LSB like ``original``; the zoom shows the same frames in all panels.
    """
    x = original.astype(np.float64)
    means = {name: mean.astype(np.float64) for name, mean in forecasts.items()}
    frames, channels = x.shape
    zoom = _loudest(x, max(1, round(ZOOM_SECONDS * sample_rate_hz)))
    gains = {name: style.mean_gain_db(x, mean) for name, mean in means.items()}
    best_first = sorted(gains, key=lambda name: -gains[name])
    title = f"{style.shortened(title_name, 40)}: prediction gain "
    title += ", ".join(f"{db_text(gains[name])} ({name})" for name in best_first)
    figure, axes = style.new_figure(title, 6.4, 3, channels, (1.25, 1.25, 0.8))
    for c in range(channels):
        whole, near, error = axes[:, c]
        channel = "mono" if channels == 1 else ("left", "right")[c]
        whole.set_title(f"{channel}: the whole passage")
        _envelope(whole, x[:, c], sample_rate_hz, style.INK, style.PALE, "original")
        start, stop = zoom.start / sample_rate_hz, zoom.stop / sample_rate_hz
        whole.axvline((start + stop) / 2, color=style.GREEN, linewidth=1.0)
        milliseconds = np.arange(zoom.stop - zoom.start) * 1000.0 / sample_rate_hz
        dot = "." if len(milliseconds) < 4 else ""
        near.plot(milliseconds, x[zoom, c], dot, color=style.PALE, linewidth=4.0, label="original")
        near.set_title(
            f"the loudest {(stop - start) * 1000:.2g} ms, from {start:.3f} s (green line)"
        )
        for index, (name, mean) in enumerate(means.items()):
            colour, residual = colour_of(name, index), x[:, c] - mean[:, c]
            _envelope(whole, mean[:, c], sample_rate_hz, colour, None, name)
            near.plot(milliseconds, mean[zoom, c], dot, color=colour, linewidth=1.0, label=name)
            error.plot(milliseconds, residual[zoom], dot, color=colour, linewidth=1.0, label=name)
        error.set_title("residual (original − forecast) in the same frames")
        whole.set(xlabel="time (s)", xlim=(0, frames / sample_rate_hz))
        near.set(xlim=(0, len(milliseconds) * 1000.0 / sample_rate_hz))
        error.set(xlabel="time (ms)", xlim=near.get_xlim())
        near.tick_params(labelbottom=False)
    for row, label in zip(axes, ("amplitude (LSB)",) * 2 + ("residual (LSB)",), strict=True):
        _same_height(row)
        row[0].set_ylabel(label)
    style.legend(figure, *axes[1, 0].get_legend_handles_labels())
    return figure


@style.styled
def spectrograms(original: Samples, forecast: Samples, sample_rate_hz: int) -> Figure:
    """Draw original, forecast and residual on one scale in dB, where a full-scale sine is 0.

    Both are (frames, channels) LSB; the power is the mean over channels.
    """
    x, mean = original.astype(np.float64), forecast.astype(np.float64)
    title = f"The residual is {below_text(style.mean_gain_db(x, mean))} the original"
    title = title if x.any() else "The original is silent"
    figure, axes = style.new_figure(title, 6.6, 3, 1)
    hop = max(SPECTROGRAM_FRAMES // 4, -(-len(x) // MAX_COLUMNS))
    edge = ((SPECTROGRAM_FRAMES // 2,) * 2, (0, 0))
    starts = np.arange(0, len(x), hop)
    sine = (FULL_SCALE_LSB * np.sum(np.hanning(SPECTROGRAM_FRAMES)) / 2) ** 2
    panels = {"original": x, "forecast": mean, "residual": x - mean}
    levels = {
        name: decibels(
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


@style.styled
def residual_spectrum(
    original: Samples, residuals: Mapping[str, Samples], sample_rate_hz: int
) -> Figure:
    """Draw power spectra (Welch) of a song and of residuals, in dB re full scale per Hz.

    All are (frames, channels) LSB; the power is the mean over channels and over bands of 1/24
    octave. The line of 16-bit quantisation noise is 1/12 LSB^2 spread over 0 to half the sample
    rate; no forecaster can predict that noise.
    """
    x = original.astype(np.float64)
    errors = {name: error.astype(np.float64) for name, error in residuals.items()}
    power = {name: float(np.mean(error**2)) for name, error in errors.items()}
    noise_db = 10.0 * np.log10(QUANTISATION_POWER_LSB2 / (sample_rate_hz / 2) / FULL_SCALE_LSB**2)
    best = min(power, key=lambda name: power[name])
    with np.errstate(divide="ignore"):
        under_noise_db = -10.0 * float(np.log10(power[best] / QUANTISATION_POWER_LSB2))
    song = (
        f"{below_text(style.mean_gain_db(x, x - errors[best]))} the song"
        if x.any()
        else "of silence"
    )
    title = f"{best}'s residual: {song}, {below_text(under_noise_db)} 16-bit quantisation noise"
    figure, axes = style.new_figure(title, 4.6, 1, 1)
    ax = axes[0, 0]
    highest = noise_db
    for index, (name, signal) in enumerate({"song": x, **errors}.items()):
        hz, density = _welch(signal, sample_rate_hz)
        level = np.maximum(decibels(density / FULL_SCALE_LSB**2), noise_db - 60)
        highest = max(highest, float(level.max()))
        colour = style.INK if index == 0 else colour_of(name, index - 1)
        ax.plot(hz, level, color=colour, linewidth=1.3, label=name)
    noise = "16-bit quantisation noise"
    ax.axhline(noise_db, color=style.GREEN, linewidth=1.3, linestyle="--", label=noise)
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
    style.legend(figure, *ax.get_legend_handles_labels())
    return figure


def _loudest(x: Floats, length: int) -> slice:
    """Return the first window of ``length`` frames with the most energy."""
    energy = np.concatenate([[0.0], np.cumsum(np.sum(x**2, axis=1))])
    length = min(length, len(x))
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return slice(start, start + length)


def _envelope(
    ax: Axes, x: Floats, sample_rate_hz: int, colour: str, fill: str | None, label: str
) -> None:
    """Draw (frames,) as a line, or as minimum and maximum per column if it is long."""
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
    """Give a row of axes one range, symmetric about 0, with one set of labels."""
    limits = [abs(limit) for ax in axes if ax.has_data() for limit in ax.dataLim.intervaly]
    top = max([1.0, *limits])
    for index, ax in enumerate(axes):
        ax.set_ylim(-1.08 * top, 1.08 * top)
        ax.tick_params(labelleft=index == 0)


def _power(x: Floats, length: int, bins_of: int, starts: NDArray[np.int64]) -> Floats:
    """Return |DFT|^2 under a Hann window of ``length`` at each start, mean over channels.

    ``x`` (frames, channels), the DFT over ``bins_of`` points; returns (starts, bins).
    """
    window = np.hanning(length + 2)[1:-1]  # its two zeros dropped, so that length may be 1
    cut = np.lib.stride_tricks.sliding_window_view(x, length, axis=0)[starts]
    spectra = np.fft.rfft(cut * window, bins_of)  # (starts, channels, bins)
    return np.asarray(np.mean(np.abs(spectra) ** 2, axis=1), np.float64)


def _welch(x: Floats, sample_rate_hz: int) -> tuple[Floats, Floats]:
    """Return frequency (Hz) and power spectral density (LSB^2 / Hz) of bands of 1/24 octave.

    A band has at least one bin. One-sided, the bin at 0 Hz excluded; both (bands,).
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
