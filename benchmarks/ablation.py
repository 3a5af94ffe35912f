"""Ablation: the forecaster with one stage removed at a time, on songs that nothing was trained on.

Prints a Markdown table of bits per sample, cold start included: the trained forecaster without
each stage, the training of the network among them. With `--experts`, a second table removes
experts, one by one and chain by chain, from the filter bank and measures the stacking. Run it
after `make run`; for each second of audio it takes about 3 seconds on one core:

    .venv/bin/python benchmarks/ablation.py --seconds 10 song.ogg other.flac
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from songcast.audio.songs import Song, read_song
from songcast.errors import SongcastError
from songcast.files import MODELS, root
from songcast.forecasting.adaptation import ModelAveraging
from songcast.forecasting.distribution import BLOCK_FRAMES, code_lengths
from songcast.forecasting.filter_bank import FilterBank
from songcast.forecasting.filter_bank_settings import FilterBankSettings
from songcast.forecasting.forecaster import forecast_stream
from songcast.forecasting.lstm import LstmForecaster, LstmSession
from songcast.forecasting.stacking import Stacking
from songcast.report.console import note

Row = dict[str, Any]
WHOLE, UNTRAINED = "nothing", "training: the network as initialised"
STAGES = ("match model", "bias stage", "both")


class NoMatch:
    """Replaces the match stage."""

    def candidates(self, *_: Any) -> list[Any]:
        return []


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("songs", nargs="+", type=Path, help="files that no training used")
    parser.add_argument("--model", type=Path, default=root() / MODELS / "train")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each song (10)")
    parser.add_argument("--experts", action="store_true", help="print the second table too")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    arguments = parser.parse_args()
    songs = [beginning(read_song(path), arguments.seconds) for path in arguments.songs]
    stages = list(stage_rows(LstmForecaster.load(arguments.model), songs))
    experts = list(expert_rows(songs)) if arguments.experts else []
    if arguments.json:
        print(json.dumps({"seconds": arguments.seconds, "stages": stages, "experts": experts}))
        return 0
    for rows in filter(None, (stages, experts)):
        print_markdown(rows)
    return 0


def beginning(song: Song, seconds: float) -> Song:
    samples = np.ascontiguousarray(song.samples[: round(seconds * song.sample_rate_hz)])
    return Song(samples=samples, sample_rate_hz=song.sample_rate_hz, name=song.name)


def stage_rows(model: LstmForecaster, songs: Sequence[Song]) -> Iterator[Row]:
    """Yield the mean bits of the whole forecaster, and those without each stage."""
    names = ("correction/kernel", "correction/bias")
    zero = {name: np.zeros_like(model.weights[name]) for name in names}
    untrained = LstmForecaster({**model.weights, **zero}, model.settings, model.front_end)
    results: dict[str, list[float]] = {}
    for song in songs:
        for name, forecaster in ((WHOLE, model), (UNTRAINED, untrained)):
            calibrated, average, stacking = bits_of(without("", forecaster, song), song)
            results.setdefault(name, []).append(calibrated)
            if forecaster is model:
                results.setdefault("calibration", []).append(average)
                results.setdefault("all but filter bank and stacking", []).append(stacking)
        for stage in STAGES:
            session = without(stage, model, song)
            results.setdefault(stage, []).append(bits_of(session, song)[0])
        note(f"{song.name}: {results[WHOLE][-1]:.4f}")
    for name, bits in results.items():
        yield row(name, bits, results[WHOLE])


def without(stage: str, model: LstmForecaster, song: Song) -> LstmSession:
    """Return a session of ``model`` that leaves a stage out."""
    session = model.session(song.channels)
    attributes: Any = session
    if stage in ("match model", "both"):
        attributes._match_stage = NoMatch()
        attributes._averaging = ModelAveraging(song.channels, 3)
    if stage in ("bias stage", "both"):
        attributes._bias_stage._filters = []
    return session


def bits_of(session: LstmSession, song: Song) -> tuple[float, float, float]:
    """Return bits per sample with and without the calibration, and of the stacking alone."""
    sums = np.zeros(3)
    for block, (distribution,) in forecast_stream([session], [song.samples]):
        average = distribution.average  # type: ignore[attr-defined]
        stacking = average.models[-2]
        bits = (
            distribution.bits(block),
            code_lengths(average.mass),
            -np.log2(stacking.mass + 1e-12),
        )
        sums += [float(b.sum()) for b in bits]
    calibrated, plain, alone = (sums / song.samples.size).tolist()
    return calibrated, plain, alone


def expert_rows(songs: Sequence[Song]) -> Iterator[Row]:
    """Yield the mean bits of the stacking, then those without each expert and each chain."""
    bank = FilterBankSettings.wide()
    passages = []
    for song in songs:
        filters = FilterBank(song.channels, bank)
        blocks = [
            filters.predict(song.samples[at : at + BLOCK_FRAMES])
            for at in range(0, song.frames, BLOCK_FRAMES)
        ]
        passages.append((song.samples, np.concatenate(blocks)))
    chain_of = [name.partition(":")[0] for name in bank.names]
    nothing: dict[str, list[int]] = {WHOLE: []}
    parts = nothing | {name: [k] for k, name in enumerate(bank.names)}
    for chain in dict.fromkeys(chain_of):
        parts[f"all of chain {chain}"] = [k for k, c in enumerate(chain_of) if c == chain]
    whole: list[float] = []
    for name, removed in parts.items():
        kept = [k for k in range(len(bank.names)) if k not in removed]
        bits = [combined_bits(x, means[..., kept]) for x, means in passages]
        whole = whole or bits
        yield row(name, bits, whole)


def row(name: str, bits: Sequence[float], whole: Sequence[float]) -> Row:
    """Return the mean of ``bits``, one value per song, and its differences from ``whole``."""
    differences = np.array(bits) - whole
    return {
        "name": name,
        "bits": float(np.mean(bits)),
        "against": float(differences.mean()),
        "least": float(differences.min()),
        "most": float(differences.max()),
    }


def combined_bits(samples: Any, means: Any) -> float:
    """Return the mean code length of ``samples`` with these experts."""
    stacking = Stacking(samples.shape[1], means.shape[-1])
    mixture = stacking.combine(samples, np.ascontiguousarray(means)).mixture
    return float(mixture.bits(samples).mean())


def print_markdown(rows: Sequence[Row]) -> None:
    print("\n| removed | bits per sample | difference | least | most |\n|---|--:|--:|--:|--:|")
    for entry in rows:
        parts = [f"{entry[key]:+.4f}" for key in ("against", "least", "most")]
        print(f"| {entry['name']} | {entry['bits']:.4f} | {' | '.join(parts)} |")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as error:
        sys.exit(f"ablation: {error}")
