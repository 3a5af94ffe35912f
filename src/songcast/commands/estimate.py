"""`songcast estimate`: songs, hours of music, CPU time and disk of each stage before it runs."""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from songcast import files
from songcast.audio.reading import open_song
from songcast.config import FitParams, Params
from songcast.data.corpus import VALIDATION, Budget, PreparedSong, read_index, usable_frames
from songcast.data.digests import digests_of
from songcast.data.slugs import slugs
from songcast.distributed.engine import free_cores
from songcast.errors import AudioError, CorpusError
from songcast.evaluation.songs import held_out
from songcast.files import CHECKPOINTS, DATA, FEATURES, PREPARED
from songcast.report.console import note, print_json, print_table
from songcast.stages import ESTIMATES
from songcast.stages.prepare import find_songs, splits_of
from songcast.training.continuation import LONGEST_SECONDS
from songcast.training.feature_cache import (
    BYTES_PER_SAMPLE,
    SongFeatures,
    budgeted,
    song_features,
    training_frames,
)
from songcast.training.setup import front_end_settings

# CPU seconds per second of stereo music, on a core that needs REFERENCE_SECONDS in `measure_speed`.
DECODE, BANK, NETWORK, CASCADE, NOTEBOOK, SIMPLE = 0.012, 0.64, 0.42, 0.35, 0.75, 0.12
# The continuation's training cuts each song and its augmented copies; ridge is fitted; two networks
# are validated by retrain.
CUTS, RIDGE, VALIDATED = 0.05, 0.035, 3.0
# A core that runs `measure_speed` twice as fast runs the stages 1.8 times as fast: the exponent.
REFERENCE_SECONDS, SPEED_EXPONENT = 0.0115, 0.85
# CPU seconds: of a start of TensorFlow or Matplotlib, of a song's figures and continuations, per
# million samples and windows that train and the notebook learn from, per step of continuation.
START, FIGURES, CONTINUATIONS, SAMPLES, WINDOWS, LEVELS = 12.0, 6.0, 8.0, 4.7, 60.0, 0.36
# A song's WAVs and figures and their copies in MLflow; a new song of unknown length is guessed
# from its size.
SONG_BYTES, GUESSED_BYTES_PER_SECOND = 15e6, 16_000
# Estimates differ from the truth by up to this share: less free disk than that is a warning.
MARGIN = 1.3
# From `dvc status`: the reason of a stage that always runs, the state of a missing file.
ALWAYS, MISSING = "always changed", "deleted"
# In the order in which they run.
STAGES = (
    *("prepare", "baselines", "continuation", "train", "retrain"),
    *("evaluate_baselines", "evaluate", "report", "register"),
)


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """The cost of a stage: ``seconds`` of music that it processes, CPU seconds, bytes of disk."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    disk_bytes: float = 0.0


def run(arguments: argparse.Namespace) -> None:
    """Print the estimate. Raises ``CorpusError`` without songs, ``ParamsError``."""
    root = files.root()
    params = Params.load(root / files.PARAMS)
    songs, new = songs_of(root, params)
    kept = _read(root / ESTIMATES)
    speed = kept.get("speed_seconds") or measure_speed()
    stages = outdated(root)
    costs = stage_costs(root, params, songs, new, stages)
    slowness = (speed / REFERENCE_SECONDS) ** SPEED_EXPONENT
    factor = {name: kept.get("factors", {}).get(name, 1.0) for name in costs}
    costs = {
        name: StageCost(
            seconds=cost.seconds,
            cpu_seconds=cost.cpu_seconds * slowness * factor[name],
            disk_bytes=cost.disk_bytes,
        )
        for name, cost in costs.items()
    }
    expected = {name: cost.cpu_seconds / factor[name] for name, cost in costs.items()}
    record = {**kept, "speed_seconds": speed, "expected": expected}
    files.write_json(root / ESTIMATES, record)
    total = StageCost(
        cpu_seconds=sum(cost.cpu_seconds for cost in costs.values()),
        disk_bytes=sum(cost.disk_bytes for cost in costs.values()),
    )
    hours = sum(song.frames / song.sample_rate_hz for song in songs) / 3600
    free, cores = shutil.disk_usage(root).free, free_cores()
    if arguments.json:
        document: dict[str, Any] = {
            "songs": len(songs),
            "new_songs": len(new),
            "hours": hours,
            "cores": cores,
        }
        document |= {"stages": {name: asdict(cost) for name, cost in costs.items()}}
        document |= {"cpu_seconds": total.cpu_seconds, "disk_bytes": total.disk_bytes}
        print_json({**document, "free_disk_bytes": free})
    else:
        print(f"{len(songs)} songs ({len(new)} new), {hours:.2f} hours of music, {cores} cores")
        if not costs:
            print("all stages are up to date")
            return
        rows = [
            [name, f"{c.seconds:.0f}", f"{c.cpu_seconds:.0f}", f"{c.disk_bytes / 1e6:.0f}"]
            for name, c in {**costs, "all": total}.items()
        ]
        rows[-1][1] = ""
        print_table(["stage", "seconds of music", "CPU s", "MB of disk"], rows)
        minutes = total.cpu_seconds / 60
        print(f"about {minutes / cores:.0f} to {minutes:.0f} minutes, {free / 1e9:.1f} GB are free")
    if total.disk_bytes * MARGIN > free:
        needed, have = total.disk_bytes / 1e9, free / 1e9
        note(f"warning: {root}: needs {needed:.1f} GB of disk, and {have:.1f} GB are free")


def songs_of(root: Path, params: Params) -> tuple[list[PreparedSong], set[str]]:
    """Return the songs in data/ with their splits, and the slugs of those that are not prepared.

    The length of a new song is that of its header, or guessed from its last page or its size.
    """
    sources, problems = find_songs(root / DATA)
    if problems:
        raise AudioError(problems[0])
    try:
        known = {song.sha256: song for song in read_index(root / PREPARED)[1]}
    except CorpusError:
        known = {}
    digests = digests_of(sources, root / CHECKPOINTS / "digests.json")
    names = slugs(source.name for source in sources)
    rate = params.prepare.sample_rate_hz
    songs, new = [], set()
    for source, digest in zip(sources, digests, strict=True):
        song = known.get(digest)
        if song is None or song.sample_rate_hz != rate:
            with open_song(source) as reader:
                seconds = reader.declared_seconds or _guessed_seconds(source, reader.sample_rate_hz)
                channels = reader.channels
            song = PreparedSong(
                slug=names[source.name],
                source=source.name,
                sha256=digest,
                source_sample_rate_hz=0,
                sample_rate_hz=rate,
                frames=max(round(seconds * rate), 1),
                channels=channels,
                peak=0,
                splits={},
                path=root / PREPARED / f"{names[source.name]}.npy",
            )
            new.add(song.slug)
        songs.append(replace(song, splits=splits_of(song, params.prepare)))
    return songs, new


def _guessed_seconds(source: Path, sample_rate_hz: int) -> float:
    """Return the length of a song without one in its header, roughly."""
    with source.open("rb") as file:
        file.seek(max(source.stat().st_size - 65536, 0))
        head, _, page = file.read().rpartition(b"OggS")
    frames = int.from_bytes(page[2:10], "little") if head else 0
    if 0 < frames < 1 << 40:  # the last page of an Ogg file has its length
        return frames / sample_rate_hz
    return source.stat().st_size / GUESSED_BYTES_PER_SECOND


def stage_costs(
    root: Path, params: Params, songs: Sequence[PreparedSong], new: set[str], stages: set[str]
) -> dict[str, StageCost]:
    """Return the cost of each of ``stages``, at the reference speed; features that exist are free.

    ``new``: the slugs of the songs that are not prepared.
    """
    rate = params.prepare.sample_rate_hz
    front_end, folder = front_end_settings(params.train), root / FEATURES
    computed: set[Path] = set()  # by the stages before

    def stereo_seconds(song: PreparedSong | SongFeatures, frames: int) -> float:
        return frames / rate * song.channels / 2

    def training(stage: str, section: FitParams, chosen: Sequence[PreparedSong]) -> StageCost:
        used, stored, budget = 0.0, 0.0, Budget.of(section)
        steps = params.train.step_frames
        for part in song_features(chosen, front_end, steps, folder, budget=budget):
            if part.folder in computed or part.is_computed:
                continue
            frames = max(stop for _, stop in part.splits.values())
            used += stereo_seconds(part, part.warm_up + frames)
            stored += stereo_seconds(part, frames)
            if stage in stages:
                computed.add(part.folder)
        samples = section.epochs * section.steps_per_epoch * section.batch_size
        samples *= section.crop_frames
        cpu = START + (BANK + SIMPLE) * used + SAMPLES * samples / 1e6
        return StageCost(
            seconds=used, cpu_seconds=cpu, disk_bytes=stored * 2 * rate * BYTES_PER_SAMPLE
        )

    learned = [song for song in songs if training_frames(song)]
    excluded = {name for song in songs for name in (song.slug, song.source)}
    excluded &= set(params.train.exclude)
    old = [song for song in learned if not excluded & {song.slug, song.source}]
    spans = [(song, *span) for song in songs for span in held_out(song, params.evaluate)]
    heard = sum(stereo_seconds(song, stop - first) for song, first, _, stop in spans)
    measured = sum(stereo_seconds(song, stop - start) for song, _, start, stop in spans)
    fresh = [song for song in songs if song.slug in new]
    decoded = sum(stereo_seconds(song, song.frames) for song in fresh)
    usable = (usable_frames(song, params.continuation.holdout_seconds) for song in songs)
    cut = sum(min(frames / rate, LONGEST_SECONDS) for frames in usable)
    notebook, levels = params.baselines.notebook, params.continuation
    fitted = sum(stereo_seconds(song, training_frames(song)) for song in songs)
    windows = 2 * notebook.epochs * notebook.windows_per_epoch
    train = training("train", params.train, old)
    retrain = training("retrain", params.retrain, learned)
    validated = sum(
        stereo_seconds(song, stop - start)
        for song in learned
        for _, start, stop in budgeted(song, Budget.of(params.retrain)).get(VALIDATION, ())
    )
    bank = BANK + 2 * NETWORK
    count = len(songs)
    costs = {
        "prepare": StageCost(
            seconds=decoded,
            cpu_seconds=6.0 + DECODE * decoded,
            disk_bytes=decoded * 4 * rate,
        ),
        "baselines": StageCost(
            seconds=fitted, cpu_seconds=START + RIDGE * fitted + WINDOWS * windows / 1e6
        ),
        "continuation": StageCost(
            seconds=cut,
            cpu_seconds=START + CUTS * cut + LEVELS * levels.epochs * levels.steps_per_epoch,
        ),
        "train": train,
        "retrain": replace(retrain, cpu_seconds=retrain.cpu_seconds + VALIDATED * validated),
        "evaluate_baselines": StageCost(
            seconds=heard, cpu_seconds=START + (CASCADE + SIMPLE) * heard + NOTEBOOK * measured
        ),
        "evaluate": StageCost(
            seconds=heard,
            cpu_seconds=START + bank * heard + CONTINUATIONS * count,
            disk_bytes=SONG_BYTES * count / 2,
        ),
        "report": StageCost(cpu_seconds=START + FIGURES * count, disk_bytes=SONG_BYTES * count / 2),
        "register": StageCost(cpu_seconds=START),
    }
    return {name: cost for name, cost in costs.items() if name in stages}


def outdated(root: Path) -> set[str]:
    """Return the stages that `dvc repro` will run.

    A stage of which only outputs are missing makes them as they were, so it does not change those
    that follow. If `dvc status` fails, which a note says, all stages are returned.
    """
    try:
        stages = yaml.safe_load((root / "dvc.yaml").read_text())["stages"]
        command = [sys.executable, "-m", "dvc", "status", "--json"]
        report = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        status = json.loads(report.stdout)
    except (OSError, ValueError, KeyError, TypeError, subprocess.CalledProcessError) as error:
        busy = "is busy" in getattr(error, "stderr", "")
        why = "another run is in progress" if busy else "`dvc status` fails"
        note(f"{why}: the estimate is of all stages")
        return set(STAGES)
    run: set[str] = set()
    changed: set[str] = set()  # outputs that will differ
    for name in STAGES:
        reasons = [reason for reason in status.get(name, ()) if reason != ALWAYS]
        states: list[Any] = [reason for reason in reasons if isinstance(reason, str)]
        for reason in reasons:
            if isinstance(reason, dict):
                states += [state for states_of in reason.values() for state in states_of.values()]
        stage = stages[name]
        if changed & set(stage["deps"]) or any(state != MISSING for state in states):
            run.add(name)
            for out in stage.get("outs", []):
                changed.update([out] if isinstance(out, str) else out)
        elif any("changed outs" in reason for reason in reasons):
            run.add(name)
    return run


def measure_speed() -> float:
    """Return the CPU seconds of this machine for a filter of 1024 taps over a second of stereo."""
    import time

    import numpy as np

    from songcast.forecasting.filter_bank import LmsFilter
    from songcast.forecasting.filter_bank_settings import Lms

    noise = np.random.default_rng(0).standard_normal((1, 88_200)).astype(np.float32)
    times = []
    for _ in range(4):
        began = time.process_time()
        LmsFilter(Lms(taps=1024, step=0.02)).predict(noise, 0)
        times.append(time.process_time() - began)
    return min(times)


def _read(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}
