"""Stage train: train the LSTM forecaster on all songs, from scratch.

Run as ``python -m songcast.stages.train``. If it is interrupted, it resumes from its last epoch.
"""

from pathlib import Path

from songcast.config import Params
from songcast.data.corpus import Corpus
from songcast.files import PREPARED
from songcast.forecasting.keras_backend import import_keras
from songcast.stages import run_stage
from songcast.stages.forecaster import train_forecaster
from songcast.training.checkpoint import fingerprint
from songcast.training.setup import CODE, new_model, songs_to_train_on


def main() -> None:
    """Read params and prepared songs; write models/train and plots/train.csv."""
    import_keras()
    settings = Params.load()
    params = settings.train
    corpus = Corpus.open(Path(PREPARED).absolute())
    songs = songs_to_train_on(corpus, params)
    train_forecaster(
        "train",
        params,
        new_model(params, songs),
        songs,
        fingerprint=fingerprint(params.model_dump(mode="json"), songs, code=CODE),
        details={"sample_rate_hz": corpus.sample_rate_hz, "channels": 2},
        settings=settings,
    )


if __name__ == "__main__":
    run_stage(main, trains=True)
