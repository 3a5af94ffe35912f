"""Stopped at any moment and run again, a stage ends as if nothing had happened."""

import os
import signal

import pytest

from faults import differences, kill_stage, leftovers
from small_pipeline import STAGES


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_that_was_killed_ends_as_if_nothing_had_happened(rehearsed, stage):
    pipeline, rehearsals = rehearsed
    outcome = kill_stage(pipeline, rehearsals[stage], kills=1, seed=STAGES.index(stage))
    assert outcome.differ == []
    assert outcome.left == []


def test_a_stage_that_is_terminated_says_so_and_marks_its_run_as_killed(at):
    pipeline, rehearsal = at("train")
    process = pipeline.start_bare("train")
    for line in process.stdout:
        if "epoch 1 of" in line:
            break
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[0].splitlines()
    assert (process.returncode, said[-1]) == (130, "songcast train: interrupted")
    assert pipeline.runs()["train", "KILLED"] == 1
    assert pipeline.runs()["pipeline", "KILLED"] == 1
    pipeline.run_stage("train")
    assert list(differences(pipeline, rehearsal)) == []
    assert leftovers(pipeline) == []
    # It went on with its own run.
    assert {key: n for key, n in pipeline.runs().items() if key[0] == "train"} == {
        ("train", "FINISHED"): 1
    }


def test_a_lock_that_dvc_was_killed_over_costs_nothing(at):
    pipeline, rehearsal = at("baselines")
    assert pipeline.kill_stage("baselines", 0.0) is None
    lock = pipeline.folder / "dvc.lock"
    lock.write_bytes(lock.read_bytes()[:300])
    pipeline.run_stage("baselines")
    assert list(differences(pipeline, rehearsal)) == []
    assert leftovers(pipeline) == []


def test_of_two_pipelines_at_once_the_second_is_refused_and_the_first_unharmed(at):
    pipeline, rehearsal = at("prepare")
    with pipeline.running("prepare") as first:
        # Held where it is: a fast machine would have ended it before the second has begun.
        os.killpg(first.pid, signal.SIGSTOP)
        try:
            second = pipeline.start_stage("prepare")
            said = second.communicate()[0]
        finally:
            os.killpg(first.pid, signal.SIGCONT)
        first.communicate()
    assert second.returncode != 0
    assert "another process" in said or "lock" in said
    assert first.returncode == 0
    assert list(differences(pipeline, rehearsal)) == []
