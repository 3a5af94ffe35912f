"""The results of the stages as tables: metrics/evaluation.json and metrics/data.json."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from songcast.errors import RegistryError
from songcast.files import METRICS
from songcast.report.console import BEST, MISSING, duration, number

EVALUATION = f"{METRICS}/evaluation.json"
COLUMNS = ("forecaster", "prediction gain, dB", "bits per sample", "lag, samples")
# Columns of the data report: key of the entry of a song, digits.
PROPERTIES = {
    "peak dB": ("peak_dbfs", 1),
    "LUFS": ("loudness_lufs", 1),
    "clipped %": ("clipped_share", 3),
    "silent %": ("silent_share", 1),
    "bandwidth Hz": ("bandwidth_hz", 0),
    "low-pass Hz": ("low_pass_hz", 0),
    "bits": ("effective_bits", 1),
    "dropouts": ("dropouts", 0),
}
PROPERTY_COLUMNS = ("sound", "duration", *PROPERTIES)

Measures = Mapping[str, Mapping[str, Any]]  # forecaster: its entry in metrics/evaluation.json


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read metrics/evaluation.json. Raises ``RegistryError`` where it is missing or broken."""
    try:
        content = json.loads(path.read_text())
        summary = content["summary"]
        if summary and all(isinstance(entry, dict) for entry in summary.values()):
            return dict(content)
    except FileNotFoundError:
        raise RegistryError(f"{path}: missing: run `dvc repro evaluate` first") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise RegistryError(f"{path}: not an evaluation: run `dvc repro evaluate`")


def mean_gain_db(measures: Mapping[str, Any]) -> float:
    """Return the prediction gain, averaged over channels that are not silent; NaN if all are."""
    return mean_of(measures.get("prediction_gain_db"))


def mean_of(value: Any) -> float:
    """Return a number, or the mean of the numbers in a list that are not None; NaN if all are."""
    known = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
    return math.fsum(known) / len(known) if known else math.nan


def bits_per_sample(measures: Mapping[str, Any]) -> float:
    """Return bits per sample, NaN where they were not finite (JSON has null for it)."""
    bits = measures.get("bits_per_sample")
    return math.nan if bits is None else float(bits)


def best_of(measures: Measures, names: Iterable[str]) -> str:
    """Return the one of ``names`` with the fewest bits per sample; NaN counts as the most."""
    bits = {name: bits_per_sample(measures[name]) for name in names}
    return min(bits, key=lambda name: (math.isnan(bits[name]), bits[name]))


def result_rows(measures: Measures) -> list[list[str]]:
    """Return the cells of ``COLUMNS`` for each forecaster; the best cells start with ``BEST``.

    >>> result_rows({"ridge": {"prediction_gain_db": [20.0, 30.0], "bits_per_sample": 9.0}})
    [['ridge', '* 25.00', '* 9.0000', '-']]
    """
    gains = {name: mean_gain_db(entry) for name, entry in measures.items()}
    bits = {name: bits_per_sample(entry) for name, entry in measures.items()}
    most = max((gain for gain in gains.values() if gain == gain), default=None)
    fewest = min((b for b in bits.values() if b == b), default=None)
    return [
        [
            name,
            (BEST if gains[name] == most else "") + number(gains[name], 2),
            (BEST if bits[name] == fewest else "") + number(bits[name], 4),
            _largest_lag(entry.get("lag_samples")),
        ]
        for name, entry in measures.items()
    ]


def property_cells(entry: Mapping[str, Any]) -> list[str]:
    """Return the cells of ``PROPERTY_COLUMNS`` for a song of the data report."""
    sound = f"{entry['sample_rate_hz']} Hz, {entry['channel_relation']}"
    cells = [sound, duration(entry["seconds"])]
    for key, digits in PROPERTIES.values():
        percent = 100 if key.endswith("share") else 1
        cells.append(number(entry[key] and entry[key] * percent, digits))
    return cells


def retraining_line(entry: Mapping[str, Any]) -> str:
    """Return the key ``retraining`` of metrics/evaluation.json in words.

    >>> retraining_line({"new_songs": ["a"], "new_songs_gain_bits": 0.02,
    ...                  "old_songs_gain_bits": -0.001})
    'retraining saves 0.0200 bits per sample on 1 new song and loses 0.0010 on the old ones'
    """

    def change(gain: float) -> str:
        return f"{'saves' if gain >= 0 else 'loses'} {abs(gain):.4f}"

    count = len(entry["new_songs"])
    songs = f"{count} new song{'s' if count != 1 else ''}"
    line = f"retraining {change(entry['new_songs_gain_bits'])} bits per sample on {songs}"
    old = entry["old_songs_gain_bits"]
    return line if old is None else f"{line} and {change(old)} on the old ones"


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a markdown table: words in the first column, numbers in the others, best in bold.

    >>> print(markdown_table(["song", "bits per sample"], [["a", "* 9.0000"], ["b", "9.5000"]]))
    | song | bits per sample |
    |---|--:|
    | a | **9.0000** |
    | b | 9.5000 |
    """

    def cell(text: str) -> str:
        return f"**{text.removeprefix(BEST)}**" if text.startswith(BEST) else text

    lines = [f"| {' | '.join(map(cell, row))} |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|---|" + "--:|" * (len(columns) - 1), *lines[1:]])


def _largest_lag(lags: int | Sequence[int] | None) -> str:
    if lags is None:
        return MISSING
    return str(max(lags, key=abs, default=0) if isinstance(lags, Sequence) else lags)
