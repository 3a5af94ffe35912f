"""`songcast inspect`: properties, damage and surprising moments of recordings."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from songcast import files
from songcast.audio.formats import printable
from songcast.audio.reading import open_song
from songcast.commands import loading
from songcast.commands.loading import CHAMPION_URI, Update
from songcast.config import ExpectParams, Params
from songcast.errors import SongcastError
from songcast.inspection.events import BIN_FRAMES, EventFinder, Overview, joined, labels
from songcast.inspection.report import InspectionMeter, warnings_of
from songcast.registry.models import Model
from songcast.registry.versions import CHAMPION, get_alias
from songcast.report import console
from songcast.report.console import number, print_table
from songcast.report.results import PROPERTY_COLUMNS, property_cells

EVENT_NUMBERS = (("seconds", 4), ("channel", 0), ("strength", 1))


def run(arguments: argparse.Namespace) -> None:
    """Inspect the songs. Prints and writes nothing if one of them fails."""
    check_outputs(arguments)
    seconds = loading.declared_seconds(arguments.songs)
    champion = not arguments.model and loading.has_registry() and get_alias(CHAMPION)
    model = loading.load_model(CHAMPION_URI if champion else arguments.model or "cascade")
    params = files.root() / files.PARAMS
    expect = Params.load(params).prepare.expect if params.is_file() else None
    songs = []
    with console.progress("", seconds, "s of song") as update:
        for path in arguments.songs:
            update(description=printable(Path(path)))
            song, overview = inspected(path, model, expect, update, bool(arguments.plot))
            songs.append(song)
    try:
        if target := arguments.labels:
            files.write_text(target, labels(song["events"]))
        if target := arguments.plot:
            plot(target, song, overview)
    except OSError as error:
        raise SongcastError(f"{target}: cannot be written ({error.strerror})") from None
    if arguments.json:
        console.print_json({"songs": songs})
    else:
        print_songs(songs)


def check_outputs(arguments: argparse.Namespace) -> None:
    """Raise ``SongcastError`` for a file of --labels or --plot that must not be written."""
    targets = [target for target in (arguments.labels, arguments.plot) if target]
    if targets and len(arguments.songs) > 1:
        raise SongcastError("--labels and --plot take one SONG: inspect the songs one by one")
    if arguments.plot and arguments.plot.suffix.lower() != ".png":
        raise SongcastError(f"{arguments.plot}: --plot writes a figure: use the suffix .png")
    if len(targets) == 2 and targets[0].resolve() == targets[1].resolve():
        raise SongcastError(f"{targets[0]}: --labels and --plot need different files")
    for target in targets:
        if not target.parent.is_dir() or target.is_dir():
            raise SongcastError(f"{target}: cannot be written: name a file in an existing folder")
        if target.resolve() == Path(arguments.songs[0]).resolve():
            raise SongcastError(f"{target}: is the song itself: write to another file")


def inspected(
    path: str,
    model: Model,
    expect: ExpectParams | None,
    update: Update,
    with_overview: bool,
) -> tuple[dict[str, Any], Overview]:
    """Measure and forecast a song in one pass; return its entry in the document, and its curve."""
    with open_song(path) as reader, InspectionMeter(reader) as meter:
        blocks = meter.measured(reader.blocks())
        finder = EventFinder(reader.sample_rate_hz, reader.channels)
        overview = Overview(reader.channels)
        for block, distribution in model.stream(blocks, reader.channels):
            bits = distribution.bits(block)
            finder.add(block, bits)
            if with_overview:
                overview.add(block, bits)
            update(advance=len(block) / reader.sample_rate_hz)
        entry, _ = meter.result()
    events = joined(meter.events, finder.result())
    warnings = warnings_of(entry, expect)
    return {"path": path, **entry, "warnings": warnings, "events": events}, overview


def print_songs(songs: list[dict[str, Any]]) -> None:
    """Print a table of properties, then the warnings and the events of each song."""
    rows = [[printable(Path(song["path"])), *property_cells(song)] for song in songs]
    print_table(["song", *PROPERTY_COLUMNS], rows, left=2)
    for row, song in zip(rows, songs, strict=True):
        for line in song["warnings"]:
            print(f"{row[0]}: {line}")
    events = [
        [row[0], event["kind"], *(number(event[key], digits) for key, digits in EVENT_NUMBERS)]
        for row, song in zip(rows, songs, strict=True)
        for event in song["events"]
    ]
    if events:
        print()
        print_table(["song", "event", *(key for key, _ in EVENT_NUMBERS)], events, left=2)


def plot(path: Path, song: dict[str, Any], overview: Overview) -> None:
    """Draw the envelope and the code length over time, with the events as vertical lines."""
    # Matplotlib takes a second to import.
    from songcast.report.figures.style import (
        BLUE,
        GREY,
        PURPLE,
        VERMILION,
        legend,
        new_figure,
        save_png,
        styled,
    )

    colours = {"click": VERMILION, "splice": BLUE, "dropout": PURPLE}

    def draw() -> None:
        figure, axes = new_figure(printable(Path(song["path"])), 4.2, 2, 1)
        low, high, bits = overview.bins.T
        seconds = (np.arange(len(bits)) + 0.5) * BIN_FRAMES / song["sample_rate_hz"]
        axes[0, 0].fill_between(seconds, low, high, color=GREY, linewidth=0)
        axes[1, 0].plot(seconds, bits, color=GREY, linewidth=0.8)
        lines = {}
        for event in song["events"]:
            for ax in axes[:, 0]:
                colour = colours[event["kind"]]
                lines[event["kind"]] = ax.axvline(event["seconds"], color=colour, linewidth=0.8)
        for ax, words in zip(axes[:, 0], ("sample, LSB", "bits per sample"), strict=True):
            ax.set(ylabel=words, xlabel="s", xlim=(0, song["seconds"] or 1))
        legend(figure, list(lines.values()), list(lines))
        save_png(figure, path)

    styled(draw)()
