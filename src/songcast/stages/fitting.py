"""What train and retrain share: features, the fit, its MLflow run, the bundle."""

import csv
import io
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from songcast.config import Engine, FitParams
from songcast.data.corpus import Corpus, PreparedSong
from songcast.distributed import cluster
from songcast.distributed.data_parallel import TensorflowTeam
from songcast.errors import ParamsError
from songcast.files import CHECKPOINTS, FEATURES, MODELS, PLOTS, atomic_path, root
from songcast.forecasting.lstm import LstmForecaster
from songcast.tracking.stage_run import StageRun, stage_run
from songcast.training.batches import CropSampler
from songcast.training.checkpoint import Checkpoint
from songcast.training.feature_cache import SongFeatures, open_features
from songcast.training.fit import FitSettings, Row, fit

log = logging.getLogger("songcast.fit")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One training: its name, what it learns from, and what its checkpoint belongs to.

    ``shares``: how often each song is drawn, by slug; 1 where it says nothing. ``engine``: who
    hears the songs through the experts. ``workers``: how many processes of its cluster share
    each step; one means this process.
    """

    stage: str
    params: FitParams
    songs: Sequence[PreparedSong]
    fingerprint: str
    details: dict[str, Any]
    engine: Engine = "local"
    workers: int = 1
    shares: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


def fit_and_log(job: Job, model: LstmForecaster) -> list[SongFeatures]:
    """Train ``model``, write models/STAGE and plots/STAGE.csv; return the songs' features."""
    params = job.params
    checkpoint = Checkpoint(root() / CHECKPOINTS / job.stage, job.fingerprint)
    checkpoint.run_id = checkpoint.peek_run_id()
    with stage_run(
        job.stage, params.model_dump(mode="json"), tags=job.tags, resume_id=checkpoint.run_id
    ) as run:
        checkpoint.run_id = run.run_id
        log.info("%s: hearing %d songs through the experts ...", job.stage, len(job.songs))
        songs, sampler = open_crops(
            job.songs, model, params, root() / FEATURES, job.engine, job.shares
        )
        settings = fit_settings(params)
        with _reporting(job, run, settings) as (on_epoch, on_step):
            if job.workers > 1:
                fit_on_cluster(model, sampler, songs, settings, checkpoint, job.workers, on_epoch)
            rows = fit(model.network, sampler, songs, settings, checkpoint, on_epoch, on_step)
        bundle = Path(MODELS) / job.stage
        details = {**job.details, "params": params.model_dump(mode="json")}
        history = history_csv(rows)
        model.save(bundle, details, history)
        write_text(Path(PLOTS) / f"{job.stage}.csv", history)
        run.log_bundle(bundle)
    checkpoint.clear()
    return songs


def open_crops(
    songs: Sequence[PreparedSong],
    model: LstmForecaster,
    params: FitParams,
    folder: Path,
    engine: Engine = "local",
    shares: Mapping[str, float] | None = None,
) -> tuple[list[SongFeatures], CropSampler]:
    """Return the features of ``songs``, kept in ``folder``, and what draws crops from them.

    ``shares``: how often each song is drawn, by slug; 1 where it says nothing.
    """
    features = open_features(
        songs,
        model.front_end,
        model.settings.step_frames,
        folder,
        augmentations=params.augmentations,
        augmentation_seconds=params.augmentation_seconds,
        engine=engine,
    )
    drawn = shares or {}
    sampler = CropSampler(
        features,
        batch_size=params.batch_size,
        frames=params.crop_frames,
        look_back=model.settings.look_back,
        seed=params.seed,
        shares=[drawn.get(song.slug.partition("+")[0], 1.0) for song in features],
    )
    return features, sampler


def fit_on_cluster(
    model: LstmForecaster,
    sampler: CropSampler,
    songs: Sequence[SongFeatures],
    settings: FitSettings,
    checkpoint: Checkpoint,
    workers: int,
    on_epoch: Callable[[int, Row], None],
) -> None:
    """Train a copy of ``model`` in ``workers`` processes of a Ray cluster.

    What they learned is in the checkpoint: ``fit`` finds all epochs done there.
    """
    weights, shape = model.network.get_weights(), model.settings

    def learn(rank: int, report: Callable[[Row], None]) -> None:
        team = TensorflowTeam(rank, workers)
        from songcast.forecasting.network import build_network

        network = build_network(shape)
        network.set_weights(weights)
        fit(network, sampler, songs, settings, checkpoint, lambda _, row: report(row), team=team)

    cluster.train(
        learn,
        workers=workers,
        folder=checkpoint.folder / "ray",
        on_report=lambda row: on_epoch(int(row["step"]), row),
    )


def fit_settings(params: FitParams) -> FitSettings:
    """Return what of the params the fit loop reads."""
    return FitSettings(
        epochs=params.epochs,
        steps_per_epoch=params.steps_per_epoch,
        batch_size=params.batch_size,
        crop_frames=params.crop_frames,
        learning_rate=params.learning_rate,
    )


def select_songs(corpus: Corpus, names: Sequence[str]) -> list[PreparedSong]:
    """Return the songs of these slugs or file names. Raises ``ParamsError`` for another name."""
    known = {name: song for song in corpus for name in (song.slug, song.source)}
    for name in names:
        if name not in known:
            slugs = ", ".join(song.slug for song in corpus)
            raise ParamsError(f"params.yaml: no song {name!r} in data/; there are: {slugs}")
    return [known[name] for name in names]


def history_csv(rows: Sequence[Row]) -> str:
    """One line per epoch, ``step`` first."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "step": int(row["step"])} for row in rows)
    return stream.getvalue()


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(text)


@contextmanager
def _reporting(job: Job, run: StageRun, settings: FitSettings) -> Iterator[Any]:
    """Give the callbacks of ``fit``: MLflow, and a bar on a terminal or a line per epoch."""

    def line(epoch: int, row: Row) -> str:
        return (
            f"{job.stage}: epoch {epoch + 1} of {settings.epochs}, "
            f"train {row['train_bits_per_sample']:.4f}, "
            f"validation {row['validation_bits_per_sample']:.4f} bits per sample"
        )

    def metrics(row: Row) -> Row:
        return {key: value for key, value in row.items() if key != "step"}

    if not sys.stderr.isatty():

        def on_epoch(epoch: int, row: Row) -> None:
            log.info("%s", line(epoch, row))
            run.log_metrics(metrics(row), epoch)

        yield on_epoch, None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(job.stage, total=settings.epochs * settings.steps_per_epoch)

        def on_epoch_shown(epoch: int, row: Row) -> None:
            console.print(line(epoch, row), highlight=False)
            # The workers of a cluster report no steps.
            progress.update(task, completed=(epoch + 1) * settings.steps_per_epoch)
            run.log_metrics(metrics(row), epoch)

        yield on_epoch_shown, lambda step: progress.update(task, completed=step)
