"""The data report: what is measured of each song, and the warnings that follow from it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.meters import FFmpegMeter
from songcast.audio.reading import SongReader, open_song
from songcast.data.decoding import decode
from songcast.errors import AudioError, CorpusError
from songcast.files import atomic_path, write_json
from songcast.inspection.properties import PropertyMeter

if TYPE_CHECKING:
    from songcast.config import ExpectParams

RELATIONS = {
    "equal": "both channels are equal; mono takes half the time",
    "inverted": "one channel is the other one inverted; it may have been wired wrongly",
    "one silent": "one of the channels is silent",
}


class InspectionMeter(FFmpegMeter):
    """Measures all that is in the data report, block by block. A context manager."""

    def __init__(self, reader: SongReader) -> None:
        super().__init__(reader.sample_rate_hz, reader.channels)
        self._reader = reader
        self._properties = PropertyMeter(reader.sample_rate_hz, reader.channels)

    def measured(self, blocks: Iterable[NDArray[np.int16]]) -> Iterator[NDArray[np.int16]]:
        """Pass on ``blocks`` (frames, channels), and measure them."""
        for block in blocks:
            self._properties.add(block)
            self.add(block)
            yield block

    def result(self) -> tuple[dict[str, Any], NDArray[np.uint32]]:
        """End the song; return its entry in the data report, and its fingerprint (items,)."""
        properties, (lufs, items) = self._properties.result(), self.finish()
        return {**properties, "loudness_lufs": lufs, "damage": self._reader.damage}, items

    @property
    def events(self) -> list[dict[str, Any]]:
        """The dropouts, as events."""
        return self._properties.events


@dataclass(frozen=True, kw_only=True)
class DecodeTask:
    """A song to decode: its file with its digest, and where its array and its record go.

    ``sample_rate_hz``: of the array.
    """

    slug: str
    source: Path
    sha256: str
    sample_rate_hz: int
    array: Path
    record: Path


def decode_task(task: DecodeTask) -> tuple[DecodeTask, str]:
    """Decode and measure one song in a single pass, in any process.

    The record is written before the array, and each appears when it is complete. Returns the task
    and one line about a song that cannot be decoded, else an empty one. Raises ``OSError`` for a
    full disk.
    """
    try:
        with (
            open_song(task.source) as reader,
            InspectionMeter(reader) as meter,
            atomic_path(task.array) as array,
        ):
            blocks = meter.measured(reader.blocks())
            fields = decode(reader, blocks, array, task.sample_rate_hz)
            entry, items = meter.result()
            record = {"song": fields, "entry": entry, "fingerprint": items.tolist()}
            write_json(task.record, record)
    except AudioError as error:
        return task, str(error)
    return task, ""


def read_record(path: Path) -> dict[str, Any]:
    """Return what ``decode_task`` found of a song.

    ``song``: fields of ``PreparedSong``. ``entry``: of the data report. ``fingerprint``: (items,)
    uint32.
    """
    record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return {**record, "fingerprint": np.array(record["fingerprint"], np.uint32)}


def warnings_of(entry: Mapping[str, Any], expect: "ExpectParams | None") -> list[str]:
    """Return one line for each property that is not as ``prepare.expect`` has it."""
    warnings = [entry["damage"]] if entry["damage"] else []
    if expect is None:
        return warnings
    limits: tuple[tuple[str, Any, float, str], ...] = (
        ("min_seconds", entry["seconds"], 1, "{:g} s long"),
        ("min_loudness_lufs", entry["loudness_lufs"], 1, "{:g} LUFS loud"),
        ("min_low_pass_hz", entry["low_pass_hz"], 1, "hardly any sound above {:g} Hz"),
        ("min_effective_bits", entry["effective_bits"], 1, "{:g} effective bits"),
        ("max_clipped_share", entry["clipped_share"], -1, "{:.3%} of the samples are clipped"),
        ("max_silent_share", entry["silent_share"], -1, "{:.0%} of it is silent"),
        ("max_dc_offset", max(map(abs, entry["dc_offset"])), -1, "DC offset {:.2%} of full scale"),
        ("max_one_sided_seconds", entry["one_sided_seconds"], -1, "one channel silent for {:g} s"),
        ("max_dropouts", entry["dropouts"], -1, "{:d} dropouts"),
    )
    for name, value, sign, text in limits:
        limit = getattr(expect, name)
        if value is not None and sign * value < sign * limit:
            warnings.append(f"{text.format(value)} (prepare.expect.{name}: {limit:g})")
    relation = RELATIONS.get(entry["channel_relation"])
    return warnings + ([relation] if relation and entry["peak_dbfs"] is not None else [])


def data_report(
    entries: Mapping[str, Mapping[str, Any]],
    pairs: list[dict[str, Any]],
    expect: "ExpectParams",
) -> dict[str, Any]:
    """Return the content of metrics/data.json."""
    warnings = [
        f"{slug}: {line}" for slug, entry in entries.items() for line in warnings_of(entry, expect)
    ]
    return {
        "songs": dict(entries),
        "duplicates": pairs,
        "warnings": [*map(pair_line, pairs), *warnings],
    }


def headline(report: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of the data report that the run of stage prepare logs."""
    songs, pairs = report["songs"].values(), report["duplicates"]
    return {
        "songs": len(songs),
        "seconds": sum(entry["seconds"] for entry in songs),
        "warnings": len(report["warnings"]),
        "duplicates": len(pairs),
        "leak_seconds": sum(pair["leak_seconds"] for pair in pairs),
    }


def pair_line(pair: Mapping[str, Any]) -> str:
    """Return the warning about two songs with the same recording."""
    a, b = pair["songs"]
    line = f"{a} and {b} share {pair['seconds']:.1f} s of the same recording"
    if pair["leak_seconds"]:
        line += f", and {pair['leak_seconds']:.1f} s of a test passage are in a training passage"
    return line


def check_leaks(pairs: list[dict[str, Any]]) -> None:
    """Raise ``CorpusError`` for songs whose test passage is in a training passage."""
    leaks = [pair for pair in pairs if pair["leak_seconds"]]
    if leaks:
        more = f" ({len(leaks)} such pairs)" if len(leaks) > 1 else ""
        raise CorpusError(
            f"{pair_line(leaks[0])}{more}; remove one of them, or set prepare.on_leak to warn"
        )
