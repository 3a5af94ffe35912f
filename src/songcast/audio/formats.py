"""Which formats songcast reads, and the one-line errors for files that it cannot read."""

from pathlib import Path

from songcast.errors import AudioError

# What songcast takes as a song in data/, on the command line and in the server. The content of a
# file decides how it is read; the suffix only decides whether prepare picks the file up.
SONG_SUFFIXES = (
    *(".wav", ".wave", ".w64", ".rf64", ".aiff", ".aif", ".aifc", ".au", ".snd", ".caf"),
    *(".flac", ".ogg", ".oga", ".opus", ".mp3", ".aac", ".wma"),
    *(".m4a", ".m4b", ".mp4", ".mov", ".mka", ".mkv", ".webm"),
)
# FFmpeg's names of the containers behind these suffixes. It opens no other: a playlist or a
# subtitle file could name further files.
DEMUXERS = (
    *("wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "loas", "asf"),
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm"),
)
MAX_CHANNELS = 2
COPY_AGAIN = "copy or download it again"

# How these containers start. MPEG audio and AAC streams have no such mark.
_MAGIC = (
    *(b"RIFF", b"RIFX", b"RF64", b"BW64", b"riff", b"FORM", b".snd", b"dns.", b"caff"),
    *(b"fLaC", b"OggS", b"\x30\x26\xb2\x75\x8e\x66", b"\x1a\x45\xdf\xa3"),  # asf, matroska
)


def audio_error(path: Path | str, problem: str, advice: str) -> AudioError:
    """Return the one-line error: where, what is wrong, what to do."""
    return AudioError(f"{printable(path)}: {problem}; {advice}")


def printable(path: Path | str) -> str:
    """Return the path on one printable line: a newline in a name becomes ``\\n``."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(path))


def check_regular(path: Path) -> None:
    """Raise ``AudioError`` unless ``path`` is a file: reading a pipe or a device may never end."""
    if path.is_dir():
        raise audio_error(path, "is a folder", "name one song in it")
    if not path.exists():
        raise audio_error(path, "there is no such file", "check the name")
    if not path.is_file():
        raise audio_error(path, "is not a regular file", "save the song to a file first")


def check_channels(path: Path | str, channels: int) -> None:
    """Raise ``AudioError`` unless the song has one or two channels; ``path``: or its name."""
    if not 1 <= channels <= MAX_CHANNELS:
        raise audio_error(
            path,
            f"has {channels} channels, songcast reads mono and stereo",
            "mix it down to two channels",
        )


def first_bytes(path: Path) -> tuple[int, bytes]:
    """Return where the file's content starts, after any ID3v2 tags, and 64 bytes from there.

    Raises ``AudioError`` if it is missing, unreadable or empty.
    """
    try:
        check_regular(path)
        with path.open("rb") as file:
            head, start = file.read(64), 0
            while head[:3] == b"ID3" and len(head) > 10:
                size = int("".join(f"{byte & 0x7F:07b}" for byte in head[6:10]), 2)
                start += 10 + size + (10 if head[5] & 0x10 else 0)
                file.seek(start)
                head = file.read(64) or b"ID3"
    except OSError as error:
        raise audio_error(
            path, f"cannot be read ({error.strerror})", "check the name and its permissions"
        ) from error
    if not head:
        raise audio_error(path, "the file is empty (0 bytes)", COPY_AGAIN)
    return start, head


def is_container(head: bytes) -> bool:
    """Return whether a file that starts like this is in one of the supported containers."""
    return head.startswith(_MAGIC) or head[4:8] in (b"ftyp", b"moov", b"mdat")


def not_opened(path: Path, head: bytes, reason: str) -> AudioError:
    """Return the error for a file that no decoder opens: damaged, or of an unsupported kind."""
    if is_container(head) or head.startswith((b"ID3", b"\xff")):
        return damaged(path, reason)
    kind = "text" if head.isascii() and b"\0" not in head else "a file of another kind"
    supported = " ".join(suffix[1:] for suffix in SONG_SUFFIXES)
    return audio_error(path, f"is {kind}, not supported audio", f"songcast reads {supported}")


def damaged(path: Path, reason: str) -> AudioError:
    """Return the error for a file that holds no decodable audio."""
    reason = reason.strip().removeprefix("Error : ").rstrip(".")
    return audio_error(path, f"is damaged, it cannot be decoded ({reason})", COPY_AGAIN)
