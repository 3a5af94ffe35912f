"""A whole pipeline of seconds, in a folder of its own, for faults to be tried on."""

import contextlib
import hashlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from songcast.audio.songs import Song, write_song
from songcast.tracking.dvc_files import mend

ROOT = Path(__file__).parents[1]
RATE_HZ = 8000
STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
COPIED = ("src", ".dvc", "dvc.yaml", ".dvcignore", "requirements.lock", "pyproject.toml")
# A pipeline of seconds: what differs from params.yaml, section by section.
FIT = {"epochs": 2, "steps_per_epoch": 4, "batch_size": 4, "crop_frames": 512}
SMALL: dict[str, dict[str, Any]] = {
    "prepare": {
        **{"sample_rate_hz": RATE_HZ, "guard_seconds": 0.05},
        **{"train_fraction": 0.6, "validation_fraction": 0.2, "test_fraction": 0.2},
    },
    "baselines": {"look_back": 8},
    "continuation": {
        **{"look_back": 8, "slow_units": 4, "fast_units": 4, "head_units": [6, 4]},
        **{"holdout_seconds": 0.5, "examples": 4, "epochs": 2, "steps_per_epoch": 2},
        **{"batch_size": 2, "crop_steps": 1},
    },
    "train": {**FIT, "filter_bank": "cascade", "look_back": 8, "units": 6, "head_units": [8, 6]},
    "retrain": FIT,
    "evaluate": {"listening_seconds": 0.25},
}
NOTEBOOK = {"look_back": 3, "activation": "leaky_relu", "epochs": 1, "windows_per_epoch": 500}
# Never part of the result: caches, and what MLflow and DVC keep for themselves.
ASIDE = {".git", ".dvc", "mlruns", "features", "checkpoints", "src", "__pycache__"}


@dataclass(frozen=True)
class Pipeline:
    """A repository with two short songs, ready for `dvc repro`."""

    folder: Path

    @classmethod
    def build(cls, folder: Path) -> "Pipeline":
        """Make the repository in the new folder ``folder``."""
        unwanted = shutil.ignore_patterns("cache", "tmp", "__pycache__", "*.egg-info", "*.local")
        for source in map(ROOT.joinpath, COPIED):
            if source.is_dir():
                shutil.copytree(source, folder / source.name, ignore=unwanted)
            else:
                shutil.copy(source, folder)
        for ignored in (".gitignore", "models/.gitignore"):
            (folder / ignored).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / ignored, folder / ignored)
        sections = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, values in SMALL.items():
            sections[section] |= values
        sections["baselines"]["notebook"] = NOTEBOOK
        (folder / "params.yaml").write_text(yaml.safe_dump(sections))
        (folder / "data").mkdir()
        for seed, name in enumerate(("first", "second")):
            write_song(chord(24000, seed, name), folder / "data" / f"{name}.wav")
        pipeline = cls(folder)
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        for command in (
            ["git", "init", "-q"],
            [*pipeline.dvc, "add", "-q", "data"],
            ["git", "add", "-A"],
            ["git", *identity, "commit", "-q", "-m", "songs"],
        ):
            subprocess.run(command, cwd=folder, env=pipeline.environment, check=True)
        return pipeline

    @property
    def dvc(self) -> list[str]:
        """The command `dvc` of this environment."""
        return [sys.executable, "-m", "dvc"]

    @property
    def environment(self) -> dict[str, str]:
        """A process's environment: the repository's own code, nothing shared with others."""
        hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME")
        kept = {k: v for k, v in os.environ.items() if k not in hidden}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return {
            **kept,
            "PATH": path,
            "PYTHONPATH": str(self.folder / "src"),
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "dvc"),
            "NUMBA_CACHE_DIR": str(self.folder.parent / "numba"),
        }

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command here, leader of its own group, stdout and stderr in one pipe."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def start_stage(self, stage: str) -> "subprocess.Popen[str]":
        """Start a stage as `make run` does, and no other."""
        mend(self.folder)
        return self.start(*self.dvc, "repro", "--single-item", stage)

    def running(self, stage: str) -> "subprocess.Popen[str]":
        """Start a stage as `make run` does; return when DVC has started it."""
        process = self.start_stage(stage)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Running stage"):
                break
        return process

    def start_bare(self, stage: str) -> "subprocess.Popen[str]":
        """Start a stage without DVC."""
        return self.start(sys.executable, "-m", f"songcast.stages.{stage}")

    def run_stage(self, stage: str) -> tuple[float, float]:
        """Run a stage undisturbed; return its seconds, and those before DVC started it."""
        began, before, said = time.monotonic(), 0.0, []
        with self.start_stage(stage) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line)
                if line.startswith("Running stage"):
                    before = time.monotonic() - began
        if process.returncode:
            raise RuntimeError(f"{stage} failed: {''.join(said)}")
        return time.monotonic() - began, before

    def kill_stage(self, stage: str, after_seconds: float) -> float | None:
        """Kill a stage, with DVC, so long after DVC started it.

        Returns the seconds it took where it ended before that, None where it was killed.
        """
        with self.running(stage) as process:
            began = time.monotonic()
            try:
                process.communicate(timeout=after_seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                return None
        return time.monotonic() - began

    def keep(self, copy: Path) -> None:
        """Copy the whole folder to ``copy``."""
        shutil.copytree(self.folder, copy, symlinks=True)

    def restore(self, copy: Path) -> None:
        """Make the folder what it was when ``copy`` was made."""
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder, symlinks=True)

    def results(self) -> dict[str, str]:
        """Return the sha256 of each file that the pipeline makes or keeps."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not ASIDE & set(path.relative_to(self.folder).parts)
        }

    def half_written(self) -> list[str]:
        """Return temporary files and folders of ours, anywhere."""
        patterns = (".songcast-*", ".*.writing", ".*.replaced", ".mlflow.db.*")
        found = [path for pattern in patterns for path in self.folder.rglob(pattern)]
        found += self.folder.glob("features/.*-*")
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def unfinished(self) -> list[str]:
        """Return what a stage keeps to go on from when it was stopped."""
        patterns = ("prepared/.incoming", "checkpoints/*/*", "mlruns/undelivered/*")
        found = [path for pattern in patterns for path in self.folder.glob(pattern)]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def runs(self) -> Counter[tuple[str, str]]:
        """Count MLflow's runs by stage and status."""
        named = (
            "SELECT tags.value, runs.status FROM runs JOIN tags USING (run_uuid)"
            " WHERE tags.key = 'songcast.stage'"
        )
        return Counter(self._query(named))

    def versions(self) -> list[str]:
        """Return the weights' sha256 of each registered version."""
        weights = "SELECT value FROM model_version_tags WHERE key = 'songcast.weights_sha256'"
        return sorted(row[0] for row in self._query(weights))

    def _query(self, text: str) -> list[Any]:
        database = self.folder / "mlruns" / "mlflow.db"
        if not database.exists():
            return []
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return connection.execute(text).fetchall()


@dataclass(frozen=True)
class Rehearsal:
    """A stage that ran undisturbed.

    ``before``, ``after``: copies of the folder. ``seconds``: its time, DVC's included;
    ``begins``: those before DVC started it. ``results``, ``versions``: what was there then.
    """

    stage: str
    before: Path
    after: Path
    seconds: float
    begins: float
    results: Mapping[str, str]
    versions: list[str]


def rehearse(pipeline: Pipeline, scratch: Path) -> dict[str, Rehearsal]:
    """Run all stages in their order, undisturbed; keep the folder before and after each."""
    found = {}
    before = scratch / "start"
    pipeline.keep(before)
    for stage in STAGES:
        seconds, begins = pipeline.run_stage(stage)
        after = scratch / stage
        pipeline.keep(after)
        results, versions = pipeline.results(), pipeline.versions()
        found[stage] = Rehearsal(stage, before, after, seconds, begins, results, versions)
        before = after
    return found


def chord(frames: int, seed: int, name: str) -> Song:
    """Return three partials with noise, in stereo."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(frames)[:, None] / RATE_HZ
    partials = [
        np.sin(2 * np.pi * note * seconds + rng.uniform(0, 6, 2)) for note in (220, 277, 330)
    ]
    samples = 3000.0 * sum(partials) + 200.0 * rng.standard_normal((frames, 2))
    return Song(samples=np.rint(samples).astype(np.int16), sample_rate_hz=RATE_HZ, name=name)
