"""The notebook's model with ReLU and with LeakyReLU, everything else equal.

Both are trained by the function of the pipeline on the training passages of the prepared songs
and measured on the held-out passages. Run it in the repository after `make run`:

    .venv/bin/python benchmarks/activations.py
"""

import argparse
import json
import sys
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from songcast.data.corpus import TEST, TRAIN, Corpus
from songcast.errors import SongcastError
from songcast.files import PREPARED, root
from songcast.forecasting.forecaster import Forecaster
from songcast.forecasting.keras_backend import import_keras
from songcast.forecasting.notebook import Activation, fit_notebook
from songcast.report.console import note, number, print_table

ACTIVATIONS: tuple[Activation, ...] = ("relu", "leaky_relu")
Measures = dict[str, Any]
COLUMNS = ["song", *ACTIVATIONS, "ratio of RMS errors"]


def main() -> int:
    arguments = parse_arguments()
    import_keras()
    from songcast.evaluation.forecasts import measure_passages

    corpus = Corpus.open(root() / PREPARED)
    passages = [song.passage(TRAIN).samples for song in corpus if TRAIN in song.splits]
    models: dict[str, Forecaster] = {}
    for activation in ACTIVATIONS:
        models[activation] = train(activation, passages, arguments)
    songs: dict[str, dict[str, Measures]] = {}
    for song in corpus:
        songs[song.slug] = measure_passages(models, song.song(), [(0, *song.splits[TEST])])
        note(song.slug)
    gains = {slug: {name: mean_gain_db(m) for name, m in by.items()} for slug, by in songs.items()}
    gains["mean"] = {name: fmean([g[name] for g in gains.values()]) for name in ACTIVATIONS}
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "gain_db": gains, "songs": songs}))
        return 0
    print(f"look_back {arguments.look_back}, {arguments.epochs} epochs of {arguments.windows}")
    print("windows; prediction gain in dB on held-out passages, mean over channels")
    print_table(COLUMNS, [row(slug, by) for slug, by in gains.items()])
    return 0


def train(
    activation: Activation, passages: list[NDArray[np.int16]], arguments: argparse.Namespace
) -> Forecaster:
    """Train the model with one activation."""

    def on_epoch(epoch: int, loss: float) -> None:
        note(f"{activation}: epoch {epoch + 1} of {arguments.epochs}, loss {loss:.2e}")

    return fit_notebook(
        passages,
        look_back=arguments.look_back,
        activation=activation,
        epochs=arguments.epochs,
        windows_per_epoch=arguments.windows,
        seed=arguments.seed,
        on_epoch=on_epoch,
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--epochs", type=int, default=20, help="20, as in the notebook, by default")
    parser.add_argument("--windows", type=int, default=100_000, help="windows per epoch")
    parser.add_argument("--look-back", type=int, default=3, help="past samples (default: 3)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def mean_gain_db(measures: Measures) -> float:
    """Mean over the channels of one song; 0 if no channel has a gain."""
    known = [gain for gain in measures["prediction_gain_db"] if gain is not None]
    return fmean(known) if known else 0.0


def row(name: str, gains: dict[str, float]) -> list[str]:
    """Both gains of one song, and the ratio of the RMS errors, ReLU / LeakyReLU."""
    relu, leaky = (gains[activation] for activation in ACTIVATIONS)
    smaller = 10.0 ** ((leaky - relu) / 20.0)
    return [name, number(relu, 2), number(leaky, 2), number(smaller, 1)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as mistake:
        sys.exit(f"activations: {mistake}")
