"""The resume log: which songs an interrupted prepare has decoded already."""

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
# Arrays that are flushed at once: a disk serves several as quickly as one.
PENDING = 8
_FIELDS = ("source_sample_rate_hz", "frames", "channels", "peak", "damage")


class ResumeLog:
    """A list in ``folder`` with one line per complete array beside it; use it with ``with``.

    The name of an array contains the song, its content, the sample rate and ``code``, a digest
    of the code that decodes. One process adds lines; a kill may leave half a line. All that was
    added is on the disk when the block ends.
    """

    def __init__(self, folder: Path, code: str) -> None:
        self._folder, self._code = folder, code
        self._lines: dict[str, dict[str, Any]] = {}
        self._file: IO[str]
        self._disk = ThreadPoolExecutor(PENDING)
        self._pending: deque[Future[None]] = deque()
        self._writing = Lock()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / LIST
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                self._read(line)
        self._file = path.open("a", encoding="utf-8")
        self._file.write("\n")  # ends a half-written line
        return self

    def __exit__(self, _: object, error: object, __: object) -> None:
        self._disk.shutdown()
        self._file.close()
        while self._pending and error is None:
            self._pending.popleft().result()

    def place(self, planned: PreparedSong) -> Path:
        """Return the path of the array of this song."""
        content = f"{planned.sha256[:16]}-{planned.sample_rate_hz}-{self._code[:16]}"
        return self._folder / f"{planned.slug}-{content}.npy"

    def get(self, planned: PreparedSong) -> PreparedSong | None:
        """Return the song as decoded before, None if its array is missing or incomplete."""
        place = self.place(planned)
        fields = self._lines.get(place.name)
        if fields is None:
            return None
        song: PreparedSong = replace(planned, path=place, **fields)
        return replace(song, path=planned.path) if has_array(song) else None

    def add(self, song: PreparedSong) -> None:
        """Flush the song's complete array to the disk, then add its line.

        Threads do it in the background; the call blocks only if ``PENDING`` songs are not
        flushed yet. Raises ``OSError``, which may belong to a song that was added before.
        """
        if len(self._pending) == PENDING:
            self._pending.popleft().result()
        self._pending.append(self._disk.submit(self._add, song))

    def _add(self, song: PreparedSong) -> None:
        place = self.place(song)
        sync_file(place)
        fields = {name: getattr(song, name) for name in _FIELDS}
        with self._writing:
            self._file.write(json.dumps({"array": place.name, **fields}) + "\n")
            self._file.flush()

    def _read(self, line: str) -> None:
        try:
            entry: dict[str, Any] = json.loads(line)
            self._lines[entry["array"]] = {name: entry[name] for name in _FIELDS}
        except (ValueError, KeyError, TypeError):
            return
