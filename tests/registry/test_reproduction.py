"""A version can be built again from what is recorded of it."""

import json
import subprocess
from pathlib import Path

import pytest

from helpers.mlflow_store import make_bundle, numbers, use_repository
from helpers.small_pipeline import Pipeline
from songcast import cli
from songcast.errors import RegistryError
from songcast.registry import reproduction
from songcast.registry.versions import Version, get_version

ROOT = Path(__file__).parents[2]
ENTRY = {"summary": numbers(6.0), "songs": {"a": {"bits_per_sample": 6.0}}}


def version(**lineage):
    found = Version(
        number=1,
        kind="train",
        run_id="",
        source="",
        aliases=(),
        created_ms=0,
        tags={},
    )
    found.__dict__["lineage"] = {"evaluation": ENTRY, **lineage}
    return found


@pytest.mark.parametrize(
    ("weights", "bits", "hardware", "verdict"),
    [
        (1.0, 6.0, "this", "identical"),
        (1.0, 6.0, "other", "identical"),
        (2.0, 6.001, "other", "within tolerance"),
        (2.0, 6.03, "other", "different"),
        (2.0, 6.001, "this", "different"),
    ],
)
def test_the_verdict_depends_on_weights_numbers_and_hardware(
    tmp_path, weights, bits, hardware, verdict
):
    known = make_bundle(tmp_path / "known", 1.0)
    make_bundle(tmp_path / "models" / "train", weights, provenance={"hardware": "this"})
    (tmp_path / "metrics").mkdir()
    measured = {**numbers(bits)}
    evaluation = {"summary": {"train": measured}, "songs": {"a": {"train": measured}}}
    (tmp_path / "metrics" / "evaluation.json").write_text(json.dumps(evaluation))
    sha256 = json.loads((known / "bundle.json").read_text())["weights_sha256"]
    known = version(hardware=hardware, git_dirty=False, weights_sha256=sha256)
    found = reproduction.compare(known, tmp_path)
    assert found["verdict"] == verdict
    assert found["largest_bits"] == pytest.approx(abs(bits - 6.0))


def test_without_its_commit_a_version_cannot_be_built_again(tmp_path, monkeypatch):
    use_repository(tmp_path, monkeypatch)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    for tags, message in (
        ({}, "no git commit"),
        ({"git_commit": "f" * 40}, "cannot be checked out"),
        ({"git_commit": "--upload-pack=evil"}, "is invalid"),
        ({"git_commit": "f" * 40, "data_hash": "x\n- path: /etc"}, "is invalid"),
    ):
        monkeypatch.setattr(reproduction, "find_version", lambda uri, tags=tags: version(**tags))
        with pytest.raises(RegistryError, match=message) as caught:
            reproduction.reproduce("models:/songcast/1", lambda line: None)
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    """A repository with two short songs in which `dvc repro` has run."""
    small = Pipeline.build(tmp_path_factory.mktemp("small") / "repository")
    command = [*small.dvc, "repro", "-q"]
    subprocess.run(command, cwd=small.folder, env=small.environment, check=True)
    return small.folder


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two whole pipelines
def test_a_version_is_built_again_from_what_is_recorded_of_it(pipeline, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(pipeline))
    monkeypatch.chdir(pipeline)
    before = sorted(p for p in pipeline.rglob("*") if ".git" not in p.parts and p.is_file())
    capfd.readouterr()
    assert cli.main(["reproduce", "models:/songcast/2", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert (said["verdict"], said["same_hardware"], said["dirty"]) == ("identical", True, False)
    assert said["weights_sha256"] == get_version(2).weights_sha256
    assert said["largest_bits"] == 0.0
    after = sorted(p for p in pipeline.rglob("*") if ".git" not in p.parts and p.is_file())
    assert after == before
