"""What benchmarks/scale.py found: tables, the extrapolation with its assumptions, the figure."""

import json
from pathlib import Path
from typing import Any

HOURS, CORES, WORKERS = 1000, 64, 8
# Of params.yaml: rows of a step, frames of a row; of a song, so much is learned from.
ROWS, CROP_FRAMES, TRAIN_SHARE = 16, 4096, 0.7
RATE_HZ, CHANNELS = 44100, 2
# Written by hand from what benchmarks/training.py printed on such a machine.
GPU = Path(__file__).parents[1] / "docs" / "gpu.json"

Found = dict[str, Any]


def markdown(found: Found) -> str:
    """Return docs/scale.md."""
    sections = (
        "# How songcast grows",
        f"Measured by `benchmarks/scale.py` on {found['cores']} cores "
        f"([numbers](scale.json)); generated songs of {found['song_seconds']} s.",
        "![Prepare grows with the songs; training with the workers](scale.png)",
        "## prepare",
        _prepare(found["prepare"]),
        "What a process of prepare spends before its first song, which few songs cannot share out:",
        _start(found["start"]),
        "## train, shared by Ray workers of one core each",
        _training(found["training"]),
        "## sweep",
        _sweep(found["sweep"], found["cores"]),
        f"## {HOURS:,} hours of songs".replace(",", " "),
        _extrapolation(found),
    )
    return "\n\n".join(sections) + "\n"


def learned(row: Found) -> float:
    """Return the rows that a training learns from per second."""
    return float(row["rows"] * row["steps_per_second"])


def efficiency(row: Found, alone: Found) -> float:
    """Return what share of its workers' time goes into what one ``alone`` would do: 0 to 1."""
    return learned(row) / (int(row["workers"]) * learned(alone))


def _prepare(rows: list[Found]) -> str:
    lines = [
        "| songs | what | hours of audio per core minute | wall s | faster than 1 worker "
        "| CPU against the bare decoder | MB per process |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        same = [r for r in rows if r["songs"] == row["songs"]]
        alone = next(r for r in same if (r["what"], r["workers"]) == (row["what"], 1))
        bare = next(r for r in same if (r["what"], r["workers"]) == ("decode", 1))
        lines.append(
            f"| {row['songs']} | {_named(row)} | {_per_minute(row):.2f} "
            f"| {row['wall_seconds']:.1f} | {alone['wall_seconds'] / row['wall_seconds']:.2f} x "
            f"| {row['cpu_seconds'] / bare['cpu_seconds']:.2f} x | {row['peak_mb_per_process']} |"
        )
    return "\n".join(lines)


def _named(row: Found) -> str:
    what = {"decode": "bare decoder", "prepare": "prepare"}[row["what"]]
    return f"{what}, {row['workers']} worker{'s'[: row['workers'] - 1]}"


def _per_minute(row: Found) -> float:
    return float(row["audio_hours"] / row["cpu_seconds"] * 60)


def _start(rows: list[Found]) -> str:
    lines, before = ["| loading | CPU s |", "|---|--:|"], 0.0
    for row in rows:
        lines.append(f"| {row['start']} | {row['cpu_seconds'] - before:.2f} |")
        before = row["cpu_seconds"]
    return "\n".join(lines)


def _training(rows: list[Found]) -> str:
    lines = [
        "| workers | rows in a step | steps per second | rows per second | of the ideal |",
        "|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['workers']} | {row['rows']} | {row['steps_per_second']:.2f} | "
        f"{learned(row):.0f} | {efficiency(row, rows[0]):.0%} |"
        for row in rows
    ]
    megabytes = rows[0]["weights"] * 4 / 1e6
    lines += [
        "",
        f"Each step sends {megabytes:.2f} MB of gradients. Two workers may share the batch of one, "
        "which gives the same training sooner, or have as many rows each.",
    ]
    return "\n".join(lines)


def trial_seconds(rows: list[Found], cores: int) -> tuple[float, float]:
    """Return the CPU seconds of one trial that learns nothing, and its core's wall seconds."""
    few, many = rows
    trials = many["sweep"] - few["sweep"]
    cpu = (many["cpu_seconds"] - few["cpu_seconds"]) / trials
    return cpu, (many["wall_seconds"] - few["wall_seconds"]) * cores / trials


def _sweep(rows: list[Found], cores: int) -> str:
    cpu, wall = trial_seconds(rows, cores)
    return (
        f"A trial that learns nothing (its process, Keras and the rest of songcast loaded, one row "
        f"reported) takes {cpu:.1f} CPU s, and {wall:.1f} s of a core's time: the difference of "
        f"{rows[1]['sweep']} and {rows[0]['sweep']} trials. The sweep itself starts and ends in "
        f"{rows[0]['wall_seconds'] - wall * rows[0]['sweep'] / cores:.0f} s."
    )


def _extrapolation(found: Found) -> str:
    row = [r for r in found["prepare"] if (r["what"], r["workers"]) == ("prepare", 2)][-1]
    prepare = row["cpu_seconds"] / row["audio_hours"] * HOURS / 3600
    hearing = found["training"][0]["hearing_cpu_per_audio_second"] * HOURS * (1 - 0.2)
    steps = HOURS * 3600 * RATE_HZ * CHANNELS * TRAIN_SHARE / (ROWS * CROP_FRAMES)
    alone, *_, grown = found["training"]
    lost = max(1 / efficiency(grown, alone) - 1, 0.0)
    share = 1 / (1 + (WORKERS - 1) * lost)
    return "\n".join(
        [
            "| step | work | with | hours |",
            "|---|--:|---|--:|",
            f"| prepare | {prepare:.1f} core hours | {CORES} cores | {prepare / CORES:.2f} |",
            f"| the experts' hearing | {hearing:.0f} core hours | {CORES} cores "
            f"| {hearing / CORES:.1f} |",
            f"| one pass of training | {steps / 1e6:.2f} million steps | {WORKERS} GPUs, each of "
            f"G steps per second | {steps / WORKERS / share / 3600:.0f} / G |",
            "",
            "Assumed: the processor seconds per hour of audio stay what they are (above they do, "
            "from a hundred songs on); the disk keeps up; every song is stereo, and processed "
            "once, without augmentations. A pass sees every train frame of every channel once on "
            "average; "
            f"each of {WORKERS} workers has the rows of one ({WORKERS * ROWS} in a step), and each "
            f"further one costs what the second did ({lost:.0%} of a step), so that "
            f"{WORKERS} do {WORKERS * share:.1f} times the work of one: pessimistic where the "
            "second worker shares this machine's memory and caches with the first, optimistic "
            "where a slow network lies between. G is a GPU's own steps per second, which "
            "`benchmarks/training.py --only ours --rows N` measures on a machine that has one:",
            "",
            *_gpu(json.loads(GPU.read_text())),
        ]
    )


def _gpu(found: Found) -> list[str]:
    lines = [
        f"| {found['device']}, {found['backend']}: rows in a step | steps per second "
        "| amplitudes per second |",
        "|--:|--:|--:|",
    ]
    for row in found["steps"]:
        millions = row["amplitudes_per_second"] / 1e6
        lines.append(f"| {row['rows']} | {row['steps_per_second']:.1f} | {millions:.1f} M |")
    return [*lines, "", str(found["note"])]


def draw(found: Found, path: Path) -> None:
    """Write the figure."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for what in (("decode", 1), ("prepare", 1), ("prepare", 2)):
        mine = [row for row in found["prepare"] if (row["what"], row["workers"]) == what]
        hours = [row["audio_hours"] for row in mine]
        left.loglog(hours, [row["cpu_seconds"] for row in mine], "o-", label=_named(mine[0]))
    left.set(xlabel="hours of audio", ylabel="processor seconds")
    left.set_title("prepare grows with the songs, near the bare decoder", fontsize=10)
    left.set_xticks(hours, [f"{value:.2g}" for value in hours])
    left.minorticks_off()
    rows = found["training"]
    names = [
        f"{row['workers']} worker{'s'[: row['workers'] - 1]}\n{row['rows']} rows" for row in rows
    ]
    right.bar(
        names, [row["workers"] * learned(rows[0]) for row in rows], color="0.9", label="ideal"
    )
    right.bar(names, [learned(row) for row in rows], label="measured")
    right.set(ylabel="rows per second")
    right.set_title("train, in workers of one core each", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
