"""Where the part of a song begins that continuing is measured on, and never learned from."""

from songcast.corpus import TEST, TRAIN, PreparedSong


def first_unheard(song: PreparedSong, unheard_seconds: float) -> int:
    """Return the frame from which the song is kept unheard.

    At least its test passage, and the last ``unheard_seconds`` where half of the song is left
    before them.
    """
    wanted = song.frames - round(unheard_seconds * song.sample_rate_hz)
    start, _ = song.splits[TEST]
    return start if TRAIN not in song.splits else min(start, max(wanted, song.frames // 2))


def heard_frames(song: PreparedSong, unheard_seconds: float) -> int:
    """Return how many frames of the song, from its first, may be learned from."""
    if TRAIN not in song.splits:
        return 0
    return min(song.splits[TRAIN][1], first_unheard(song, unheard_seconds))
