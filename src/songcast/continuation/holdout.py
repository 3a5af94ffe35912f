"""Where the part of a song begins that continuing is measured on, and never learned from."""

from songcast.data.corpus import TEST, TRAIN, PreparedSong


def first_holdout_frame(song: PreparedSong, holdout_seconds: float) -> int:
    """Return the frame from which continuing is measured, all of it kept unheard.

    The last ``holdout_seconds`` where half of the song is left before them, else its second
    half; at least the test passage. A song without a train passage is unheard from its first
    frame, but a continuation needs a past: there the test passage does not count.
    """
    last = max(song.frames - round(holdout_seconds * song.sample_rate_hz), song.frames // 2)
    return min(song.splits[TEST][0], last) if TRAIN in song.splits else last


def learnable_frames(song: PreparedSong, holdout_seconds: float) -> int:
    """Return how many frames of the song, from its first, may be learned from."""
    if TRAIN not in song.splits:
        return 0
    return min(song.splits[TRAIN][1], first_holdout_frame(song, holdout_seconds))
