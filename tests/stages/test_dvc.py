"""The pipeline as DVC runs, shares and shows it, on two short songs."""

import json
import os
import subprocess

import pytest
import yaml

from helpers.small_pipeline import Pipeline

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
IDENTITY = {
    f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def run(small, *command, folder=None):
    """Run a command that must succeed; return its output."""
    done = subprocess.run(
        command,
        cwd=folder or small.folder,
        env={**small.environment, **IDENTITY},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(small):
    run(small, "git", "add", "-A")
    run(small, "git", "commit", "-q", "--allow-empty", "-m", "results")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A repository in which `dvc repro` ran; its results are committed and pushed."""
    small = Pipeline.build(tmp_path_factory.mktemp("small") / "repository")
    run(small, *small.dvc, "repro", "-q")
    commit(small)
    run(small, *small.dvc, "push", "-q")
    commit(small)
    return small


def test_a_second_run_at_a_new_commit_changes_nothing(pipeline):
    before = pipeline.results()
    run(pipeline, *pipeline.dvc, "repro")
    assert pipeline.results() == before
    assert run(pipeline, "git", "status", "--porcelain") == ""
    status = json.loads(run(pipeline, *pipeline.dvc, "status", "--json"))
    assert status == {"register": ["always changed"]}


def test_plain_repro_registers_again_what_was_deleted(pipeline):
    (pipeline.folder / "mlruns" / "mlflow.db").unlink()
    run(pipeline, *pipeline.dvc, "repro")
    assert len(pipeline.versions()) == 2


def test_a_clone_gets_models_figures_and_the_listening_page_without_training(pipeline, tmp_path):
    clone = tmp_path / "clone"
    run(pipeline, "git", "tag", "-a", "train@v1.0.0", "-m", "a version of the artifact")
    run(pipeline, "git", "clone", "-q", str(pipeline.folder), str(clone))
    run(pipeline, *pipeline.dvc, "pull", folder=clone)
    for name in ("models/retrain/bundle.json", "report.html", "plots/report/bits.png"):
        assert (clone / name).read_bytes() == (pipeline.folder / name).read_bytes()
    assert not (clone / "prepared").exists()
    assert "models/train/bundle.json" in run(pipeline, *pipeline.dvc, "ls", "-R", ".", folder=clone)
    run(
        pipeline,
        *pipeline.dvc,
        "artifacts",
        "get",
        ".",
        "train",
        "-o",
        "mine",
        folder=clone,
    )
    mine, theirs = (clone / name / "bundle.json" for name in ("mine", "models/train"))
    assert mine.read_bytes() == theirs.read_bytes()
    run(pipeline, *pipeline.dvc, "repro", "--single-item", "register", folder=clone)
    assert len(Pipeline(clone).versions()) == 2
    run(pipeline, *pipeline.dvc, "repro", folder=clone)
    assert run(pipeline, "git", "status", "--porcelain", folder=clone) == "?? mine/\n"


def test_a_queued_experiment_changes_its_own_data_and_nothing_in_the_workspace(pipeline):
    def prepared(revision):
        lock = yaml.safe_load(run(pipeline, "git", "show", f"{revision}:dvc.lock"))
        outs = lock["stages"]["prepare"]["outs"]
        return {out["path"]: out["md5"] for out in outs}["prepared"]

    before = pipeline.results()
    change = ("-S", "prepare.guard_seconds=0.06")
    run(pipeline, *pipeline.dvc, "exp", "run", "--temp", "-n", "shorter", *change, "prepare")
    assert pipeline.results() == before
    names = run(pipeline, "git", "for-each-ref", "refs/exps", "--format=%(refname)").split()
    (shorter,) = (name for name in names if name.endswith("/shorter"))
    assert prepared(shorter) != prepared("HEAD")


def test_the_page_of_dvc_plots_loads_nothing_from_the_network(pipeline):
    run(pipeline, *pipeline.dvc, "plots", "show")
    page = (pipeline.folder / "dvc_plots" / "index.html").read_text()
    assert "vegaEmbed=" in page
    assert page.count("vegaEmbed('#") >= 3
    assert "cdn.jsdelivr.net" not in page
    assert "<script src" not in page
    assert os.path.commonpath([pipeline.folder]) not in page
    assert run(pipeline, "git", "status", "--porcelain") == ""
