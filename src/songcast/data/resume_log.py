"""The songs that a stopped prepare has decoded already."""

import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import IO, Any, Self

from songcast.data.corpus import PreparedSong, has_array
from songcast.files import sync_file

LIST = "finished.jsonl"
# Arrays on their way to the disk: a disk serves several at once as quickly as one.
WAITING = 8
_FOUND = ("source_sample_rate_hz", "frames", "channels", "peak", "damage")


class Finished:
    """A list in ``folder``, one line per whole array beside it. Made and opened by ``with``.

    The name of an array tells song, content and sample rate: one of another content is never
    taken for it. Lines are added by one process and may end in half a line when it is killed.
    What was added is on the disk when the block has ended.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: IO[str]
        self._disk = ThreadPoolExecutor(WAITING)
        self._waiting: deque[Future[None]] = deque()
        self._writing = Lock()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / LIST
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._remember(line)
        self._file = path.open("a", encoding="utf-8")
        self._file.write("\n")  # ends what a kill left half written
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        self._disk.shutdown()
        self._file.close()
        while self._waiting and error is None:
            self._waiting.popleft().result()

    def place(self, planned: PreparedSong) -> Path:
        """Return where the array of this song is written and found."""
        content = f"{planned.sha256[:16]}-{planned.sample_rate_hz}"
        return self._folder / f"{planned.slug}-{content}.npy"

    def get(self, planned: PreparedSong) -> PreparedSong | None:
        """Return the song as decoded before, None where its array is not there and whole."""
        place = self.place(planned)
        found = self._lines.get(place.name)
        if found is None:
            return None
        song: PreparedSong = replace(planned, path=place, **found)
        return replace(song, path=planned.path) if has_array(song) else None

    def add(self, song: PreparedSong) -> None:
        """Bring the song's whole array to the disk, then note that it is there.

        Threads do it, which take no time from the decoders; there is a wait only where the disk
        is some songs behind. Raises ``OSError``, perhaps that of a song added before.
        """
        if len(self._waiting) == WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._disk.submit(self._add, song))

    def _add(self, song: PreparedSong) -> None:
        place = self.place(song)
        sync_file(place)
        found = {name: getattr(song, name) for name in _FOUND}
        with self._writing:
            self._file.write(json.dumps({"array": place.name, **found}) + "\n")
            self._file.flush()

    def _remember(self, line: str) -> None:
        try:
            said: dict[str, Any] = json.loads(line)
            self._lines[said["array"]] = {name: said[name] for name in _FOUND}
        except (ValueError, KeyError, TypeError):
            return
