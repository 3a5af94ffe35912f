"""`songcast inspect`: properties, damage and surprising moments of recordings."""

import argparse
from pathlib import Path
from typing import Any

from songcast.commands import SONG_HELP, Subparsers, add_command

COLUMNS = {
    "peak dB": ("peak_dbfs", 1),
    "LUFS": ("loudness_lufs", 1),
    "clipped %": ("clipped_share", 3),
    "silent %": ("silent_share", 1),
    "bandwidth Hz": ("bandwidth_hz", 0),
    "low-pass Hz": ("low_pass_hz", 0),
    "bits": ("effective_bits", 1),
    "dropouts": ("dropouts", 0),
}
EVENT_NUMBERS = (("seconds", 4), ("channel", 0), ("strength", 1))


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "inspect",
        run,
        "print properties and damage of recordings",
        "It warns about what prepare.expect in params.yaml does not allow.",
        "songcast inspect song.mp3 other.flac",
    )
    parser.add_argument("songs", metavar="SONG", nargs="+", help=SONG_HELP)


def run(arguments: argparse.Namespace) -> int:
    """Inspect the songs. Prints nothing on stdout if one of them fails."""
    from songcast import files
    from songcast.audio.formats import printable
    from songcast.audio.reading import open_song
    from songcast.config import Params
    from songcast.inspection.report import inspect_song, warnings_of
    from songcast.report import console

    for path in arguments.songs:  # headers only, to reject invalid files early
        with open_song(path):
            pass
    params = files.root() / files.PARAMS
    expect = Params.load(params).prepare.expect if params.is_file() else None
    songs = []
    with console.progress("", len(arguments.songs), "songs") as update:
        for path in arguments.songs:
            update(description=printable(Path(path)))
            found = inspect_song(Path(path))
            warnings, events = warnings_of(found.entry, expect), found.events
            songs.append({"path": path, **found.entry, "warnings": warnings, "events": events})
            update(advance=1)
    if arguments.json:
        console.print_json({"songs": songs})
    else:
        print_songs(songs)
    return 0


def print_songs(songs: list[dict[str, Any]]) -> None:
    """Print a table of properties, then the warnings and the events of each song."""
    from songcast.audio.formats import printable
    from songcast.report.console import duration, number, print_table

    rows = []
    for song in songs:
        numbers = (
            number(song[key] and song[key] * (100 if key.endswith("share") else 1), digits)
            for key, digits in COLUMNS.values()
        )
        sound = f"{song['sample_rate_hz']} Hz, {song['channel_relation']}"
        rows.append([printable(Path(song["path"])), sound, duration(song["seconds"]), *numbers])
    print_table(["song", "sound", "duration", *COLUMNS], rows, left=2)
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
