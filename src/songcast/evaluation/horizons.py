"""The horizons that continuations are measured at, and the names their measures have in MLflow."""

from collections.abc import Mapping
from typing import Any

# The key in metrics/evaluation.json, and there the name of the model among its rivals.
CONTINUATION = "continuation"
HORIZONS_SECONDS = ((0.0, 0.1), (0.1, 1.0), (1.0, 5.0), (5.0, 10.0))


def metrics_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the means as MLflow metrics: continuation/NAME/MEASURE/0-0.1s."""
    entry = evaluation.get(CONTINUATION, {})
    horizons = [f"{start:g}-{stop:g}s" for start, stop in entry.get("horizons_seconds", [])]
    return {
        f"{CONTINUATION}/{name}/{measure}/{horizon}": value
        for name, found in entry.get("summary", {}).items()
        for measure, values in found.items()
        for horizon, value in zip(horizons, values, strict=True)
        if value is not None
    }
