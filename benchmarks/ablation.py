"""Ablation: the forecaster with one part removed or changed at a time.

Prints two Markdown tables of bits per sample. The first one removes experts, one by one and chain
by chain, from the filter bank of the network and measures the stacking on the beginning of every
prepared song. The second one trains the network for each row, briefly, on all songs but the last
three, and measures it on the validation passages of these songs and of the last three. Run it in
the repository after `make run`; it takes half an hour on one core:

    .venv/bin/python benchmarks/ablation.py

With `--steps` set to epochs x steps_per_epoch, each row trains as long as `make run` does.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from songcast.config import Params, TrainParams
from songcast.data.corpus import Corpus, PreparedSong
from songcast.errors import SongcastError
from songcast.files import FEATURES, PARAMS, PREPARED, root
from songcast.forecasting.keras_backend import import_keras
from songcast.report.console import note

OTHERS = 3
Row = dict[str, Any]
# Name of the row, changes to the train section of params.yaml, whether the network is recurrent.
CHANGES: tuple[tuple[str, dict[str, Any], bool], ...] = (
    ("unchanged", {}, True),
    ("front end: the cascade's 13 experts", {"filter_bank": "cascade"}, True),
    ("front end: ridge", {"front_end": "ridge"}, True),
    ("front end: none", {"front_end": "none"}, True),
    ("recurrence off", {}, False),
    ("ReLU instead of LeakyReLU", {"negative_slope": 0.0}, True),
    ("look_back 3", {"look_back": 3}, True),
    ("look_back 16", {"look_back": 16}, True),
    ("look_back 64", {"look_back": 64}, True),
    ("no augmentations of songs", {"augmentations": 0}, True),
)


def main() -> int:
    arguments = parse_arguments()
    import_keras()
    params = Params.load(root() / PARAMS).train
    songs = list(Corpus.open(root() / PREPARED))
    experts = list(expert_rows(songs, arguments.seconds))
    network = list(network_rows(params, songs, arguments.steps))
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "experts": experts, "network": network}))
        return 0
    print_markdown(["without", "bits per sample", "worse by"], experts)
    print_markdown(["changed", "known songs", "against all", "other songs", "against all"], network)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=150, help="training steps of each row (150)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each song, first table (4)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def expert_rows(songs: Sequence[PreparedSong], seconds: float) -> Iterator[Row]:
    """Yield the mean bits of the stacking, then those without each expert and each chain."""
    from songcast.forecasting.filter_bank import FilterBank
    from songcast.forecasting.filter_bank_settings import FilterBankSettings

    bank = FilterBankSettings.wide()
    passages = []
    for song in songs:
        samples = np.ascontiguousarray(song.samples[: round(seconds * song.sample_rate_hz)])
        passages.append((samples, FilterBank(song.channels, bank).predict(samples)))
        note(f"filter bank: {song.slug}")
    chain_of = [name.partition(":")[0] for name in bank.names]
    nothing: dict[str, list[int]] = {"nothing": []}
    parts = nothing | {name: [k] for k, name in enumerate(bank.names)}
    for chain in dict.fromkeys(chain_of):
        parts[f"all of chain {chain}"] = [k for k, c in enumerate(chain_of) if c == chain]
    whole = None
    for name, removed in parts.items():
        kept = [k for k in range(len(bank.names)) if k not in removed]
        bits = float(np.mean([combined_bits(x, means[..., kept]) for x, means in passages]))
        whole = bits if whole is None else whole
        note(f"without {name}: {bits:.4f}")
        yield {"name": name, "bits": bits, "against": bits - whole}


def combined_bits(samples: Any, means: Any) -> float:
    """Return the mean code length of ``samples`` with these experts."""
    from songcast.forecasting.stacking import Stacking

    stacking = Stacking(samples.shape[1], means.shape[-1])
    mixture = stacking.combine(samples, np.ascontiguousarray(means)).mixture
    return float(mixture.bits(samples).mean())


def network_rows(params: TrainParams, songs: Sequence[PreparedSong], steps: int) -> Iterator[Row]:
    """Train and measure each of ``CHANGES``, then on one song, then without training."""
    known, others = songs[:-OTHERS], songs[-OTHERS:]
    recipe = {"epochs": 1, "steps_per_epoch": steps}
    first: Row = {}
    for name, change, recurrent in CHANGES:
        changed = params.model_copy(update={**recipe, **change})
        row = train_and_measure(changed, known, known, others, recurrent=recurrent)
        first = first or row
        yield labelled(name, row, first)
    one = params.model_copy(update=recipe)
    row = train_and_measure(one, known[:1], known, others, recurrent=True)
    yield labelled(f"one song ({known[0].slug})", row, first)
    untrained = params.model_copy(update={"steps_per_epoch": 0})
    row = train_and_measure(untrained, known, known, others, recurrent=True)
    yield labelled("untrained: the stacking alone", row, first)


def labelled(name: str, row: Row, first: Row) -> Row:
    note(f"{name}: {row}")
    against = {f"{key}_against": row[key] - first[key] for key in ("known", "other")}
    return {"name": name, **row, **against}


def train_and_measure(
    params: TrainParams,
    training: Sequence[PreparedSong],
    known: Sequence[PreparedSong],
    others: Sequence[PreparedSong],
    *,
    recurrent: bool,
) -> Row:
    """Train on ``training``; return the mean bits of the validation passages of both groups."""
    from songcast.forecasting.network import network_of
    from songcast.training.batches import CropSampler
    from songcast.training.checkpoint import Checkpoint
    from songcast.training.feature_cache import open_features
    from songcast.training.forecaster import fit_forecaster
    from songcast.training.setup import fit_settings, new_model
    from songcast.training.validation import song_bits

    model = new_model(params, training)
    network = network_of(model.settings, model.weights)
    network = network if recurrent else without_recurrence(network)

    def opened(songs: Sequence[PreparedSong], augmentations: int) -> list[Any]:
        return open_features(
            songs,
            model.front_end,
            params.step_frames,
            root() / FEATURES,
            augmentations=augmentations,
            augmentation_seconds=params.augmentation_seconds,
        )

    sampler = CropSampler(
        opened(training, params.augmentations),
        batch_size=params.batch_size,
        frames=params.crop_frames,
        look_back=params.look_back,
        seed=params.seed,
    )
    measured = {"known": opened(known, 0), "other": opened(others, 0)}
    if params.steps_per_epoch:
        with tempfile.TemporaryDirectory() as scratch:
            checkpoint = Checkpoint(Path(scratch), "ablation")
            # One epoch: the weights are the moving average at its end.
            fit_forecaster(
                network, sampler, measured["known"], fit_settings(params), checkpoint, quiet
            )
    return {name: float(np.mean(song_bits(network, songs))) for name, songs in measured.items()}


def without_recurrence(network: Any) -> Any:
    """Return the network with each LSTM replaced by a dense layer with tanh."""
    import keras

    class Dense(keras.layers.Layer):
        def __init__(self, units: int, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.dense = keras.layers.Dense(units, activation="tanh")

        def call(self, x: Any, initial_state: Any) -> Any:
            return self.dense(x), *initial_state

    def replace(layer: Any) -> Any:
        if isinstance(layer, keras.layers.LSTM):
            return Dense(layer.units, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    return keras.models.clone_model(network, clone_function=replace)


def quiet(epoch: int, row: dict[str, float]) -> None:
    """Print nothing after the only epoch."""


def print_markdown(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Print a table; differences carry a sign."""
    print("| " + " | ".join(columns) + " |")
    print("|---|" + "--:|" * (len(columns) - 1))
    for row in rows:
        keys = ("bits", "against", "known", "known_against", "other", "other_against")
        cells = [
            f"{row[key]:+.4f}" if key.endswith("against") else f"{row[key]:.4f}"
            for key in keys
            if key in row
        ]
        print(f"| {row['name']} | " + " | ".join(cells) + " |")
    print()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as mistake:
        sys.exit(f"ablation: {mistake}")
