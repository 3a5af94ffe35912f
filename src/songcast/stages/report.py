"""Stage report: pictures and the listening page report.html.

Run as ``python -m songcast.stages.report``. It forecasts nothing: it shows what evaluate has
measured and written, so a picture can be changed without measuring again.
"""

import copy
import csv
import json
import logging
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from songcast.audio.songs import read_song, write_song
from songcast.bundle import read_manifest
from songcast.data.corpus import TEST, Corpus
from songcast.files import LISTENING, METRICS, MODELS, PLOTS, PREPARED, REPORT, write_json
from songcast.report.figure_files import draw_song, draw_summary
from songcast.report.page import Report, write_report
from songcast.report.tracks import read_passages
from songcast.stages import run_stage
from songcast.tracking.send import flatten, lineage_tags
from songcast.tracking.stage_log import KINDS

log = logging.getLogger("songcast.report")

CODEC = "flac"


def main() -> None:
    """Read metrics, WAVs, bundles; write plots/report and report.html."""
    evaluation = json.loads((Path(METRICS) / "evaluation.json").read_text())
    retrained = json.loads((Path(METRICS) / "retrain.json").read_text())
    plots = Path(PLOTS) / "report"
    shutil.rmtree(plots, ignore_errors=True)
    plots.mkdir(parents=True)
    passages = read_passages(Path(LISTENING))
    for passage in passages:
        notebook = read_song(Path(LISTENING) / passage.slug / "pred_notebook.wav").samples
        draw_song(passage, notebook, plots)
    log.info("report: drew %d songs", len(passages))
    with_codec = beside_codec(evaluation, Corpus.open(PREPARED))
    figures = draw_summary(with_codec, retrained, Path(MODELS), plots)
    write_bits(Path(PLOTS) / "bits.csv", with_codec["songs"])
    write_json(Path(METRICS) / "summary.json", short_summary(evaluation["summary"]))
    report = Report(
        evaluation=evaluation, figures=figures, lineage=lineage_of(), params=params_of()
    )
    write_report(REPORT, passages, report)
    log.info("report: wrote %s, %.1f MB", REPORT, Path(REPORT).stat().st_size / 1e6)


def beside_codec(evaluation: Mapping[str, Any], corpus: Corpus) -> dict[str, Any]:
    """Return the evaluation with FLAC's bits per sample on the same passages beside the rest.

    As libsndfile writes it by default, header included.
    """
    found = copy.deepcopy(dict(evaluation))
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"passage.{CODEC}"
        for slug, measures in found["songs"].items():
            passage = corpus[slug].passage(TEST)
            write_song(passage, path)
            measures[CODEC] = {"bits_per_sample": 8.0 * path.stat().st_size / passage.samples.size}
    return found


def params_of() -> dict[str, dict[str, str]]:
    """Return the settings that train and retrain ran with, as their bundles tell."""
    return {kind: flatten(read_manifest(Path(MODELS) / kind).get("params") or {}) for kind in KINDS}


def lineage_of() -> dict[str, str]:
    """Return where the models come from: code, songs, environment, machine, weights."""
    names = {
        "songcast.git_commit": "code, git commit",
        "songcast.git_dirty": "code changed since",
        "songcast.data_hash": "songs, md5 of data.dvc",
        "songcast.lock_sha256": "requirements.lock, sha256",
        "songcast.backend": "backend",
        "songcast.hardware": "hardware",
        "dvc.exp_name": "experiment",
    }
    tags = lineage_tags()
    found = {said: tags[key] for key, said in names.items() if key in tags}
    for kind in KINDS:
        weights = str(read_manifest(Path(MODELS) / kind)["weights_sha256"])
        found[f"weights of {kind}, sha256"] = weights
    return found


def write_bits(path: Path, songs: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the mean over songs of every forecaster, for `dvc plots`."""
    bits: dict[str, list[float]] = {}
    for measures in songs.values():
        for name, measured in measures.items():
            bits.setdefault(name, []).append(float(measured["bits_per_sample"]))
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("forecaster", "bits_per_sample"))
        writer.writerows((name, math.fsum(values) / len(values)) for name, values in bits.items())


def short_summary(summary: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return what tells experiments apart: gain and bits of train and retrain."""
    keys = ("prediction_gain_db", "bits_per_sample")
    return {kind: {key: summary[kind][key] for key in keys} for kind in KINDS}


if __name__ == "__main__":
    run_stage(main)
