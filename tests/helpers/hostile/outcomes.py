"""The expected outcome of a hostile song at each entry."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from helpers.hostile.sound_files import FRAMES, RATE_HZ

ENTRIES = ("score", "predict", "continue", "prepare", "serve", "serve /continue")
SOUND, REFUSED, NOT_SENT = "sound", "refused", "cannot be sent"
# Root mean square of uniform noise with a peak of 9000, in LSB.
NOISE_LEVEL = 9000 / 3**0.5


@dataclass(frozen=True, kw_only=True)
class Sound:
    """The expected sound. ``level`` is the root mean square in LSB, approximate for lossy codecs.

    ``frames`` None is any number from ``least`` (lossy codecs pad). ``too_short`` to be continued.
    """

    frames: int | None = FRAMES
    least: int = 20_000
    channels: int = 2
    rate_hz: int = RATE_HZ
    level: float = NOISE_LEVEL
    too_short: bool = False


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One song, with the expected ``sound``; None means refused with ``message`` in the line.

    A client cannot read and send the song if ``is_file`` is False.
    """

    name: str
    write: Callable[[Path], object]
    file: str = "a.wav"
    sound: Sound | None = None
    message: str = ""
    is_file: bool = True

    def outcome(self, entry: str) -> str:
        """Return the expected outcome at one of ``ENTRIES``."""
        if entry.startswith("serve") and not self.is_file:
            return NOT_SENT
        if self.sound is None or (self.sound.too_short and "continue" in entry):
            return REFUSED
        return SOUND
