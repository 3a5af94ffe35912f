"""Read every audio file of some folders and compare the samples with two other decoders.

python benchmarks/audio_formats.py FOLDER... writes the table of docs/reference/audio-formats.md:
the frames, rate and channels that songcast reads, and the largest difference in LSB from the
``ffmpeg`` program (on PATH, else that of imageio-ffmpeg) and from libsndfile, over the frames that
both have. A difference in frames is given in parentheses. With ``--print`` the table goes to
stdout, with files that differ from ffmpeg in frames, rate or channels only.
"""

import argparse
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from songcast.audio.conversion import to_int16
from songcast.audio.formats import SONG_SUFFIXES
from songcast.audio.songs import SongWarning, read_song
from songcast.errors import AudioError

PAGE = Path(__file__).parents[1] / "docs" / "reference" / "audio-formats.md"
FIRST, LAST = "<!-- table -->", "<!-- end of table -->"
Samples = NDArray[np.int16]


def by_ffmpeg(path: Path) -> tuple[Samples, int, str] | None:
    """Return samples, sample rate and codec as the ffmpeg program decodes them."""
    program = shutil.which("ffmpeg") or imageio_ffmpeg.get_ffmpeg_exe()
    command = [program, "-nostdin", "-i", path, "-map", "0:a:0", "-c:a", "pcm_s16le", "-f", "wav"]
    done = subprocess.run([*command, "-"], capture_output=True)
    data = done.stdout.find(b"data")
    if data < 0:
        return None
    fmt = done.stdout.find(b"fmt ")
    channels = int.from_bytes(done.stdout[fmt + 10 : fmt + 12], "little")
    rate = int.from_bytes(done.stdout[fmt + 12 : fmt + 16], "little")
    pcm = done.stdout[data + 8 :]
    pcm = pcm[: len(pcm) // (2 * channels) * 2 * channels]
    codec = done.stderr.decode(errors="replace").partition("Audio: ")[2].split(",")[0].split(" ")[0]
    return np.frombuffer(pcm, "<i2").reshape(-1, channels), rate, codec


def by_libsndfile(path: Path) -> tuple[Samples, int] | None:
    """Return samples and sample rate as libsndfile decodes them."""
    try:
        with soundfile.SoundFile(path) as file:
            deep = file.subtype in ("PCM_24", "PCM_32")
            return to_int16(file.read(-1, "int32" if deep else "float64", always_2d=True)), (
                file.samplerate
            )
    except (soundfile.LibsndfileError, ValueError, OverflowError, MemoryError):
        return None


def difference(ours: Samples, rate: int, other: tuple[Any, ...] | None) -> str:
    """Return the largest difference in LSB, and how many frames the other has more."""
    if other is None:
        return "not read"
    samples, other_rate = other[:2]
    if (other_rate, samples.shape[1]) != (rate, ours.shape[1]):
        return f"{other_rate} Hz, {samples.shape[1]} ch"
    common = min(len(ours), len(samples))
    largest = int(np.abs(ours[:common].astype(int) - samples[:common]).max()) if common else 0
    more = len(samples) - len(ours)
    return f"{largest} ({more:+d} frames)" if more else f"{largest}"


def row(path: Path) -> tuple[list[str], bool]:
    """Return one row of the table, and whether the properties are those of ffmpeg."""
    reference = by_ffmpeg(path)
    codec = reference[2] if reference else "?"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SongWarning)
        try:
            song = read_song(path)
        except AudioError as error:
            reason = str(error).removeprefix(f"{path}: ")
            return [path.name, codec, "", "", "refused", "", "", reason], False
    damage = "; ".join(str(warning.message).removeprefix(f"{path}: ") for warning in caught)
    is_same = reference is not None and (reference[0].shape, reference[1]) == (
        song.samples.shape,
        song.sample_rate_hz,
    )
    return [
        *(path.name, codec, str(song.sample_rate_hz), str(song.channels), str(song.frames)),
        difference(song.samples, song.sample_rate_hz, reference),
        difference(song.samples, song.sample_rate_hz, by_libsndfile(path)),
        damage,
    ], is_same


def main() -> None:
    """Compare the files and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--print", action="store_true", dest="prints")
    arguments = parser.parse_args()
    paths = [
        path
        for folder in arguments.folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SONG_SUFFIXES and path.is_file()
    ]
    rows = [row(path) for path in paths]
    heading = ["file", "codec", "Hz", "channels", "frames", "ffmpeg", "libsndfile", "warning"]
    lines = [heading, ["---"] * len(heading)]
    lines += [cells for cells, is_same in rows if not (arguments.prints and is_same)]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
    equal = sum(is_same for _, is_same in rows)
    summary = f"{len(rows)} files; frames, rate and channels of {equal} are those of ffmpeg."
    if arguments.prints:
        print(table, summary, sep="\n\n")
        return
    before, _, rest = PAGE.read_text().partition(FIRST)
    PAGE.write_text(f"{before}{FIRST}\n{table}\n\n{summary}\n{LAST}{rest.partition(LAST)[2]}")


if __name__ == "__main__":
    main()
