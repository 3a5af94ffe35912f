"""Stage report: figures and the listening page report.html.

Run as ``python -m songcast.stages.report``. It computes no forecast: it shows the outputs of
stage evaluate, so a figure can change without another evaluation.
"""

import copy
import json
import logging
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

from songcast.audio.songs import read_song, write_song
from songcast.bundle import read_history, read_manifest
from songcast.data.corpus import Corpus
from songcast.files import (
    DATA_REPORT,
    LISTENING,
    METRICS,
    MODELS,
    PLOTS,
    PREPARED,
    REPORT,
    write_json,
    write_text,
)
from songcast.report.figures.files import draw_song, draw_summary
from songcast.report.page import Report, page
from songcast.report.results import EVALUATION, best_of, read_evaluation
from songcast.report.tracks import read_passages
from songcast.stages import run_stage
from songcast.tracking.evaluation_log import KINDS
from songcast.tracking.run_data import flatten

log = logging.getLogger("songcast.report")

CODEC = "flac"


def main() -> None:
    """Read metrics, WAVs, bundles; write plots/report and report.html."""
    evaluation = read_evaluation(Path(EVALUATION))
    retrained = json.loads((Path(METRICS) / "retrain.json").read_text())
    plots = Path(PLOTS) / "report"
    shutil.rmtree(plots, ignore_errors=True)
    plots.mkdir(parents=True)
    passages = read_passages(Path(LISTENING))
    for passage in passages:
        notebook = read_song(Path(LISTENING) / passage.slug / "pred_notebook.wav").samples
        draw_song(passage, notebook, plots)
    log.info("report: figures of %d songs drawn", len(passages))
    extended = with_flac(evaluation, Corpus.open(PREPARED))
    manifests = {kind: read_manifest(Path(MODELS) / kind) for kind in KINDS}
    histories = {kind: read_history(Path(MODELS) / kind) for kind in KINDS}
    figures = draw_summary(extended, retrained, histories, plots)
    write_bits(Path(PLOTS) / "bits.csv", extended["songs"])
    write_json(Path(METRICS) / "summary.json", short_summary(evaluation))
    report = Report(
        evaluation=evaluation,
        data=json.loads(Path(DATA_REPORT).read_text()),
        figures=figures,
        lineage=lineage_of(manifests),
        params={kind: flatten(manifests[kind].get("params") or {}) for kind in KINDS},
    )
    write_text(REPORT, page(passages, report))
    log.info("report: %s written, %.1f MB", REPORT, Path(REPORT).stat().st_size / 1e6)


def with_flac(evaluation: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """Return the evaluation with the bits per sample of FLAC on the same passages added.

    FLAC files are written by libsndfile with its defaults; their headers count.
    """
    extended = copy.deepcopy(dict(evaluation))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"passage.{CODEC}"
        for slug, measures in extended["songs"].items():
            song, size, samples = corpus[slug].song(), 0, 0
            for start, stop in evaluation["passages"][slug]:
                passage = replace(song, samples=song.samples[start:stop])
                write_song(passage, path)
                size, samples = size + path.stat().st_size, samples + passage.samples.size
            measures[CODEC] = {"bits_per_sample": 8.0 * size / samples}
    return extended


def lineage_of(manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the provenance of the models: code, songs, environment, machine, weights."""
    names = {
        "time": "trained",
        "git_commit": "git commit",
        "git_dirty": "uncommitted changes",
        "data_hash": "data.dvc, md5 of the songs",
        "lock_sha256": "requirements.lock, sha256",
        "backend": "Keras backend",
        "device": "device",
        "hardware": "hardware",
        "experiment": "experiment",
    }
    lineage = {}
    for kind, manifest in manifests.items():
        origin = manifest.get("provenance") or {}
        for key, name in names.items():
            if origin.get(key) is not None:
                lineage[f"{kind}: {name}"] = str(origin[key])
        lineage[f"{kind}: weights, sha256"] = str(manifest["weights_sha256"])
    return lineage


def write_bits(path: Path, songs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the mean bits per sample of every forecaster, for `dvc plots`."""
    bits: dict[str, list[float]] = {}
    for measures in songs.values():
        for name, measured in measures.items():
            bits.setdefault(name, []).append(float(measured["bits_per_sample"]))
    lines = [f"{name},{fmean(values)}\n" for name, values in bits.items()]
    write_text(path, "".join(["forecaster,bits_per_sample\n", *lines]))


def short_summary(evaluation: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the columns of `dvc exp show`: bits and gain of the best, and of retraining."""
    summary = evaluation["summary"]
    best = best_of(summary, KINDS)
    gains = evaluation["retraining"]
    return {
        "bits_per_sample": summary[best]["bits_per_sample"],
        "prediction_gain_db": summary[best]["prediction_gain_db"],
        **{key: gains[key] for key in ("new_songs_gain_bits", "old_songs_gain_bits")},
    }


if __name__ == "__main__":
    run_stage(main)
