"""Prepared songs: int16 arrays on disk, opened as memory maps, with their splits in time."""

import json
import mmap
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from songcast.audio.songs import Song
from songcast.errors import CorpusError
from songcast.files import write_json

if TYPE_CHECKING:
    from songcast.config import BudgetParams

TRAIN, VALIDATION, TEST = "train", "validation", "test"
INDEX = "songs.json"

# The layout of songs.json.
FORMAT = 2

AGAIN = "run `dvc repro prepare`"

# Passages of a song that is longer than its budget last about this long.
PASSAGE_SECONDS = 5.0

Splits = dict[str, tuple[int, int]]
# Frames: the first one that a forecaster processes, and the passage [start, stop).
Span = tuple[int, int, int]

_opening = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class PreparedSong:
    """One prepared song.

    ``source``: file name in data/, with ``sha256`` and ``source_sample_rate_hz``. ``peak``: the
    largest absolute amplitude, 0 to 32768. ``splits``: name -> (start, stop) in frames; a song
    too short for three splits, or held out, has ``test`` alone. ``path``: of its array.
    ``damage``: one line about a file that is damaged in part; empty for a sound one.
    """

    slug: str
    source: str
    sha256: str
    source_sample_rate_hz: int
    sample_rate_hz: int
    frames: int
    channels: int
    peak: int
    damage: str = ""
    splits: Mapping[str, tuple[int, int]]
    path: Path

    @property
    def samples(self) -> NDArray[np.int16]:
        """The whole song: (frames, channels) int16, a read-only memory map.

        Opened anew at each access (0.1 ms), so that ten thousand songs do not hold ten
        thousand open files: keep it while you need it.
        """
        try:
            return open_array(self.path)
        except (OSError, ValueError, EOFError) as error:
            raise CorpusError(f"{self.path}: cannot be opened; {AGAIN}") from error

    def song(self) -> Song:
        """The whole song, still on disk; named after its slug."""
        return Song(samples=self.samples, sample_rate_hz=self.sample_rate_hz, name=self.slug)

    def passage(self, split: str) -> Song:
        """One split of the song, still on disk. Raises ``CorpusError`` when it has none."""
        if split not in self.splits:
            raise CorpusError(
                f"{self.slug}: no passage {split!r}; it has: {', '.join(self.splits)}"
            )
        start, stop = self.splits[split]
        return Song(
            samples=self.samples[start:stop],
            sample_rate_hz=self.sample_rate_hz,
            name=f"{self.slug}-{split}",
        )


class Passages(Sequence[NDArray[np.int16]]):
    """The samples of one split of each song that has it, (frames, channels) int16.

    Songs are opened on access and not kept open, so many songs need few open files.
    """

    def __init__(self, songs: Iterable[PreparedSong], split: str) -> None:
        self._songs = [song for song in songs if split in song.splits]
        self._split = split

    def __len__(self) -> int:
        return len(self._songs)

    def __getitem__(self, index: Any) -> Any:
        return self._songs[index].passage(self._split).samples


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """All prepared songs, in the order of their slugs."""

    sample_rate_hz: int
    songs: tuple[PreparedSong, ...]

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Corpus":
        """Read ``songs.json``; arrays are checked for presence and size, and not read.

        Raises ``CorpusError``.
        """
        folder = Path(folder)
        sample_rate_hz, songs = read_index(folder)
        for song in songs:
            if not has_array(song):
                raise CorpusError(f"{song.path}: missing or of another size; {AGAIN}")
        return cls(sample_rate_hz=sample_rate_hz, songs=songs)

    def __iter__(self) -> Iterator[PreparedSong]:
        return iter(self.songs)

    def __len__(self) -> int:
        return len(self.songs)

    def __getitem__(self, slug: str) -> PreparedSong:
        """Return the song of that slug. Raises ``CorpusError``."""
        if slug not in self._by_slug:
            raise CorpusError(f"no prepared song {slug!r}; there are: {', '.join(self._by_slug)}")
        return self._by_slug[slug]

    @cached_property
    def _by_slug(self) -> dict[str, PreparedSong]:
        return {song.slug: song for song in self.songs}


def read_index(folder: Path) -> tuple[int, tuple[PreparedSong, ...]]:
    """Read songs.json: the sample rate in Hz and the songs. Raises ``CorpusError``."""
    index = folder / INDEX
    try:
        document = json.loads(index.read_text(encoding="utf-8"))
        if document["format"] != FORMAT:
            raise CorpusError(f"{index}: made by another version of songcast; {AGAIN}")
        songs = tuple(_from_json(folder, entry) for entry in document["songs"])
        return int(document["sample_rate_hz"]), songs
    except FileNotFoundError as error:
        raise CorpusError(f"{index}: there is no such file; {AGAIN}") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorpusError(f"{index}: cannot be understood; {AGAIN}") from error


def write_index(folder: Path, sample_rate_hz: int, songs: Iterable[PreparedSong]) -> None:
    """Write songs.json, atomically, with the songs in the order of their slugs."""
    entries = [
        {name: value for name, value in vars(song).items() if name != "path"}
        for song in sorted(songs, key=lambda song: song.slug)
    ]
    write_json(
        folder / INDEX, {"format": FORMAT, "sample_rate_hz": sample_rate_hz, "songs": entries}
    )


def _from_json(folder: Path, entry: dict[str, Any]) -> PreparedSong:
    splits = {name: (int(start), int(stop)) for name, (start, stop) in entry["splits"].items()}
    return PreparedSong(**{**entry, "splits": splits}, path=folder / f"{entry['slug']}.npy")


def open_array(path: Path) -> "np.memmap[Any, np.dtype[Any]]":
    """Return an array file as a read-only memory map, in 0.1 ms.

    One thread at a time: numpy parses the header as Python, and before 3.11.8 and 3.12.2 CPython's
    parser sometimes fails (``SystemError``) when two threads use it
    (https://github.com/python/cpython/issues/106905). Raises ``OSError``, ``ValueError`` or
    ``EOFError`` for a file that is not an array, and for a pickle.
    """
    with _opening:
        array: np.memmap[Any, np.dtype[Any]] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def drop_pages(array: NDArray[Any]) -> None:
    """Unload the pages of a memory map, or of a part of one, which count as memory of the process.

    A later access loads them again, mostly from the system's cache.
    """
    base: Any = array
    mode = None
    while isinstance(base, np.ndarray):
        mode = getattr(base, "mode", mode)
        base = base.base
    # A copy on write would lose what was written.
    if mode in ("r", "r+") and isinstance(base, mmap.mmap) and hasattr(base, "madvise"):
        base.madvise(mmap.MADV_DONTNEED)


def has_array(song: PreparedSong) -> bool:
    """Whether the song's array is there, with its shape and type and every byte."""
    try:
        samples = open_array(song.path)
    except (OSError, ValueError, EOFError):
        return False
    return bool(samples.shape == (song.frames, song.channels) and samples.dtype == np.int16)


def split_frames(
    frames: int, sample_rate_hz: int, fractions: Mapping[str, float], guard_seconds: float
) -> Splits:
    """Cut [0, ``frames``) into train, validation and test, in this order, with guard gaps between.

    The gaps belong to no split: a crop of one never sounds like the border of the next. They
    are taken off first; ``fractions`` (name -> share, sum 1) divide the rest, and the last split
    takes what rounding leaves. A split with fraction 0 is absent, and its gap too. A song too
    short for a frame in every split has ``test`` alone: [0, frames).

    >>> split_frames(1000, 100, {"train": 0.7, "validation": 0.1, "test": 0.2}, 0.5)
    {'train': (0, 630), 'validation': (680, 770), 'test': (820, 1000)}
    >>> split_frames(90, 100, {"train": 0.7, "validation": 0.1, "test": 0.2}, 0.5)
    {'test': (0, 90)}
    """
    names = [name for name in (TRAIN, VALIDATION, TEST) if fractions.get(name, 0) > 0]
    guard = round(guard_seconds * sample_rate_hz)
    usable = frames - guard * (len(names) - 1)
    lengths = [int(usable * fractions[name] + 1e-9) for name in names[:-1]]
    lengths.append(usable - sum(lengths))
    if min(lengths) < 1:
        return {TEST: (0, frames)}
    splits: Splits = {}
    start = 0
    for name, length in zip(names, lengths, strict=True):
        splits[name] = (start, start + length)
        start += length + guard
    return splits


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much of each song is processed: ``seconds``, or all of it for None.

    A forecaster processes ``warm_up_seconds`` before each passage, of which nothing is learned or
    measured. ``passage_seconds``: about how long a passage is, at least.
    """

    seconds: float | None
    warm_up_seconds: float = 0.0
    passage_seconds: float = PASSAGE_SECONDS

    @classmethod
    def of(cls, params: "BudgetParams", shortest_seconds: float = 0.0) -> "Budget":
        """Return the budget of a section of params.yaml; passages have ``shortest_seconds``."""
        return cls(
            seconds=params.seconds_per_song,
            warm_up_seconds=params.warm_up_seconds,
            passage_seconds=max(PASSAGE_SECONDS, shortest_seconds),
        )

    def spans(self, start: int, stop: int, sample_rate_hz: int, share: float = 1.0) -> list[Span]:
        """Return passages of the frames [start, stop) of a song, in ``share`` of the budget.

        They are spread evenly. What costs no more is preferred: the song from its first frame, or
        all of [start, stop) after one warm-up.

        >>> Budget(seconds=10.0, warm_up_seconds=5.0).spans(300, 900, 10)
        [(250, 300, 350), (800, 850, 900)]
        >>> Budget(seconds=10.0, warm_up_seconds=5.0).spans(160, 200, 10)
        [(0, 160, 200)]
        """
        if self.seconds is None:
            return [(0, start, stop)]
        seconds = self.seconds * share
        count = max(round(seconds / self.passage_seconds), 1)
        length = max(round(max(seconds / count, self.passage_seconds * share) * sample_rate_hz), 1)
        warm_up = round(self.warm_up_seconds * sample_rate_hz)
        if stop <= count * (length + warm_up):
            return [(0, start, stop)]
        if stop - start + warm_up <= count * (length + warm_up):
            return [(max(start - warm_up, 0), start, stop)]
        rest = stop - start - length
        # A single passage of a song that is held out from its first frame needs a past.
        places = [rest * i // (count - 1) for i in range(count)] if count > 1 else [0]
        if count == 1 and start == 0:
            places = [rest // 2]
        return [(max(start + p - warm_up, 0), start + p, start + p + length) for p in places]


WHOLE = Budget(seconds=None)


def first_holdout_frame(song: PreparedSong, holdout_seconds: float) -> int:
    """Return the first frame of the part that is held out for measuring continuations.

    It is the last ``holdout_seconds``, or the second half of a song shorter than twice that; it
    includes the test split. In a song without a train split, the test split does not count:
    a continuation needs a prompt.
    """
    last = max(song.frames - round(holdout_seconds * song.sample_rate_hz), song.frames // 2)
    return min(song.splits[TEST][0], last) if TRAIN in song.splits else last


def usable_frames(song: PreparedSong, holdout_seconds: float) -> int:
    """Return the number of frames, from the first one, that training may use."""
    if TRAIN not in song.splits:
        return 0
    return min(song.splits[TRAIN][1], first_holdout_frame(song, holdout_seconds))
