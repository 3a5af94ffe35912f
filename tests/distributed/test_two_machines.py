"""Two machines train together: each computes the features that it reads, and gradients are sent."""

import subprocess
import sys

import numpy as np
import pytest
import yaml

from helpers.mlflow_store import use_repository
from helpers.prepare_params import prepare_params
from helpers.small_params import PARAMS, RATE_HZ, REPOSITORY
from songcast.audio.songs import write_song
from songcast.config import Params
from songcast.data.corpus import Corpus
from songcast.forecasting.loading import load_bundle
from songcast.stages.prepare import prepare
from songcast.training.setup import new_model, open_crops

pytest.importorskip("ray")

STEPS, EPOCHS, BATCH_SIZE = 10, 3, 4
SPLITS = {
    "sample_rate_hz": RATE_HZ,
    "train_fraction": 0.6,
    "validation_fraction": 0.2,
    "test_fraction": 0.2,
}
TRAIN = {"steps_per_epoch": STEPS, "epochs": EPOCHS, "batch_size": BATCH_SIZE}


@pytest.fixture
def machines(monkeypatch):
    """The module of the benchmark; skips where network namespaces are not available."""
    monkeypatch.syspath_prepend(REPOSITORY / "benchmarks")
    import two_machines

    try:
        two_machines.ip("netns", "add", "songcast-probe")
        two_machines.ip("netns", "del", "songcast-probe")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces: {error}")
    return two_machines


@pytest.mark.slow
@pytest.mark.timeout(1800)  # on a busy machine
def test_two_machines_train_the_same_weights_and_each_has_the_features_of_its_songs(
    machines, make_song, tmp_path, monkeypatch
):
    homes = {}
    for engine, workers in (("local", 1), ("ray", 2)):
        home = homes[engine] = use_repository(tmp_path / engine, monkeypatch)
        (home / "data").mkdir()
        (home / "features").mkdir()
        for number in range(5):  # the third one is on the border of two shares
            song = make_song(30_000, 1 + number % 2, RATE_HZ, seed=number)
            write_song(song, home / "data" / f"song{number}.wav")
        prepare(home / "data", home / "prepared", prepare_params(**SPLITS))
        changed = {"engine": engine, "workers": workers, "train": {**PARAMS["train"], **TRAIN}}
        (home / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **changed}))
    # The stages take the folder that they run in.
    monkeypatch.delenv("DVC_ROOT")
    alone, shared = homes["local"], homes["ray"]
    with machines.two_machines(tmp_path, shared / "features") as (first, second):
        counts = machines.train(first, shared)
        features = [machines.sizes(shared / "features"), second.features()]
    subprocess.run([sys.executable, "-m", "songcast.stages.train"], cwd=alone, check=True)
    weights, results = (load_bundle(home / "models" / "train").weights for home in (alone, shared))
    assert results.keys() == weights.keys()
    for name in weights:
        np.testing.assert_allclose(results[name], weights[name], atol=1e-3)

    params = Params.load(shared / "params.yaml").train
    songs = list(Corpus.open(shared / "prepared"))
    sampler = open_crops(songs, new_model(params, songs), params, tmp_path)
    shares = [{song.folder.name for song in sampler.share(rank, 2)[0]} for rank in (0, 1)]
    computed = [set(names) for names in features]
    assert computed in (shares, shares[::-1])
    assert len(computed[0] & computed[1]) == 1
    everything = machines.sizes(alone / "features")
    assert computed[0] | computed[1] == everything.keys()
    assert {**features[0], **features[1]} == everything

    # Per step, each machine sends its half of the sum of the gradients and then of the mean.
    gradients = 2 * 4 * sum(array.size for array in weights.values())
    epochs = np.diff(counts[1:-1])
    assert len(epochs) == EPOCHS - 1
    assert np.all(epochs > STEPS * gradients)
    # The rest of a step does not depend on the songs: answers and headers.
    assert np.all(epochs < STEPS * (gradients + 20_000) + 200_000)
