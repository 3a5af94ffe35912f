"""A stage that was killed at any moment and runs again has the same outputs as undisturbed."""

import os
import signal

import pytest

from helpers.kills import differences, kill_stage, leftovers
from helpers.small_pipeline import STAGES

# SONGCAST_KILLS=30 kills each stage at 30 moments.
KILLS = int(os.environ.get("SONGCAST_KILLS", "1"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_has_the_same_outputs_when_it_runs_again(rehearsed, stage):
    pipeline, rehearsals = rehearsed
    outcome = kill_stage(pipeline, rehearsals[stage], kills=KILLS, seed=STAGES.index(stage))
    assert outcome.differ == []
    assert outcome.left == []


def test_a_terminated_stage_prints_one_line_and_marks_its_run_as_killed(at):
    pipeline, rehearsal = at("train")
    process = pipeline.start_bare("train")
    for line in process.stdout:
        if "epoch 1 of" in line:
            break
    process.send_signal(signal.SIGTERM)
    lines = process.communicate()[0].splitlines()
    assert (process.returncode, lines[-1]) == (130, "songcast train: interrupted")
    assert pipeline.runs()["train", "KILLED"] == 1
    assert pipeline.runs()["pipeline", "KILLED"] == 1
    pipeline.run_stage("train")
    assert list(differences(pipeline, rehearsal)) == []
    assert leftovers(pipeline) == []
    # It resumed its run.
    assert {key: n for key, n in pipeline.runs().items() if key[0] == "train"} == {
        ("train", "FINISHED"): 1
    }


def test_a_second_pipeline_at_the_same_time_is_refused_and_the_first_one_is_unharmed(at):
    pipeline, rehearsal = at("prepare")
    with pipeline.running("prepare") as first:
        # Stopped, because a fast machine would end it before the second one begins.
        os.killpg(first.pid, signal.SIGSTOP)
        try:
            second = pipeline.start_stage("prepare")
            output = second.communicate()[0]
        finally:
            os.killpg(first.pid, signal.SIGCONT)
        first.communicate()
    assert second.returncode != 0
    assert "another process" in output or "lock" in output
    assert first.returncode == 0
    assert list(differences(pipeline, rehearsal)) == []
