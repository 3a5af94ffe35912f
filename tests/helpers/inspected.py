"""What a file is measured as."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.reading import open_song
from songcast.inspection.report import InspectionMeter


def inspect_song(path: Path) -> tuple[dict[str, Any], NDArray[np.uint32]]:
    """Return the entry of a file in the data report, and its fingerprint."""
    with open_song(path) as reader, InspectionMeter(reader) as meter:
        for _ in meter.measured(reader.blocks()):
            pass
        return meter.result()
