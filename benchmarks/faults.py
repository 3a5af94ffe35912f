"""Kill every stage at random moments, run it again, and compare with an undisturbed run.

A whole pipeline on two short songs, in a folder of its own: each stage runs as `make run` runs
it, by DVC. At a moment drawn from the stage's undisturbed time, DVC and the stage get SIGKILL
together, as in a power cut; then the stage runs again. What is then there must be what there
would have been.
"""

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from small_pipeline import STAGES, Pipeline, Rehearsal, rehearse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the kills and print what came of them; 1 where a result differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="moments in each stage (30)")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES, metavar="STAGE")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    parsed = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="songcast-faults-") as scratch:
        pipeline = Pipeline.build(Path(scratch) / "repository")
        rehearsals = rehearse(pipeline, Path(scratch))
        outcomes = []
        for stage in parsed.stages:
            outcome = kill_stage(pipeline, rehearsals[stage], parsed.kills, parsed.seed)
            outcomes.append(outcome)
            for line in (*outcome.differ, *outcome.left):
                print(f"{outcome.stage}: {line}", file=sys.stderr)
            print(f"{outcome.stage}: {outcome.kills} kills", file=sys.stderr)
    if parsed.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        print("| stage | undisturbed, s | kills | too late | other results | leftovers |")
        print("|---|--:|--:|--:|--:|--:|")
        for o in outcomes:
            cells = (f"{o.seconds:.1f}", o.kills, o.late, len(o.differ), len(o.left))
            print(f"| {o.stage} | {' | '.join(map(str, cells))} |")
    return int(any(outcome.differ or outcome.left for outcome in outcomes))


@dataclass
class Outcome:
    """What the kills of one stage came to.

    ``seconds``: its undisturbed time, DVC's included. ``kills``: those that found it running;
    ``late``: those that came after its end, and were tried again. ``differ``, ``left``: one line
    for each fault.
    """

    stage: str
    seconds: float
    kills: int = 0
    late: int = 0
    differ: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def kill_stage(pipeline: Pipeline, rehearsal: Rehearsal, kills: int, seed: int) -> Outcome:
    """Kill a stage and run it again, ``kills`` times.

    The moments are drawn one from each of ``kills`` equal parts of the stage's time. One that
    comes after the stage's end shows that the machine has become faster: the stage's time is then
    what it was just now, and the moment is that share of it.
    """
    rng = random.Random(seed)
    stage, running = rehearsal.stage, rehearsal.seconds - rehearsal.begins
    outcome = Outcome(stage, rehearsal.seconds)
    for index in range(kills):
        share = (index + rng.random()) / kills
        pipeline.restore(rehearsal.before)
        while (ended := pipeline.kill_stage(stage, share * running)) is not None:
            outcome.late += 1
            running = ended
            pipeline.restore(rehearsal.before)
        outcome.kills += 1
        pipeline.run_stage(stage)
        where = f"killed at {share:.0%}"
        outcome.differ += [f"{where}: {line}" for line in differences(pipeline, rehearsal)]
        outcome.left += [f"{where}: {left}" for left in leftovers(pipeline)]
    return outcome


def leftovers(pipeline: Pipeline) -> list[str]:
    """Return what should not be there when a stage has ended."""
    return pipeline.half_written() + pipeline.unfinished()


def differences(pipeline: Pipeline, rehearsal: Rehearsal, spoiled: str = "KILLED") -> Iterator[str]:
    """Yield in what the folder and its registry differ from those of the undisturbed run.

    ``spoiled``: what MLflow calls the run that was disturbed.
    """
    found, expected = pipeline.results(), rehearsal.results
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            yield f"{name} is not the same"
    if pipeline.versions() != rehearsal.versions:
        yield f"{len(pipeline.versions())} versions instead of {len(rehearsal.versions)}"
    for (stage, status), count in pipeline.runs().items():
        if status not in ("FINISHED", spoiled):
            yield f"{count} runs of {stage} are marked {status}"


if __name__ == "__main__":
    sys.exit(main())
