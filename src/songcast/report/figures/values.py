"""Levels in dB, and numbers as text for titles."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.forecasting.metrics import prediction_gain_db

Samples = NDArray[Any]
Floats = NDArray[np.float64]


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
