"""A complete pipeline on two short songs that runs in seconds, in a temporary repository."""

import contextlib
import hashlib
import json
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

from helpers.small_params import PARAMS, RATE_HZ
from songcast.audio.songs import Song, write_song

ROOT = Path(__file__).parents[2]
STAGES = tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
COPIED = ("src", ".dvc", "dvc.yaml", ".dvcignore", "requirements.lock", "pyproject.toml")
# Caches, code and the stores of MLflow and DVC are not results of the pipeline.
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
        params = {**PARAMS, "retrain": {**PARAMS["retrain"], "songs": []}}
        (folder / "params.yaml").write_text(yaml.safe_dump(params))
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
        """Environment variables. The code and its compiled functions are those of the checkout."""
        hidden = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "PYTHONPATH")
        kept = {k: v for k, v in os.environ.items() if k not in hidden}
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        return {
            **kept,
            "PATH": path,
            "DVC_SITE_CACHE_DIR": str(self.folder.parent / "dvc"),
            # Bundles record when they were trained.
            "SOURCE_DATE_EPOCH": "1700000000",
        }

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Start a command in the folder as a process group; stdout and stderr share one pipe."""
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
        """Start one stage as `make run` does."""
        return self.start(*self.dvc, "repro", "--single-item", stage)

    def running(self, stage: str) -> "subprocess.Popen[str]":
        """Start a stage as `make run` does; return once DVC has started it."""
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
        """Run a stage undisturbed; return its duration and the time until DVC started it."""
        began, before, output = time.monotonic(), 0.0, []
        with self.start_stage(stage) as process:
            assert process.stdout is not None
            for line in process.stdout:
                output.append(line)
                if line.startswith("Running stage"):
                    before = time.monotonic() - began
        if process.returncode:
            raise RuntimeError(f"{stage} failed: {''.join(output)}")
        return time.monotonic() - began, before

    def kill_stage(self, stage: str, after_seconds: float) -> float | None:
        """Kill a stage and DVC ``after_seconds`` after DVC started the stage.

        Returns None, or the duration of the stage if it ended earlier.
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
        """Restore the folder from ``copy``."""
        shutil.rmtree(self.folder)
        shutil.copytree(copy, self.folder, symlinks=True)

    def results(self) -> dict[str, str]:
        """Return the sha256 of each input and output of the pipeline, by path."""
        return {
            path.relative_to(self.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not ASIDE & set(path.relative_to(self.folder).parts)
        }

    def half_written(self) -> list[str]:
        """Return the temporary files and folders that songcast left anywhere."""
        patterns = (".songcast-*", ".*.writing", ".*.replaced", ".mlflow.db.*")
        paths = [path for pattern in patterns for path in self.folder.rglob(pattern)]
        paths += self.folder.glob("features/.*-*")
        return sorted(path.relative_to(self.folder).as_posix() for path in paths)

    def unfinished(self) -> list[str]:
        """Return the files from which a stopped stage resumes.

        The measurements of songs in checkpoints/inspected are a cache, which stays.
        """
        patterns = ("prepared/.incoming", "checkpoints/*/*")
        paths = [path for pattern in patterns for path in self.folder.glob(pattern)]
        paths = [path for path in paths if path.parent.name != "inspected"]
        return sorted(path.relative_to(self.folder).as_posix() for path in paths)

    def runs(self) -> Counter[tuple[str, str]]:
        """Count the MLflow runs by stage and status."""
        named = (
            "SELECT tags.value, runs.status FROM runs JOIN tags USING (run_uuid)"
            " WHERE tags.key = 'songcast.stage'"
        )
        return Counter(self._query(named))

    def versions(self) -> list[str]:
        """Return the sha256 of the weights of each registered version."""
        records = {
            hashlib.sha256(text).hexdigest(): json.loads(text)["weights_sha256"]
            for text in map(Path.read_bytes, (self.folder / "mlruns").rglob("lineage.json"))
        }
        tags = "SELECT value FROM model_version_tags WHERE key = 'songcast.lineage_sha256'"
        return sorted(records[digest] for (digest,) in self._query(tags))

    def _query(self, text: str) -> list[Any]:
        database = self.folder / "mlruns" / "mlflow.db"
        if not database.exists():
            return []
        with contextlib.closing(sqlite3.connect(database)) as connection:
            return connection.execute(text).fetchall()


@dataclass(frozen=True)
class Rehearsal:
    """An undisturbed run of a stage.

    ``before`` and ``after`` are copies of the folder, ``seconds`` is the duration with DVC,
    ``begins`` the time until DVC started the stage, ``results`` and ``versions`` what it left.
    """

    stage: str
    before: Path
    after: Path
    seconds: float
    begins: float
    results: Mapping[str, str]
    versions: list[str]


def rehearse(pipeline: Pipeline, scratch: Path) -> dict[str, Rehearsal]:
    """Run all stages in order, undisturbed, and keep a copy of the folder before and after each."""
    rehearsals = {}
    before = scratch / "start"
    pipeline.keep(before)
    for stage in STAGES:
        seconds, begins = pipeline.run_stage(stage)
        after = scratch / stage
        pipeline.keep(after)
        results, versions = pipeline.results(), pipeline.versions()
        rehearsals[stage] = Rehearsal(stage, before, after, seconds, begins, results, versions)
        before = after
    return rehearsals


def chord(frames: int, seed: int, name: str) -> Song:
    """Return three partials with noise, in stereo."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(frames)[:, None] / RATE_HZ
    partials = [
        np.sin(2 * np.pi * note * seconds + rng.uniform(0, 6, 2)) for note in (220, 277, 330)
    ]
    samples = 3000.0 * sum(partials) + 200.0 * rng.standard_normal((frames, 2))
    return Song(samples=np.rint(samples).astype(np.int16), sample_rate_hz=RATE_HZ, name=name)
