"""Who may be champion, who was, and what happens when two want it at once."""

import json
import math
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.mlflow_store import evaluation_of, numbers, use_repository
from helpers.records import assert_sealed
from songcast import cli
from songcast.errors import RegistryError
from songcast.registry import promotion
from songcast.registry.promotion import Move, earlier_champion, rolled_back
from songcast.registry.versions import MEASURED, RIDGE, ensure_model, get_alias, list_versions
from songcast.tracking import lineage
from songcast.tracking import store as tracking_store
from songcast.tracking.run_data import KIND


@pytest.fixture
def repository(tmp_path, monkeypatch):
    return use_repository(tmp_path / "here", monkeypatch)


def make_version(bits):
    """Register a version without files; the gate looks at nothing but its numbers."""
    client = tracking_store.connect()
    ensure_model(client)
    entry = json.dumps({"summary": numbers(bits), "songs": {"a": numbers(bits)}})
    ridge = json.dumps({"summary": numbers(7.0), "songs": {"a": numbers(7.0)}})
    tags = {KIND: "train", MEASURED: entry, RIDGE: ridge}
    return int(client.create_model_version("songcast", source="here", tags=tags).version)


def told(capfd, *arguments):
    """Run the command line: exit code, stdout, stderr."""
    capfd.readouterr()
    code = cli.main(list(arguments))
    out, err = capfd.readouterr()
    return code, out, err


def test_promotion_passes_the_gate_and_is_written_down(repository):
    for bits in (6.5, 6.0, 6.2, 7.5):
        make_version(bits)
    first = promotion.promote(1)
    assert (first.before, first.why) == (None, "it passed the gate")
    move = promotion.promote(2, why="rounder bass")
    assert (move.number, move.action, move.before, move.after) == (2, "promote", 1, 2)
    assert get_alias("champion") == 2
    with pytest.raises(RegistryError, match="already the champion"):
        promotion.promote(2)
    with pytest.raises(RegistryError, match=r"not better than ridge.*not better than the champion"):
        promotion.promote(4)
    with pytest.raises(RegistryError, match="no such version"):
        promotion.promote(9)
    assert promotion.history()[-1] == move
    assert len(promotion.history()) == 2


def test_force_needs_a_reason_and_records_what_the_gate_said(repository, capfd):
    for bits in (6.0, 7.5):
        make_version(bits)
    promotion.promote(1)
    code, out, err = told(capfd, "promote", "2", "--force", "--json")
    assert (code, out) == (2, "")
    assert err == "songcast promote: a forced promotion needs a reason: add --reason TEXT\n"
    code, out, _ = told(capfd, "promote", "v2", "--force", "--reason", "to hear it", "--json")
    said = json.loads(out)
    assert (code, said["after"], said["why"]) == (0, 2, "to hear it")
    assert len(said["overruled"]) == 2
    code, out, _ = told(capfd, "history", "--json")
    assert json.loads(out)["history"][0] == said


def test_a_version_that_was_never_measured_is_not_promoted(repository):
    client = tracking_store.connect()
    ensure_model(client)
    client.create_model_version("songcast", source="here", tags={KIND: "train"})
    with pytest.raises(RegistryError, match="not evaluated: run `dvc repro register`"):
        promotion.promote(1)


@pytest.mark.parametrize("nothing", [math.nan, math.inf, -math.inf, None, "5.0"])
def test_what_has_no_number_is_the_challenger_only_of_its_like(repository, nothing):
    make_version(6.9)
    make_version(7.5)

    def challenger(train, retrain):
        evaluation = evaluation_of(("a",), train=numbers(train), retrain=numbers(retrain))
        promotion.decide(evaluation, {"train": 2, "retrain": 1})
        return get_alias("challenger")

    assert challenger(train=7.5, retrain=nothing) == 2
    assert challenger(train=nothing, retrain=6.9) == 1
    assert challenger(train=nothing, retrain=nothing) == 1  # of equals the older


def test_a_challenger_that_passes_becomes_champion_once(repository):
    make_version(6.5)
    for _ in range(2):
        promotion.decide(evaluation_of(("a",), train=numbers(6.5)), {"train": 1})
        assert get_alias("challenger") == get_alias("champion") == 1
    assert [move.after for move in promotion.history()] == [1]


def test_the_history_says_who_moved_the_champion(repository, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 1234")

    for bits in (6.5, 6.4, 6.3):
        make_version(bits)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ada")
    promotion.promote(1)
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    monkeypatch.setattr(lineage.getpass, "getuser", lambda: "grace")
    promotion.promote(2)
    monkeypatch.setattr(lineage.getpass, "getuser", nobody)
    promotion.promote(3)
    assert [move.who for move in promotion.history()] == ["ada", "grace", "unknown"]


def test_rollback_goes_back_one_at_a_time_and_stays(repository, capfd):
    for bits in (6.5, 6.4, 6.3):
        make_version(bits)
        promotion.promote(list_versions()[0].number)
    assert told(capfd, "rollback", "--reason", "clicks")[0] == 0
    assert get_alias("champion") == 2
    verdict = promotion.decide(evaluation_of(("a",), train=numbers(6.3)), {"train": 3})
    assert (get_alias("champion"), verdict.reasons) == (2, ("it was rolled back",))
    assert promotion.rollback().after == 1
    code, out, err = told(capfd, "rollback")
    assert (code, out) == (2, "")
    assert "no earlier champion" in err
    actions = [(m.action, m.before, m.after) for m in promotion.history()]
    assert actions[-2:] == [("rollback", 3, 2), ("rollback", 2, 1)]
    promotion.promote(3, why="the clicks were in the song", force=True)
    assert promotion.rollback().after == 1
    code, out, _ = told(capfd, "history")
    assert out.splitlines()[0].split() == ["time", "user", "action", "from", "to", "reason"]
    assert len(out.splitlines()) == 8


def moves(*said):
    return [
        Move(number=i, when="", who="", action=action, before=before, after=after, why="")
        for i, (action, before, after) in enumerate(said)
    ]


@pytest.mark.parametrize(
    ("past", "champion", "there", "earlier"),
    [
        ([], 1, {1}, None),
        ([("promote", None, 1)], 1, {1}, None),
        ([("promote", 6, 7)], 7, {6, 7}, 6),
        ([("promote", None, 1), ("promote", 1, 2), ("promote", 2, 3)], 3, {1, 3}, 1),
        ([("promote", 1, 2), ("rollback", 2, 1)], 1, {1, 2}, None),
        ([("promote", 1, 2), ("rollback", 2, 1), ("promote", 1, 3)], 3, {1, 2, 3}, 1),
        ([("promote", 1, 2)], 5, {1, 2, 5}, 2),  # someone moved the alias by hand
        ([("promote", 1, 2)], None, {1, 2}, 2),
        ([("promote", 1, 2), ("promote", 2, 1)], 1, {1, 2}, 2),
        ([("promote", 0, 1), ("promote", 2, 1)], 3, {1, 2, 3}, 1),  # by hand from 1 to 2
        ([("promote", 1, 2), ("rollback", 2, 5)], 5, {1, 2, 5}, 2),
    ],
)
def test_the_history_tells_the_earlier_champion(past, champion, there, earlier):
    assert earlier_champion(moves(*past), champion, there) == earlier


@given(st.lists(st.integers(0, 4), max_size=12))
@settings(deadline=None, derandomize=True)
def test_rollbacks_undo_promotions_one_after_the_other(steps):
    """Oracle: a list of champions. Each step promotes that version, 0 rolls back."""
    champions, past = [], []
    for step in steps:
        now = champions[-1] if champions else None
        if step not in (0, now):
            champions.append(step)
            past.append(("promote", now, step))
        elif step == 0 and len(champions) > 1:
            champions.pop()
            past.append(("rollback", now, champions[-1]))
    before, now = [None, None, *champions][-2:]
    assert earlier_champion(moves(*past), now, {1, 2, 3, 4}) == before


def test_a_long_reason_fits_into_the_databases_column_in_any_script(repository):
    client = tracking_store.connect()
    for bits in (6.5, 6.4):
        make_version(bits)
    for letter in ("a", '"', "\x01", "é", "\N{MUSICAL NOTE}"):
        overruled = tuple(str(number) * 300 for number in range(10))
        move = promotion._move(client, "promote", 1, 2, 3000 * letter, overruled)
        assert move == promotion.history()[-1]
        assert move.why == 500 * letter
        assert move.overruled == tuple(reason[:200] for reason in overruled[:8])
    tags = client.get_registered_model("songcast").tags
    assert max(map(len, tags.values())) <= 5000


def test_moves_are_sealed():
    assert_sealed(moves(("promote", 1, 2))[0])


def test_what_was_rolled_back_is_known_until_promoted_again():
    past = [("promote", 1, 2), ("rollback", 2, 1)]
    assert rolled_back(moves(*past)) == {2}
    assert rolled_back(moves(*past, ("promote", 1, 2))) == set()


def test_of_two_promotions_at_once_one_is_judged_after_the_other(repository):
    for bits in (6.5, 6.0, 6.1):
        make_version(bits)
    promotion.promote(1)
    results = {}

    def task(number):
        try:
            results[number] = promotion.promote(number).after
        except RegistryError as error:
            results[number] = str(error)

    threads = [threading.Thread(target=task, args=(n,)) for n in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[2] == get_alias("champion") == 2
    assert results[3] == 3 or "not better than the champion" in results[3]
    past = promotion.history()
    assert [move.before for move in past] == [None, *(move.after for move in past[:-1])]


def test_nothing_is_created_by_looking(tmp_path, monkeypatch, capfd):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert told(capfd, "history", "--json")[:2] == (0, '{\n  "history": []\n}\n')
    for command in (["promote", "1"], ["rollback"], ["compare", "1", "2"], ["pull", "x"]):
        code, out, err = told(capfd, *command)
        assert (code, out, len(err.splitlines())) == (2, "", 1), command
        assert "no model is registered yet" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("version", ["three", "-1", "", "1.5", "99999999999", "models:/other/1"])
def test_what_is_no_version_is_refused(version, capfd):
    with pytest.raises(SystemExit) as ended:
        cli.main(["promote", "--", version])
    assert ended.value.code == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_compare_says_who_is_better(repository, capfd):
    for bits in (6.0, 6.5):
        make_version(bits)
    code, out, _ = told(capfd, "compare", "1", "2")
    assert code == 0
    assert out.splitlines()[-2:] == [
        "mean -0.5000, 95 % interval -0.5000 to -0.5000, 1 songs",
        "version 1 is better",
    ]
    said = json.loads(told(capfd, "compare", "2", "1", "--json")[1])
    assert said == {
        "a": 2,
        "b": 1,
        "mean_bits": 0.5,
        "low_bits": 0.5,
        "high_bits": 0.5,
        "songs": {"a": 0.5},
    }
