"""Stage train: the multi-song LSTM, from scratch, on all songs at once.

Run as ``python -m songcast.stages.train``. Stopped in any way, it goes on from its last epoch.
"""

from collections.abc import Sequence
from pathlib import Path

from songcast.config import Params, TrainParams
from songcast.data.corpus import TRAIN, Corpus, PreparedSong
from songcast.files import PREPARED
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.lstm import LstmForecaster
from songcast.stages import run_stage
from songcast.stages.fitting import Job, fit_and_log, select_songs
from songcast.training.fingerprint import fingerprint

# The penalty of a ridge front end, for samples scaled to [-1, 1).
RIDGE_ALPHA = 1e-6


def main() -> None:
    """Read params and prepared songs; write models/train and plots/train.csv."""
    import_keras()
    settings = Params.load()
    params = settings.train
    corpus = Corpus.open(Path(PREPARED).absolute())
    left_out = {song.slug for song in select_songs(corpus, params.exclude)}
    songs = [song for song in corpus if song.slug not in left_out]
    job = Job(
        stage="train",
        params=params,
        songs=songs,
        fingerprint=fingerprint(params.model_dump(mode="json"), songs),
        details={"sample_rate_hz": corpus.sample_rate_hz, "channels": 2},
        engine=settings.engine,
        workers=settings.workers,
    )
    fit_and_log(job, new_model(params, songs))


def new_model(params: TrainParams, songs: Sequence[PreparedSong]) -> LstmForecaster:
    """Return the untrained model of these params; its output is the front end's.

    A ridge front end is fitted on the songs' train passages.
    """
    import keras

    from songcast.forecasting.filter_bank_settings import FilterBankSettings
    from songcast.forecasting.network import NetworkSettings, build_network
    from songcast.forecasting.ridge import Ridge
    from songcast.forecasting.stacking import Stacking

    keras.utils.set_random_seed(params.seed)
    taps = None
    if params.front_end == "ridge":
        passages = (song.passage(TRAIN).samples for song in songs if TRAIN in song.splits)
        taps = Ridge.fit(passages, params.look_back, RIDGE_ALPHA).taps
    experts = FilterBankSettings.wide() if params.filter_bank == "wide" else FilterBankSettings()
    front_end = FrontEndSettings(kind=params.front_end, filter_bank=experts, taps=taps)
    settings = NetworkSettings(
        experts=len(front_end.expert_names),
        mixtures=Stacking.components,
        look_back=params.look_back,
        step_frames=params.step_frames,
        units=params.units,
        layers=params.layers,
        head_units=params.head_units,
        activation=params.activation,
        negative_slope=params.negative_slope,
    )
    return LstmForecaster(build_network(settings), settings, front_end)


if __name__ == "__main__":
    run_stage(main)
