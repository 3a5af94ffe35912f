"""The page and the figure of benchmarks/scale.py: tables, and an extrapolation to 1 000 hours."""

import json
from pathlib import Path
from typing import Any

HOURS, CORES, WORKERS = 1000, 64, 8
# From params.yaml: crops per step, frames per crop, share of a song that is trained on.
BATCH_SIZE, CROP_FRAMES, TRAIN_SHARE, VALIDATION_SHARE = 16, 4096, 0.7, 0.1
RATE_HZ, CHANNELS = 44100, 2
DOCS = Path(__file__).parents[1] / "docs"
# Written by hand from the output of benchmarks/training.py on a machine with a GPU.
GPU = DOCS / "gpu.json"
# Written by hand from `make run` with an album in data/.
ALBUM = DOCS / "album.json"
# Of the songs in the extrapolation, and of each song that train reads, with the warm-ups.
SONG_SECONDS, READ_SECONDS, PROCESSED_SECONDS = 180, 20, 35

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Return docs/scale.md."""
    sections = (
        "# Scale",
        "This page shows how time and memory grow with the number of songs and workers. It was "
        f"written by `benchmarks/scale.py` on a machine with {results['cores']} cores, from "
        f"`docs/scale.json`. Songs are generated and last {results['song_seconds']} s.",
        "![Time of prepare by hours of audio; training steps by workers](scale.png)",
        "## prepare",
        _prepare(results["prepare"]),
        "CPU time of a process before its first song, which matters for small collections:",
        _start(results["start"]),
        "## train with Ray workers of one core each",
        _training(results["training"]),
        "## sweep",
        _sweep(results["sweep"], results["cores"]),
        "## An album",
        _album(json.loads(ALBUM.read_text())),
        f"## {HOURS:,} hours of songs".replace(",", " "),
        _extrapolation(results),
    )
    return "\n\n".join(sections) + "\n"


def crops_per_second(row: Results) -> float:
    """Return the crops per second."""
    return float(row["batch_size"] * row["steps_per_second"])


def efficiency(row: Results, alone: Results) -> float:
    """Return the speed per worker relative to that of one worker ``alone``: 0 to 1."""
    return crops_per_second(row) / (int(row["workers"]) * crops_per_second(alone))


def _prepare(rows: list[Results]) -> str:
    lines = [
        "| songs | program | hours of audio per core minute | wall s | speed-up over 1 worker "
        "| CPU relative to the bare decoder | MB per process |",
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


def _named(row: Results) -> str:
    what = {"decode": "bare decoder", "prepare": "prepare"}[row["what"]]
    return f"{what}, {row['workers']} worker{'s'[: row['workers'] - 1]}"


def _per_minute(row: Results) -> float:
    return float(row["audio_hours"] / row["cpu_seconds"] * 60)


def _start(rows: list[Results]) -> str:
    lines, before = ["| loads | CPU s |", "|---|--:|"], 0.0
    for row in rows:
        lines.append(f"| {row['start']} | {row['cpu_seconds'] - before:.2f} |")
        before = row["cpu_seconds"]
    return "\n".join(lines)


def _training(rows: list[Results]) -> str:
    lines = [
        "| workers | batch size | steps per second | crops per second | efficiency |",
        "|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['workers']} | {row['batch_size']} | {row['steps_per_second']:.2f} | "
        f"{crops_per_second(row):.0f} | {efficiency(row, rows[0]):.0%} |"
        for row in rows
    ]
    megabytes = rows[0]["weights"] * 4 / 1e6
    lines += [
        "",
        f"Each step sends {megabytes:.2f} MB of gradients. Two workers either split the batch of "
        "one worker, which gives the same training in less time, or use a larger batch.",
    ]
    return "\n".join(lines)


def trial_seconds(rows: list[Results], cores: int) -> tuple[float, float]:
    """Return the overhead of one trial in CPU seconds and in wall seconds of one core."""
    few, many = rows
    trials = many["sweep"] - few["sweep"]
    cpu = (many["cpu_seconds"] - few["cpu_seconds"]) / trials
    return cpu, (many["wall_seconds"] - few["wall_seconds"]) * cores / trials


def _sweep(rows: list[Results], cores: int) -> str:
    cpu, wall = trial_seconds(rows, cores)
    return (
        f"The overhead of one trial (starting a process, loading Keras and songcast, reporting one "
        f"result) is {cpu:.1f} CPU s, or {wall:.1f} s of one core. It is the difference between "
        f"{rows[1]['sweep']} and {rows[0]['sweep']} trials that do not train. The overhead of the "
        f"sweep is {rows[0]['wall_seconds'] - wall * rows[0]['sweep'] / cores:.0f} s."
    )


def _album(album: Results) -> str:
    lines = [
        f"`make run` with {album['songs']} tracks ({album['minutes']} minutes, stereo) in an "
        f"empty `data/`, on {album['cores']} cores. {album['note']}",
        "",
        "| stage | seconds of music | CPU s | CPU s per second | MB of disk | MB per second |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for row in album["stages"]:
        music = row["music_seconds"]
        lines.append(
            f"| {row['stage']} | {music} | {row['cpu_seconds']} | {row['cpu_seconds'] / music:.2f} "
            f"| {row['megabytes']} | {row['megabytes'] / music:.2f} |"
        )
    return "\n".join(lines)


def _extrapolation(results: Results) -> str:
    row = [r for r in results["prepare"] if (r["what"], r["workers"]) == ("prepare", 2)][-1]
    prepare = row["cpu_seconds"] / row["audio_hours"] * HOURS / 3600
    songs = HOURS * 3600 / SONG_SECONDS
    (train,) = (row for row in json.loads(ALBUM.read_text())["stages"] if row["stage"] == "train")
    per_second = results["training"][0]["feature_cpu_per_audio_second"]
    features = per_second * songs * PROCESSED_SECONDS / 3600
    terabytes = songs * READ_SECONDS * train["megabytes"] / train["music_seconds"] / 1e6
    seconds = songs * READ_SECONDS * TRAIN_SHARE / (TRAIN_SHARE + VALIDATION_SHARE)
    steps = seconds * RATE_HZ * CHANNELS / (BATCH_SIZE * CROP_FRAMES)
    alone, *_, grown = results["training"]
    lost = max(1 / efficiency(grown, alone) - 1, 0.0)
    share = 1 / (1 + (WORKERS - 1) * lost)
    return "\n".join(
        [
            f"{songs:,.0f} songs of {SONG_SECONDS // 60} minutes, of which train reads "
            f"{READ_SECONDS} s each. Features need {terabytes:.1f} TB of disk.".replace(
                ",", " ", 1
            ),
            "",
            "| step | work | with | hours |",
            "|---|--:|---|--:|",
            f"| prepare | {prepare:.1f} core hours | {CORES} cores | {prepare / CORES:.2f} |",
            f"| features | {features:.0f} core hours | {CORES} cores | {features / CORES:.1f} |",
            f"| one epoch over all data | {steps / 1e6:.2f} million steps | {WORKERS} GPUs of "
            f"G steps per second | {steps / WORKERS / share / 3600:.0f} / G |",
            "",
            "Assumptions: CPU time per hour of audio stays constant (it does above, from a hundred "
            "songs on); the disk can be read as fast as the GPUs learn; songs are stereo. In one "
            "epoch each training frame of each channel is seen once on average. Each of the "
            f"{WORKERS} workers has the batch size of one ({WORKERS * BATCH_SIZE} in all); each "
            f"additional worker costs as much as the second ({lost:.0%} of a step), so {WORKERS} "
            f"workers are {WORKERS * share:.1f} times as fast as one. This is pessimistic because "
            "the second worker shares memory and caches with the first on this machine, and "
            "optimistic where the network between the machines is slow. "
            "`benchmarks/training.py --only ours` measures G:",
            "",
            *_gpu(json.loads(GPU.read_text())),
        ]
    )


def _gpu(results: Results) -> list[str]:
    lines = [
        f"| batch size ({results['device']}, {results['backend']}) | steps per second "
        "| samples per second |",
        "|--:|--:|--:|",
    ]
    for row in results["steps"]:
        millions = row["amplitudes_per_second"] / 1e6
        lines.append(f"| {row['batch_size']} | {row['steps_per_second']:.1f} | {millions:.1f} M |")
    return [*lines, "", str(results["note"])]


def draw(results: Results, path: Path) -> None:
    """Write the figure."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for what in (("decode", 1), ("prepare", 1), ("prepare", 2)):
        mine = [row for row in results["prepare"] if (row["what"], row["workers"]) == what]
        hours = [row["audio_hours"] for row in mine]
        left.loglog(hours, [row["cpu_seconds"] for row in mine], "o-", label=_named(mine[0]))
    left.set(xlabel="hours of audio", ylabel="CPU seconds")
    left.set_title("prepare and the bare decoder", fontsize=10)
    left.set_xticks(hours, [f"{value:.2g}" for value in hours])
    left.minorticks_off()
    rows = results["training"]
    names = [
        f"{row['workers']} worker{'s'[: row['workers'] - 1]}\nbatch {row['batch_size']}"
        for row in rows
    ]
    right.bar(
        names,
        [row["workers"] * crops_per_second(rows[0]) for row in rows],
        color="0.9",
        label="ideal",
    )
    right.bar(names, [crops_per_second(row) for row in rows], label="measured")
    right.set(ylabel="crops per second")
    right.set_title("train, workers of one core each", fontsize=10)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
