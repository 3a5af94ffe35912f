"""From params and prepared songs to what a training needs: songs, model, crops."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from songcast.config import FitParams, TrainParams
from songcast.data.corpus import TRAIN, WHOLE, Budget, Corpus, PreparedSong
from songcast.forecasting.filter_bank_settings import FilterBankSettings
from songcast.forecasting.front_end import FrontEndSettings
from songcast.forecasting.lstm import LstmForecaster
from songcast.forecasting.ridge import Taps
from songcast.training import feature_cache
from songcast.training.batches import CropSampler
from songcast.training.feature_cache import budgeted, song_features

# The modules that train a forecaster: a checkpoint depends on their code.
CODE = ("songcast.training.setup", "songcast.training.forecaster", *feature_cache.CODE)
log = logging.getLogger("songcast.train")
# The penalty of a ridge front end, for samples scaled to [-1, 1).
RIDGE_ALPHA = 1e-6


def select_songs(corpus: Corpus, names: Sequence[str], key: str) -> list[PreparedSong]:
    """Return the songs with these slugs or file names.

    Warns about names that no song has: the defaults of params.yaml name demo songs, which another
    collection lacks. ``key``: of params.yaml, for the warning.
    """
    by_name = {name: song for song in corpus for name in (song.slug, song.source)}
    missing = [name for name in names if name not in by_name]
    if missing:
        log.warning("params.yaml: %s: not in data/, ignored: %s", key, ", ".join(missing))
    return [by_name[name] for name in names if name in by_name]


def songs_to_train_on(corpus: Corpus, params: TrainParams) -> list[PreparedSong]:
    """Return all songs but the excluded ones."""
    excluded = {song.slug for song in select_songs(corpus, params.exclude, "train.exclude")}
    return [song for song in corpus if song.slug not in excluded]


def front_end_settings(params: TrainParams, taps: Taps | None = None) -> FrontEndSettings:
    """Return the front end of a model; ``taps``: of a ridge front end."""
    wide = params.filter_bank == "wide"
    filter_bank = FilterBankSettings.wide() if wide else FilterBankSettings()
    return FrontEndSettings(kind=params.front_end, filter_bank=filter_bank, taps=taps)


def new_model(params: TrainParams, songs: Sequence[PreparedSong]) -> LstmForecaster:
    """Return the untrained model of these params; its forecast is that of the front end.

    A ridge front end is fitted to the songs' train passages.
    """
    import keras

    from songcast.forecasting.network import build_network, network_weights
    from songcast.forecasting.network_engine import NetworkSettings
    from songcast.forecasting.ridge import Ridge

    keras.utils.set_random_seed(params.seed)
    taps = None
    if params.front_end == "ridge":
        passages = (song.passage(TRAIN).samples for song in songs if TRAIN in song.splits)
        taps = Ridge.fit(passages, params.look_back, RIDGE_ALPHA).taps
    front_end = front_end_settings(params, taps)
    settings = NetworkSettings(
        experts=len(front_end.expert_names),
        look_back=params.look_back,
        step_frames=params.step_frames,
        units=params.units,
        layers=params.layers,
        head_units=params.head_units,
        negative_slope=params.negative_slope,
    )
    return LstmForecaster(network_weights(build_network(settings)), settings, front_end)


def replay_shares(
    songs: Sequence[PreparedSong],
    new: Sequence[PreparedSong],
    replay_share: float,
    budget: Budget = WHOLE,
) -> dict[str, float]:
    """Return how often to draw each song, by slug, so that old ones get ``replay_share``.

    Among the old and among the new songs, every frame to learn from has the same weight.
    """
    fresh = {song.slug for song in new}
    frames = {True: 0, False: 0}
    for song in songs:
        if TRAIN in song.splits:
            spans = budgeted(song, budget)[TRAIN]
            frames[song.slug in fresh] += sum(b - a for _, a, b in spans) * song.channels
    if not (frames[False] and frames[True]):
        return {song.slug: 1.0 for song in songs}
    weight = {True: (1.0 - replay_share) / frames[True], False: replay_share / frames[False]}
    return {song.slug: weight[song.slug in fresh] for song in songs}


def open_crops(
    songs: Sequence[PreparedSong],
    model: LstmForecaster,
    params: FitParams,
    folder: Path,
    shares: Mapping[str, float] | None = None,
) -> CropSampler:
    """Return a sampler of crops from the features of ``songs``, in ``folder``.

    They are not computed yet. ``shares``: how often each song is drawn, by slug; 1 for a song that
    it does not name.
    """
    step_frames, budget = model.settings.step_frames, Budget.of(params)
    features = song_features(songs, model.front_end, step_frames, folder, budget=budget)
    return CropSampler(
        features,
        batch_size=params.batch_size,
        frames=params.crop_frames,
        look_back=model.settings.look_back,
        seed=params.seed,
        shares=[(shares or {}).get(song.slug.partition("+")[0], 1.0) for song in features],
    )
