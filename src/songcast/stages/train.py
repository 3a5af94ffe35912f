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
from songcast.training.setup import new_model, songs_to_train_on


def main() -> None:
    """Read params and prepared songs; write models/train and plots/train.csv."""
    import_keras()
    settings = Params.load()
    params = settings.train
    songs = songs_to_train_on(Corpus.open(Path(PREPARED).absolute()), params)
    train_forecaster("train", params, new_model(params, songs), songs, settings=settings)


if __name__ == "__main__":
    run_stage(main, trains=True)
