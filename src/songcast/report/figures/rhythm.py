"""Figure of loudness and beat: does a forecast follow those of the song?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from songcast.evaluation import spectral
from songcast.report.figures import style
from songcast.report.figures.style import Floats, Samples, colour_of, decibels

LOUDNESS_SECONDS = 0.020
FULL_SCALE_POWER = 32768.0**2 / 2  # of a full-scale sine
QUIETEST_DB = -100.0
TEMPO_SECONDS = 2.0  # a shorter passage holds too few beats for a tempo


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """Loudness (windows,) in dB re full-scale sine, onset strength (times,), tempo in BPM."""

    loudness_db: Floats
    onsets: Floats
    hop_seconds: float
    tempo_bpm: float | None


def rhythm_of(passage: Samples, sample_rate_hz: int) -> Rhythm:
    """Measure the mix of the channels of a passage (frames, channels) in LSB.

    Onset strength is that of ``evaluation.spectral``, and the tempo that of its autocorrelation:
    None for a passage that is too short or too even.
    """
    x = passage.astype(np.float64)
    window = max(1, round(LOUDNESS_SECONDS * sample_rate_hz))
    starts = np.arange(0, len(x), window)
    power = np.add.reduceat(np.mean(x**2, axis=1), starts) / np.diff(starts, append=len(x))
    onsets = spectral.onsets(spectral.mono(passage), sample_rate_hz)
    hop = spectral.mel_size(sample_rate_hz) // 2
    return Rhythm(
        loudness_db=np.maximum(decibels(power / FULL_SCALE_POWER), QUIETEST_DB),
        onsets=onsets,
        hop_seconds=hop / sample_rate_hz,
        tempo_bpm=_tempo_bpm(onsets, hop, sample_rate_hz),
    )


@style.styled
def rhythm(original: Samples, forecasts: Mapping[str, Samples], sample_rate_hz: int) -> Figure:
    """Draw loudness and onset strength of a passage and of its forecasts.

    All (frames, channels) in LSB. The title compares the first forecast with the original.
    """
    signals = {"original": original, **forecasts}
    rhythms = {name: rhythm_of(x, sample_rate_hz) for name, x in signals.items()}
    figure, (top, bottom) = style.new_figure(_title(rhythms), 5.0, 2, 1)
    loudness, onsets = top[0], bottom[0]
    for index, (name, measured) in enumerate(rhythms.items()):
        colour = colour_of(name, index - 1) if index else style.PALE
        look: dict[str, Any] = {"color": colour, "linewidth": 1.2 if index else 4.0}
        seconds = (np.arange(len(measured.loudness_db)) + 0.5) * LOUDNESS_SECONDS
        loudness.plot(seconds, measured.loudness_db, label=name, **look)
        times = np.arange(len(measured.onsets)) * measured.hop_seconds
        tempo = "" if measured.tempo_bpm is None else f", {measured.tempo_bpm:.0f} BPM"
        onsets.plot(times, measured.onsets, label=name + tempo, **look)
    loudness.set(ylabel="loudness\n(dB re full-scale sine)")
    onsets.set(ylabel="onset strength (dB)", xlabel="time (s)")
    for ax in (loudness, onsets):
        ax.set_xlim(0, len(original) / sample_rate_hz)
    loudness.tick_params(labelbottom=False)
    style.legend(figure, *onsets.get_legend_handles_labels())
    return figure


def _tempo_bpm(onsets: Floats, hop: int, sample_rate_hz: int) -> float | None:
    import librosa

    if len(onsets) * hop < TEMPO_SECONDS * sample_rate_hz or not onsets.any():
        return None
    tempo = librosa.feature.tempo(onset_envelope=onsets, sr=sample_rate_hz, hop_length=hop)
    return float(tempo[0])


def _title(rhythms: Mapping[str, Rhythm]) -> str:
    """Return how closely the first forecast follows the song."""
    (_, original), (name, forecast), *_ = rhythms.items()
    difference_db = float(np.median(np.abs(original.loudness_db - forecast.loudness_db)))
    title = f"{name}: loudness within {difference_db:.1g} dB of the song (median)"
    if original.onsets.any() and forecast.onsets.any():
        correlation = float(np.corrcoef(original.onsets, forecast.onsets)[0, 1])
        title += f"; onset correlation {correlation:.3f}".replace("-", "−")
    return title
