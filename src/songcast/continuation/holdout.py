"""The part of a song that continuations are measured on, excluded from training."""

from songcast.data.corpus import TEST, TRAIN, PreparedSong


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
