"""The data report: what is measured of each song, and the warnings that follow from it."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.meters import FingerprintMeter, LoudnessMeter
from songcast.audio.reading import SongReader, open_song
from songcast.errors import AudioError, CorpusError
from songcast.files import write_json
from songcast.inspection.properties import Dropout, PropertyMeter

if TYPE_CHECKING:
    from songcast.config import ExpectParams

RELATIONS = {
    "equal": "both channels are equal; mono takes half the time",
    "inverted": "one channel is the other one inverted; it may have been wired wrongly",
    "one silent": "one of the channels is silent",
}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What was measured of one file: its entry in the report, its dropouts, its fingerprint."""

    entry: Mapping[str, Any]
    dropouts: list[Dropout]
    fingerprint: NDArray[np.uint32]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The dropouts as events; their ``strength`` is their duration in ms."""
        rate = self.entry["sample_rate_hz"]
        return [
            {
                "kind": "dropout",
                "seconds": round(dropout.frame / rate, 6),
                "channel": dropout.channel,
                "strength": round(1000 * dropout.frames / rate, 2),
            }
            for dropout in self.dropouts
        ]


class InspectionMeter:
    """Measures a song block by block. A context manager."""

    def __init__(self, reader: SongReader) -> None:
        self._reader = reader
        shape = reader.sample_rate_hz, reader.channels
        self._properties, self._loudness = PropertyMeter(*shape), LoudnessMeter(*shape)
        self._fingerprint = FingerprintMeter(*shape)

    def __enter__(self) -> "InspectionMeter":
        self._fingerprint.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._fingerprint.__exit__(*error)

    def add(self, block: NDArray[np.int16]) -> None:
        """Measure a block (frames, channels)."""
        for meter in (self._properties, self._loudness, self._fingerprint):
            meter.add(block)

    def result(self) -> Inspection:
        """Return what was measured, after the last block."""
        properties = self._properties.result()
        loudness = {"loudness_lufs": self._loudness.lufs, "damage": self._reader.damage}
        return Inspection(
            entry=properties | loudness,
            dropouts=self._properties.dropouts,
            fingerprint=self._fingerprint.finish(),
        )


def inspect_song(path: Path) -> Inspection:
    """Measure a file in one pass, in a stream. Raises ``AudioError``."""
    with open_song(path) as reader, InspectionMeter(reader) as meter:
        for block in reader.blocks():
            meter.add(block)
        return meter.result()


@dataclass(frozen=True, kw_only=True)
class InspectTask:
    """A song's file, and the file that its entry and fingerprint go to."""

    source: Path
    target: Path


def inspect_task(task: InspectTask) -> AudioError | None:
    """Measure one song, in any process; return the error where it cannot be read."""
    try:
        measured = inspect_song(task.source)
    except AudioError as error:
        return error
    items = base64.b64encode(measured.fingerprint.astype("<u4").tobytes()).decode()
    write_json(task.target, {"entry": measured.entry, "fingerprint": items})
    return None


def read_inspected(path: Path) -> tuple[dict[str, Any], NDArray[np.uint32]] | None:
    """Return the entry and the fingerprint that ``inspect_task`` wrote; None without them."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return dict(document["entry"]), np.frombuffer(
            base64.b64decode(document["fingerprint"]), "<u4"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


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
