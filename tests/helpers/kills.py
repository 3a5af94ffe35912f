"""Kill a stage at random moments, run it again, and compare with an undisturbed run.

DVC runs the stage, as in ``make run``. DVC and the stage get SIGKILL together, as in a power cut;
then the stage runs again. Its outputs must equal those of the undisturbed run.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from helpers.small_pipeline import Pipeline, Rehearsal


@dataclass
class Outcome:
    """The result of killing one stage.

    ``late`` counts the kills that came after the end of the stage; each was repeated.
    ``differ`` and ``left`` hold one line for each fault.
    """

    late: int = 0
    differ: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def kill_stage(pipeline: Pipeline, rehearsal: Rehearsal, kills: int, seed: int) -> Outcome:
    """Kill a stage and run it again, ``kills`` times.

    The duration of the stage is divided into ``kills`` equal parts, and one moment is drawn from
    each. If the stage ends before its moment, the machine has become faster: the duration is
    measured anew and the kill repeated.
    """
    rng = random.Random(seed)
    stage, duration_seconds = rehearsal.stage, rehearsal.seconds - rehearsal.begins
    outcome = Outcome()
    for index in range(kills):
        share = (index + rng.random()) / kills
        pipeline.restore(rehearsal.before)
        while (ended := pipeline.kill_stage(stage, share * duration_seconds)) is not None:
            outcome.late += 1
            duration_seconds = ended
            pipeline.restore(rehearsal.before)
        pipeline.run_stage(stage)
        where = f"killed at {share:.0%}"
        outcome.differ += [f"{where}: {line}" for line in differences(pipeline, rehearsal)]
        outcome.left += [f"{where}: {left}" for left in leftovers(pipeline)]
    return outcome


def leftovers(pipeline: Pipeline) -> list[str]:
    """Return the files that must not exist after the end of a stage."""
    return pipeline.half_written() + pipeline.unfinished()


def differences(
    pipeline: Pipeline, rehearsal: Rehearsal, spoiled: tuple[str, ...] = ("KILLED",)
) -> Iterator[str]:
    """Yield each difference of files, versions and runs from the undisturbed run.

    ``spoiled`` are the MLflow statuses that the disturbed run may have.
    """
    results, expected = pipeline.results(), rehearsal.results
    for name in sorted(results.keys() | expected.keys()):
        if results.get(name) != expected.get(name):
            yield f"{name} differs"
    if pipeline.versions() != rehearsal.versions:
        yield f"{len(pipeline.versions())} versions instead of {len(rehearsal.versions)}"
    for (stage, status), count in pipeline.runs().items():
        if status not in ("FINISHED", *spoiled):
            yield f"{count} runs of {stage} are marked {status}"
