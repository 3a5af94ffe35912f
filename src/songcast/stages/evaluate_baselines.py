"""Stage evaluate_baselines: every baseline on every song's held-out passage.

Run as ``python -m songcast.stages.evaluate_baselines``. Writes evaluated/: the measures, and the
tracks for listening as FLAC. The stage evaluate merges them into its own outputs.
"""

import shutil
from pathlib import Path

from songcast.config import Params
from songcast.data.corpus import Corpus
from songcast.files import EVALUATED, MODELS, PREPARED, write_json
from songcast.forecasting.loading import BASELINES
from songcast.stages import run_stage
from songcast.stages.evaluate import BASELINES_FILE, evaluate_forecasters


def main() -> None:
    """Read the bundles of the baselines and prepared songs; write measures and tracks."""
    settings = Params.load()
    folder = Path(EVALUATED)
    shutil.rmtree(folder, ignore_errors=True)
    measures = evaluate_forecasters(
        BASELINES,
        Path(MODELS).absolute(),
        Corpus.open(Path(PREPARED).absolute()),
        folder,
        settings.evaluate,
        settings.engine,
        ".flac",
    )
    write_json(folder / BASELINES_FILE, measures)


if __name__ == "__main__":
    run_stage(main)
