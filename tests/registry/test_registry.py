"""Versions are registered once, the gate moves the champion, a version becomes a bundle again."""

import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from helpers.mlflow_store import (
    evaluation_of,
    exit_code,
    make_bundle,
    numbers,
    use_repository,
    weights_of,
    write_evaluation,
    write_prepared,
)
from helpers.records import assert_sealed
from helpers.small_params import PARAMS
from songcast import cli
from songcast.errors import BundleError, RegistryError
from songcast.registry import downloads, registration, versions
from songcast.stages import register
from songcast.tracking import lineage
from songcast.tracking import store as tracking_store
from songcast.tracking.runs import ensure_run
from songcast.tracking.stage_run import stage_run


def outputs(folder, train=(1.0, 6.5), retrain=(2.0, 6.0), songs=("a", "b"), origin=None, **others):
    """Write what the earlier stages leave: two bundles (weight, bits) and the evaluation.

    ``origin``: the provenance of both.
    """
    for kind, weight in (("train", train[0]), ("retrain", retrain[0])):
        bundle = folder / "models" / kind
        make_bundle(bundle, weight, params={"seed": 1}, provenance=origin or {})
    entries = {"ridge": numbers(7.0), "train": numbers(train[1]), "retrain": numbers(retrain[1])}
    write_evaluation(folder, evaluation_of(songs, **{**entries, **others}))


def registered(folder):
    register.main()
    return json.loads((folder / "registered.json").read_text())


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


@pytest.fixture(scope="module")
def first_registration(tmp_path_factory):
    """A repository after ``outputs`` and ``registered``, for all to copy."""
    with pytest.MonkeyPatch.context() as patch:
        folder = use_repository(tmp_path_factory.mktemp("registered") / "here", patch)
        outputs(folder)
        registered(folder)
    return folder


@pytest.fixture
def with_versions(first_registration, tmp_path, monkeypatch):
    """A repository of its own in which ``outputs`` have been ``registered``."""
    shutil.copytree(first_registration, tmp_path / "here")
    return use_repository(tmp_path / "here", monkeypatch)


def test_the_better_bundle_becomes_challenger_and_the_first_champion(repository):
    outputs(repository)
    content = registered(repository)
    assert {key: content[key] for key in ("name", "versions", "challenger", "champion")} == {
        "name": "songcast",
        "versions": {"train": 1, "retrain": 2},
        "challenger": 2,
        "champion": 2,
    }
    assert content["gate"] == {"passed": True, "reasons": []}
    newest, oldest = versions.list_versions()
    assert (newest.number, newest.kind, newest.aliases) == (
        2,
        "retrain",
        ("challenger", "champion"),
    )
    assert (oldest.number, oldest.kind, oldest.aliases) == (1, "train", ())
    assert newest.evaluation["summary"]["bits_per_sample"] == 6.0
    run = tracking_store.connect().get_run(newest.run_id)
    assert run.info.run_name == "retrain"
    assert run.data.metrics["bits_per_sample"] == 6.0
    client = tracking_store.connect()
    table = Path(client.download_artifacts(run.info.run_id, "songs.csv"))
    assert "a,retrain,40.000,6.0000" in table.read_text().splitlines()


def test_registering_again_changes_nothing(repository):
    outputs(repository)
    first = registered(repository)
    client = tracking_store.connect()

    def all_there():
        runs = client.search_runs([tracking_store.experiment_id(client)])
        return versions.list_versions(), {run.info.run_id for run in runs}

    before = all_there()
    assert registered(repository) == first
    assert all_there() == before


def test_the_champion_moves_only_to_what_beats_it(with_versions):
    outputs(with_versions, train=(3.0, 6.4), retrain=(4.0, 6.2))
    worse = registered(with_versions)
    assert (worse["challenger"], worse["champion"]) == (2, 2)
    assert worse["gate"]["passed"] is False
    assert worse["gate"]["reasons"] == [
        "not better than the champion: 6.2000 against 6.0000 bits per sample over 2 songs"
    ]
    assert registered(with_versions) == worse
    outputs(with_versions, train=(5.0, 5.5), retrain=(6.0, 5.8))
    better = registered(with_versions)
    assert (better["challenger"], better["champion"]) == (5, 5)
    assert versions.get_alias("champion") == versions.get_alias("challenger") == 5


def test_the_challenger_is_the_best_candidate_and_not_the_newest(repository):
    outputs(repository, train=(1.0, 7.5), retrain=(2.0, 7.2))  # none passes the gate
    assert registered(repository)["challenger"] == 2
    outputs(repository, train=(3.0, 7.4), retrain=(4.0, 7.3))
    assert registered(repository)["challenger"] == 2
    outputs(repository, train=(5.0, 7.1), retrain=(6.0, 7.3))
    assert registered(repository)["challenger"] == 5
    assert versions.get_alias("challenger") == 5


@pytest.mark.parametrize("asked", [False, True])
def test_an_experiment_registers_nothing_unless_asked(with_versions, monkeypatch, asked):
    before = {v.number: v.aliases for v in versions.list_versions()}
    monkeypatch.setenv("DVC_EXP_NAME", "loud-cow")
    params = {**PARAMS, "register": {"in_experiments": asked}}
    (with_versions / "params.yaml").write_text(yaml.safe_dump(params))
    outputs(with_versions, train=(3.0, 5.0), retrain=(4.0, 5.2))
    content = registered(with_versions)
    if asked:
        assert (content["versions"], content["champion"]) == ({"train": 3, "retrain": 4}, 3)
        return
    assert {v.number: v.aliases for v in versions.list_versions()} == before
    assert (content["versions"], content["challenger"], content["champion"]) == ({}, 2, 2)
    assert "experiment loud-cow: nothing is registered" in content["gate"]["reasons"][0]
    run = tracking_store.connect().get_run(ensure_run("train", with_versions / "models" / "train"))
    assert run.data.metrics["bits_per_sample"] == 5.0  # its evaluation is logged
    monkeypatch.delenv("DVC_EXP_NAME")  # `dvc exp apply`, then `dvc repro`
    assert registered(with_versions)["champion"] == 3


@pytest.mark.parametrize("deleted", ["version", "model", "run"])
def test_what_was_deleted_in_mlflow_is_registered_again(with_versions, deleted):
    content = json.loads((with_versions / "registered.json").read_text())
    client = tracking_store.connect()
    if deleted == "version":
        client.delete_model_version("songcast", str(content["champion"]))
    elif deleted == "model":
        client.delete_registered_model("songcast")
    else:
        client.delete_run(versions.get_version(2).run_id)
    again = registered(with_versions)
    assert again["champion"] == versions.get_alias("champion") == again["versions"]["retrain"]
    assert weights_of(downloads.resolve("models:/songcast@champion")) == weights_of(
        with_versions / "models" / "retrain"
    )
    present = {v.number for v in versions.list_versions() if not v.is_run_deleted}
    assert present >= set(again["versions"].values())


def test_a_champion_measured_on_other_songs_is_compared_on_the_common_ones(repository):
    outputs(repository, songs=("a", "b"))
    registered(repository)
    outputs(repository, train=(3.0, 6.5), retrain=(4.0, 6.1), songs=("b", "c"))
    assert registered(repository)["gate"]["reasons"] == [
        "not better than the champion: 6.1000 against 6.0000 bits per sample over 1 song"
    ]
    outputs(repository, train=(3.0, 6.5), retrain=(5.0, 5.9), songs=("b", "c"))
    assert registered(repository)["champion"] == 5
    outputs(repository, train=(3.0, 6.5), retrain=(6.0, 5.0), songs=("d",))
    assert registered(repository)["champion"] == 5  # nothing in common: nothing proven


def test_without_a_passing_version_there_is_no_champion(repository):
    outputs(repository, train=(1.0, 7.5), retrain=(2.0, 7.2))
    content = registered(repository)
    assert (content["challenger"], content["champion"]) == (2, None)
    assert content["gate"]["reasons"] == [
        "not better than ridge: 7.2000 against 7.0000 bits per sample over 2 songs"
    ]
    with pytest.raises(RegistryError, match="no version has the alias 'champion' yet"):
        downloads.resolve("models:/songcast@champion")


@pytest.mark.parametrize("nothing", [float("nan"), float("-inf"), None])
def test_a_bundle_without_a_number_is_never_the_challenger(repository, nothing):
    outputs(repository, train=(1.0, nothing), retrain=(2.0, 6.9))
    assert registered(repository)["challenger"] == 2


def test_registering_known_weights_brings_their_numbers_up_to_date(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run = ensure_run("train", bundle)
    for number in (6.5, 6.0):
        entry, ridge = ({"summary": numbers(n), "songs": {"a": numbers(n)}} for n in (number, 7.0))
        assert registration.register_bundle(run, bundle, "train", entry, ridge) == 1
        found = versions.get_version(1)
        assert (found.evaluation, found.ridge["summary"]) == (entry, numbers(7.0))
        assert found.tags["songcast.bits_per_sample"] == f"{number:g}"


ELSEWHERE = {
    "time": "2026-01-02T03:04:05+00:00",
    "git_commit": "a" * 40,
    "git_dirty": False,
    "hardware": "a large machine, 16 cores",
    "device": "NVIDIA H200",
    "params": {"train": {"seed": 3}},
}


def test_a_version_has_few_short_tags_and_a_creator(repository, monkeypatch):
    monkeypatch.setattr(lineage.getpass, "getuser", lambda: "grace")
    outputs(repository, origin={**ELSEWHERE, "songs": []}, train=(1.0, 7.5))
    registered(repository)
    client = tracking_store.connect()
    for number, kind, bits, gate in (
        ("1", "train", "7.5", "closed: not better than ridge: 7.5000"),
        ("2", "retrain", "6", "passed"),
    ):
        found = client.get_model_version("songcast", number)
        assert found.user_id == "grace"
        short = {key.removeprefix("songcast."): value for key, value in found.tags.items()}
        assert short.pop("gate").startswith(gate)
        assert {len(short.pop(f"{name}_sha256")) for name in ("bundle", "lineage")} == {64}
        assert short == {"kind": kind, "bits_per_sample": bits, "gain_over_ridge_db": "0"}


def test_an_altered_record_is_refused_and_registered_again(with_versions):
    for file in (with_versions / "mlruns").rglob("lineage.json"):
        file.write_text(file.read_text().replace("6.0", "5.0").replace("6.5", "5.5"))
    with pytest.raises(RegistryError, match="is missing or altered"):
        _ = versions.get_version(2).evaluation
    outputs(with_versions)
    (with_versions / "registered.json").unlink()
    registered(with_versions)
    assert versions.get_version(2).evaluation["summary"]["bits_per_sample"] == 6.0


def test_a_version_of_songcast_0_2_0_has_its_record_in_tags(repository):
    client = tracking_store.connect()
    versions.ensure_model(client)
    tags = {"evaluation": '{"summary": {"bits_per_sample": 6.0}}', "git_commit": "a" * 40}
    tags |= {"git_dirty": "false", "weights_sha256": "ab", "seeds": '{"train.seed": 3}'}
    tags = {f"songcast.{key}": value for key, value in tags.items()}
    client.create_model_version("songcast", source="here", tags=tags)
    found = versions.get_version(1)
    assert found.evaluation == {"summary": {"bits_per_sample": 6.0}}
    assert found.weights_sha256 == "ab"
    assert found.lineage["seeds"] == {"train.seed": 3}
    assert (found.lineage["git_commit"], found.lineage["git_dirty"]) == ("a" * 40, False)


def test_a_version_has_the_origin_of_its_bundle_and_not_of_the_machine_that_registers(repository):
    outputs(repository, origin=ELSEWHERE)
    registered(repository)
    for version in versions.list_versions():
        for key in ("time", "git_commit", "hardware", "device"):
            assert version.lineage[key] == ELSEWHERE[key]
        assert version.lineage["git_dirty"] is False
        assert version.lineage["params"] == ELSEWHERE["params"]
        assert "data_hash" not in version.lineage


def test_a_model_that_was_trained_again_elsewhere_keeps_its_version_and_its_first_origin(
    repository,
):
    outputs(repository, origin=ELSEWHERE)
    first = registered(repository)
    again = {**ELSEWHERE, "time": "2027-01-01T00:00:00+00:00", "device": "CPU"}
    outputs(repository, origin=again)
    assert registered(repository) == first
    assert len(versions.list_versions()) == 2
    assert versions.get_version(1).lineage["device"] == "NVIDIA H200"
    make_bundle(repository / "models" / "continuation", 5.0)  # another package
    assert registered(repository)["versions"] == {"train": 3, "retrain": 4}


def test_what_the_run_did_not_log_is_not_registered(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run = ensure_run("train", bundle)
    client = tracking_store.connect()
    empty = client.create_run(tracking_store.experiment_id(client)).info.run_id
    other = make_bundle(repository / "models" / "other", 2.0)
    for run_id, folder in ((empty, bundle), (run, other)):
        with pytest.raises(RegistryError, match=f"run {run_id} did not train the weights"):
            registration.register_bundle(run_id, folder, "train", {})
    assert versions.list_versions() == []


def test_a_version_is_sealed(repository):
    outputs(repository)
    registered(repository)
    assert_sealed(versions.get_version(1))


def test_a_description_is_cut_at_the_columns_width(repository):
    outputs(repository)
    registered(repository)
    registration.set_description(versions.get_version(1), "x" * 5000 + "y")
    found = tracking_store.connect().get_model_version("songcast", "1")
    assert found.description == "x" * 5000


class FakeRegistry:
    """A registry in which someone else makes the model."""

    def __init__(self, refusal="RESOURCE_ALREADY_EXISTS"):
        self.refusal = refusal

    def search_registered_models(self, query):
        return []

    def create_registered_model(self, name, description):
        from mlflow.exceptions import MlflowException
        from mlflow.protos import databricks_pb2

        raise MlflowException("no", databricks_pb2.ErrorCode.Value(self.refusal))


def test_a_model_that_another_client_makes_at_the_same_time_is_there():
    versions.ensure_model(FakeRegistry())
    with pytest.raises(Exception, match="no") as caught:
        versions.ensure_model(FakeRegistry("PERMISSION_DENIED"))
    assert caught.value.error_code == "PERMISSION_DENIED"


def test_equal_weights_are_one_version(repository):
    outputs(repository, train=(1.0, 6.0), retrain=(1.0, 6.0))
    content = registered(repository)
    assert content["versions"] == {"train": 1, "retrain": 1}
    assert len(versions.list_versions()) == 1


def test_registrations_at_once_make_one_version(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    run_id = ensure_run("train", bundle)
    made, wait = [], threading.Barrier(4)

    def task():
        wait.wait()
        made.append(registration.register_bundle(run_id, bundle, "train", {}))

    threads = [threading.Thread(target=task) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1, 1, 1, 1]
    assert len(versions.list_versions()) == 1


def test_a_run_without_this_model_cannot_be_registered(repository):
    bundle = make_bundle(repository / "models" / "train", 1.0)
    with stage_run("train", {}) as run:
        pass
    with pytest.raises(RegistryError, match="did not train the weights"):
        registration.register_bundle(run.run_id, bundle, "train", {})


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/songcast/9", "no such version"),
        ("models:/songcast@prod", "no version has the alias 'prod'"),
        ("models:/other@champion", "no model is registered yet"),
        ("models:/songcast/latest", "not a registered model"),
        ("models:/a' or 'b'='b/1", "not a registered model"),
        ("songcast", "not a registered model"),
    ],
)
def test_a_uri_that_names_nothing_is_refused_in_one_line(with_versions, uri, message):
    with pytest.raises(RegistryError, match=message) as caught:
        downloads.resolve(uri)
    assert "\n" not in str(caught.value)


def test_a_version_resolves_to_its_bundle_also_after_a_move(with_versions, tmp_path, monkeypatch):
    moved = with_versions.rename(tmp_path / "there")
    use_repository(moved, monkeypatch)
    for uri, kind in (("models:/songcast@champion", "retrain"), ("models:/songcast/1", "train")):
        folder = downloads.resolve(uri)
        assert folder.is_relative_to(moved)
        assert weights_of(folder) == weights_of(moved / "models" / kind)


def test_altered_artifacts_are_not_served(with_versions):
    folder = downloads.resolve("models:/songcast@champion")
    make_bundle(folder, 99.0)  # a sound bundle, but not the one that was registered
    with pytest.raises(BundleError, match="differ from the registered ones"):
        downloads.resolve("models:/songcast@champion")
    (folder / "weights.safetensors").write_bytes(b"altered")
    with pytest.raises(BundleError, match="altered"):
        downloads.resolve("models:/songcast@champion")


def test_missing_outputs_end_the_stage_with_one_line_and_2(repository, own_process, capsys):
    assert exit_code(register.main) == 2
    outputs(repository)
    (repository / "models" / "train" / "bundle.json").unlink()
    assert exit_code(register.main) == 2
    outputs(repository)
    write_evaluation(repository, evaluation_of(ridge=numbers(7.0), train=numbers(6.0)))
    assert exit_code(register.main) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert "evaluation.json: missing" in lines[0]
    assert "bundle.json is missing" in lines[1]
    assert "has no entry for retrain" in lines[2]
    assert not (repository / "registered.json").exists()


# Files of a version: pull, model card, lineage


def write_songs(folder):
    """Prepared songs, and the page that states their licences."""
    write_prepared(folder, a={"train": (0, 1), "test": (1, 2)}, b={"test": (0, 2)})
    (folder / "data").mkdir()
    (folder / "data" / "SOURCES.md").write_text("# Songs\n\n## a.wav\n\n- licence: CC0 | 1.0\n")
    (folder / "params.yaml").write_text("train: {seed: 7, exclude: []}\n")


def test_a_version_can_be_pulled_with_its_card_and_traced_to_its_songs(repository, capfd):
    write_songs(repository)
    origin = lineage.provenance(["a"])
    (repository / "params.yaml").write_text("train: {seed: 8}\n")  # edited after the training
    outputs(repository, origin=origin, persistence=numbers(11.0), cascade=numbers(6.8))
    registered(repository)
    assert cli.main(["pull", "models:/songcast/1", "mine"]) == 0
    assert weights_of(repository / "mine") == weights_of(repository / "models" / "train")
    card = (repository / "mine" / "model_card.md").read_text()
    assert "| a.wav | 1.0 | `abababababab` | CC0 \\| 1.0 |" in card
    assert "b.wav" not in card  # it was not learned from
    assert "| a | 40.00 | 6.5000 |" in card
    assert "| persistence | **40.00** | 11.0000 | 0 |" in card
    description = tracking_store.connect().get_model_version("songcast", "1").description
    assert card.startswith(description)
    assert description.startswith("**train, 6.500 bits per sample, 0.0 dB over ridge**\n")
    capfd.readouterr()
    assert cli.main(["trace", "models:/songcast@champion", "--json"]) == 0
    (entry,) = json.loads(capfd.readouterr().out)["chain"]
    assert (entry["version"], entry["seeds"]) == (2, {"train.seed": 7})
    assert entry["params"] == {"train": {"seed": 7, "exclude": []}}
    assert [(s["slug"], s["learned"], s["licence"]) for s in entry["songs"]] == [
        ("a", True, "CC0 | 1.0"),
        ("b", False, None),
    ]
    assert cli.main(["trace", "models:/songcast@champion"]) == 0
    assert "b.wav (not used for training); licence not stated" in capfd.readouterr().out


def test_a_retrained_version_names_its_parent(repository, capfd):
    parent = make_bundle(repository / "models" / "train", 1.0)
    child = make_bundle(
        repository / "models" / "retrain", 2.0, parent_weights_sha256=weights_of(parent)
    )
    for kind, bundle in (("train", parent), ("retrain", child)):
        registration.register_bundle(ensure_run(kind, bundle), bundle, kind, {})
    said = {"parent_version": 1, "parent_weights_sha256": weights_of(parent)}
    assert said.items() <= versions.get_version(2).lineage.items()
    assert not said.keys() & versions.get_version(1).lineage.keys()
    assert cli.main(["trace", "models:/songcast/2", "--json"]) == 0
    chain = json.loads(capfd.readouterr().out)["chain"]
    assert [entry["version"] for entry in chain] == [2, 1]


def test_pull_leaves_what_is_there_alone(with_versions, capfd):
    (with_versions / "mine").mkdir()
    (with_versions / "mine" / "letter.txt").write_text("dear")
    assert cli.main(["pull", "mine"]) == 2
    assert "already exists" in capfd.readouterr().err
    make_bundle(downloads.resolve("models:/songcast@champion"), 99.0)
    assert cli.main(["pull", "yours"]) == 2
    assert "sha256 differs" in capfd.readouterr().err
    assert sorted(p.name for p in with_versions.glob("*")) == [
        *("dvc.yaml", "metrics", "mine", "mlruns", "models", "registered.json")
    ]


def test_pull_makes_the_folders_it_needs_and_takes_an_empty_one(repository):
    outputs(repository)
    registered(repository)
    (repository / "empty").mkdir()
    (repository / "file").write_text("mine")
    for name in ("empty", "new/one/in/another"):
        downloads.pull("models:/songcast/1", repository / name)
        assert weights_of(repository / name) == versions.get_version(1).weights_sha256
    with pytest.raises(RegistryError, match="file: already exists: name a new folder"):
        downloads.pull("models:/songcast/1", repository / "file")
    assert (repository / "file").read_text() == "mine"


@pytest.fixture
def downloaded(repository, monkeypatch):
    """A registered version whose files are on a server; the paths that were downloaded."""
    outputs(repository)
    registered(repository)
    stored = versions.repository(versions.get_version(1))
    done = []

    class Server:
        list_artifacts = staticmethod(stored.list_artifacts)

        def download_artifacts(self, path, into):
            done.append(path)
            return stored.download_artifacts(path, into)

    monkeypatch.setattr(downloads, "local_path", lambda location: None)
    monkeypatch.setattr(downloads, "repository", lambda found: Server())
    return done


@pytest.mark.parametrize(
    ("variable", "below"), [("XDG_CACHE_HOME", "songcast"), ("HOME", ".cache/songcast")]
)
def test_files_from_a_server_are_kept_in_the_users_cache_and_verified_each_time(
    downloaded, tmp_path, monkeypatch, variable, below
):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv(variable, str(tmp_path / "deep" / "down"))
    found = versions.get_version(1)
    for damage in (None, "weights.safetensors", "bundle.json"):
        if damage:
            (folder / damage).write_bytes(b"altered")  # noqa: F821
        folder = downloads.resolve(found.uri)
        assert folder == tmp_path / "deep" / "down" / below / found.tags["songcast.bundle_sha256"]
        assert weights_of(folder) == found.weights_sha256
        assert sorted(downloaded) == [
            f"artifacts/train/{name}"
            for name in (
                *("bundle.json", "continuation/bundle.json"),
                *("continuation/weights.safetensors", "weights.safetensors"),
            )
        ]
        downloaded.clear()
        assert downloads.resolve(found.uri) == folder
        assert downloaded == []
    assert list(folder.parent.iterdir()) == [folder]


def test_pull_takes_what_was_registered_and_nothing_beside_it(with_versions, tmp_path):
    folder = downloads.resolve("models:/songcast/1")
    (tmp_path / "secret").write_text("mine")
    (folder / "letter.txt").symlink_to(tmp_path / "secret")
    (folder / "evil.py").write_text("raise SystemExit")
    downloads.pull("models:/songcast/1", tmp_path / "mine")
    assert {p.name for p in (tmp_path / "mine").iterdir()} == {
        *("weights.safetensors", "bundle.json", "continuation", "model_card.md")
    }


def test_pull_gives_one_version_while_the_alias_moves(repository, monkeypatch):
    outputs(repository)
    numbers = registered(repository)["versions"]
    resolve = downloads.resolve

    def resolve_and_move(uri):
        folder = resolve(uri)
        versions.set_alias(tracking_store.connect(), "challenger", numbers["train"])
        return folder

    monkeypatch.setattr(downloads, "resolve", resolve_and_move)
    found = downloads.pull("models:/songcast@challenger", repository / "mine")
    assert found.number == numbers["retrain"]
    assert found.weights_sha256 == weights_of(repository / "mine")


def test_two_downloads_at_once_leave_one_bundle_that_nobody_takes_away(
    repository, tmp_path, monkeypatch
):
    outputs(repository)
    registered(repository)
    monkeypatch.setattr(downloads, "local_path", lambda location: None)  # as if on a server
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    listing, seen = downloads.listing, []

    def listing_while_another_downloads(repository, folder):
        if not seen:
            seen.append(None)
            seen.append(downloads.resolve("models:/songcast/1").stat().st_ino)
        return listing(repository, folder)

    monkeypatch.setattr(downloads, "listing", listing_while_another_downloads)
    folder = downloads.resolve("models:/songcast/1")
    assert folder.stat().st_ino == seen[1]
    assert {path.name for path in folder.iterdir()} == {
        *("weights.safetensors", "bundle.json", "continuation")
    }


def test_other_weights_under_the_registered_name_are_not_loaded(with_versions, capfd):
    """A bundle that is sound in itself, and claims the sha256 that the registry knows."""
    folder = downloads.resolve("models:/songcast/1")
    claimed = weights_of(folder)
    make_bundle(folder, 99.0)
    manifest = json.loads((folder / "bundle.json").read_text())
    (folder / "bundle.json").write_text(json.dumps({**manifest, "weights_sha256": claimed}))
    assert weights_of(folder) == claimed
    assert cli.main(["pull", "models:/songcast/1", "mine"]) == 2
    assert "differ from the registered ones" in capfd.readouterr().err
    assert not (with_versions / "mine").exists()


@pytest.mark.parametrize("digest", ["../../victim", "/victim", "", "A" * 64])
def test_a_digest_from_a_server_never_becomes_a_path(with_versions, digest):
    client = tracking_store.connect()
    client.set_model_version_tag("songcast", "1", "songcast.bundle_sha256", digest)
    with pytest.raises(BundleError, match="no sha256 of its files"):
        downloads.resolve("models:/songcast/1")


class Evil:
    """A server that lists what suits it: one entry, or folder in folder without end."""

    def __init__(self, path, is_dir=False):
        self.path, self.is_dir = path, is_dir

    def list_artifacts(self, folder):
        return [SimpleNamespace(path=self.path.format(folder=folder), is_dir=self.is_dir)]


@pytest.mark.parametrize(
    "path",
    [
        *("../evil", "/etc/passwd", "artifacts/../../evil", "artifacts/..", "artifacts", ""),
        *("a\\b", "artifacts/a\\b"),
    ],
)
def test_a_server_cannot_write_outside_the_folder(path):
    with pytest.raises(BundleError, match="leaves the folder"):
        list(downloads.listing(Evil(path), "artifacts"))


def test_what_lies_as_deep_as_a_bundles_deepest_file_is_listed():
    class Tree:
        def list_artifacts(self, folder):
            deepest = folder.count("/") == 2
            return [SimpleNamespace(path=f"{folder}/x", is_dir=not deepest)]

    assert list(downloads.listing(Tree(), "artifacts")) == ["artifacts/x/x/x"]


def test_a_server_cannot_send_folders_without_end():
    with pytest.raises(BundleError, match="artifacts/more/more/more/more: deeper than"):
        list(downloads.listing(Evil("{folder}/more", is_dir=True), "artifacts"))
    with pytest.raises(BundleError, match="deeper than"):
        list(downloads.listing(Evil("{folder}/more", is_dir=True), "artifacts"))
