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
# Written by benchmarks/memory.py.
MEMORY = DOCS / "memory.json"
SIZES = ("data", "prepared")
# Written by benchmarks/two_machines.py.
MACHINES = DOCS / "two_machines.json"
# Of the songs in the extrapolation, and of each song that train reads, with the warm-ups.
SONG_SECONDS, READ_SECONDS, PROCESSED_SECONDS = 180, 20, 35

Results = dict[str, Any]


def markdown(results: Results) -> str:
    """Return docs/scale.md."""
    sections = (
        "# Scale",
        "This page shows how time and memory grow with the number of songs and workers. It was "
        f"written by `benchmarks/scale.py` on a machine with {results['cores']} cores, from "
        f"`docs/scale.json`. Songs are generated: mp3s of {results['song_seconds']} s.",
        "![Time of prepare by hours; training steps by workers; memory over time](scale.png)",
        "## prepare",
        _prepare(results["prepare"]),
        "CPU time of a process before its first song, which matters for small collections:",
        _start(results["start"]),
        "## train with Ray workers of one core each",
        _training(results["training"]),
        "## Two machines",
        _two_machines(json.loads(MACHINES.read_text())),
        "## Memory by length of the song",
        _memory(json.loads(MEMORY.read_text())),
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
        "| songs | hours | program | CPU s | hours of audio per core minute | MB of songs "
        "| MB of arrays | MB of memory per process |",
        "|--:|--:|---|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {row['songs']} | {row['audio_hours']:g} | {_named(row)} | {row['cpu_seconds']:.0f} "
        f"| {_per_minute(row):.2f} | {row['data_mb']:.0f} | {row['prepared_mb']:.0f} "
        f"| {row['peak_mb_per_process']} |"
        for row in rows
    ]
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
    lines += [
        "",
        "Two workers either split the batch of one worker, which gives the same training in less "
        f"time, or use a larger batch. The network has {rows[0]['weights']} weights.",
    ]
    return "\n".join(lines)


def _two_machines(measured: Results) -> str:
    own, other = measured["features_mb"]
    both = ", ".join(measured["on_both"]) or "no song"
    half = measured["read_mb_per_step"] / 2
    rest = measured["wire_mb_per_run"] - measured["steps"] * measured["wire_mb_per_step"]
    return "\n".join(
        [
            "`train` on the demo songs with two workers on two machines: network namespaces of "
            "one, joined by a virtual cable on which the bytes of both directions are counted. "
            "Written by `benchmarks/two_machines.py`.",
            "",
            "| what | MB |",
            "|---|--:|",
            f"| features computed and kept by each machine | {own:.0f} and {other:.0f} |",
            f"| features that each worker reads from its own disk, per step | {half:.2f} |",
            f"| on the cable, per step | {measured['wire_mb_per_step']:.2f} |",
            f"| on the cable, whole run of {measured['steps']} steps "
            f"| {measured['wire_mb_per_run']:.0f} |",
            "",
            "A step sends each gradient once in both directions; the rest of the run is "
            f"{rest:.0f} MB. No features pass the network. If the second machine read them from a "
            f"shared folder, it would add {half:.2f} MB to each step. In the folders of both "
            f"machines: {both}. The prepared songs, which each machine reads for its features, are "
            "not counted: both have the disk in common.",
        ]
    )


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


def _memory(memory: Results) -> str:
    rows, lengths = memory["rows"], sorted({row["minutes"] for row in memory["rows"]})
    served = next(row for row in rows if row["program"] == "serve" and row["minutes"] == 10)
    heads = [f"{minutes} min" for minutes in lengths]
    lines = [
        "MB of the largest process, for a stereo wav of this length at 44.1 kHz, with the budgets "
        "of params.yaml and compiled code in the cache; written by `benchmarks/memory.py`. `score` "
        "and `predict` use `models/train` where no other model is named, `inspect` the cascade. "
        "Commands marked with * were stopped after 100 s, when they were flat, because a "
        "forecaster keeps the last minute. Mapped files are mostly libraries. "
        "In the stages that train, TensorFlow, Keras and MLflow take most of it, before the first "
        "song is read. "
        "`serve` takes songs of ten minutes at most and refused the longer ones; for the other "
        f"one all of its processes together needed {served['mb_in_all']} MB. mp3 and m4a output "
        "holds the whole song.",
        "",
        f"| program | {' | '.join(heads)} | of which mapped files |",
        f"|---|{'--:|' * (len(lengths) + 1)}",
    ]
    for name in dict.fromkeys(row["program"] for row in rows):
        mine = {row["minutes"]: row for row in rows if row["program"] == name}
        cells = [_cell(mine.get(minutes)) for minutes in lengths]
        lines.append(f"| {name} | {' | '.join(cells)} | {mine[max(mine)]['mb_mapped']} |")
    return "\n".join(lines)


def _cell(row: Results | None) -> str:
    return "" if row is None else f"{row['mb']}{' *' if row['stopped'] else ''}"


def _extrapolation(results: Results) -> str:
    row = [r for r in results["prepare"] if (r["what"], r["workers"]) == ("prepare", 2)][-1]
    prepare = row["cpu_seconds"] / row["audio_hours"] * HOURS / 3600
    sources, arrays = (row[f"{k}_mb"] / row["audio_hours"] * HOURS / 1e6 for k in SIZES)
    songs = HOURS * 3600 / SONG_SECONDS
    (train,) = (row for row in json.loads(ALBUM.read_text())["stages"] if row["stage"] == "train")
    per_second = results["training"][0]["feature_cpu_per_audio_second"]
    features = per_second * songs * PROCESSED_SECONDS / 3600
    terabytes = songs * READ_SECONDS * train["megabytes"] / train["music_seconds"] / 1e6
    seconds = songs * READ_SECONDS * TRAIN_SHARE / (TRAIN_SHARE + VALIDATION_SHARE)
    steps = seconds * RATE_HZ * CHANNELS / (BATCH_SIZE * CROP_FRAMES)
    # Of each song that train reads, the samples that the filters process.
    read = songs * PROCESSED_SECONDS * RATE_HZ * CHANNELS * 2 / 1e12
    # Two workers send the gradients twice per step, eight of them 14 times.
    gradients = (WORKERS - 1) * json.loads(MACHINES.read_text())["wire_mb_per_step"]
    epoch = steps / WORKERS * gradients / 1e6
    alone, *_, grown = results["training"]
    lost = max(1 / efficiency(grown, alone) - 1, 0.0)
    share = 1 / (1 + (WORKERS - 1) * lost)
    return "\n".join(
        [
            f"{songs:,.0f} songs of {SONG_SECONDS // 60} minutes, of which train reads "
            f"{READ_SECONDS} s each; they are mp3s of 128 kbit/s and take {sources:.2f} TB. All "
            "machines share the folder, so songs and arrays pass the network.".replace(",", " ", 1),
            "",
            "| step | work | with | hours | TB of disk | TB over the network |",
            "|---|--:|---|--:|--:|--:|",
            f"| prepare | {prepare:.1f} core hours | {CORES} cores | {prepare / CORES:.2f} "
            f"| {arrays:.2f} | {sources + arrays:.2f} |",
            f"| features | {features:.0f} core hours | {CORES} cores | {features / CORES:.1f} "
            f"| {terabytes:.2f} | {read:.2f} |",
            f"| one epoch over all data | {steps / 1e6:.2f} million steps | {WORKERS} GPUs of "
            f"G steps per second | {steps / WORKERS / share / 3600:.0f} / G | | {epoch:.2f} |",
            "",
            "Each worker computes the features of its share of the songs "
            f"({terabytes / WORKERS:.2f} TB) and keeps them on the disk of its machine, so they do "
            "not pass the network. In an "
            f"epoch, the gradients do: {gradients / WORKERS:.2f} MB per step and worker.",
            "",
            "Assumptions: CPU time per hour of audio stays that of the last row above; the "
            "disk can be read as fast as the GPUs learn; songs are stereo. In one "
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

    figure, (left, right, last) = plt.subplots(1, 3, figsize=(15, 4), layout="constrained")
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
    for row in json.loads(MEMORY.read_text())["rows"]:
        shown = row["minutes"] == 180 and row["program"] in ("prepare", "score", "predict")
        if shown and row["curve"]:
            last.plot(*zip(*row["curve"], strict=True), label=row["program"])
    last.set(xlabel="s", ylabel="MB of all processes", ylim=(0, None))
    last.set_title("a song of three hours; score and predict were stopped", fontsize=10)
    for axes in (left, right, last):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)
