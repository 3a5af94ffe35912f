"""All hostile songs: files as a user, a broken disk or an attacker may provide them."""

from helpers.hostile import accepted, refused
from helpers.hostile.outcomes import Hostile


def groups() -> dict[str, list[Hostile]]:
    """All hostile songs by description; the songs of a group have the same outcomes."""
    good = {
        "wav at ten rates from 8 to 192 kHz": accepted.rates(),
        "wav of 8, 12, 24 and 32 bit, float and double": accepted.depths(),
        "flac, mp3, ogg, m4a, aac and opus": accepted.containers(),
        "silence, a full-scale square wave, the lowest amplitude everywhere, floats far above full "
        "scale, subnormal floats": accepted.odd_sounds(),
        "a wav with noise behind its header: any bytes are amplitudes": accepted.noisy_wav(),
        "a good song whose name has unicode, spaces, a leading dash, 255 bytes, shell characters, "
        "markup, a line break or bytes that are not utf-8": accepted.names(),
        "a symlink to a song": accepted.symlink(),
        "wav, mp3, ogg, aac and opus, truncated at 60 %, with a warning": accepted.truncated(),
        "a single sample": accepted.one_sample(),
    }
    bad = {
        "no samples at all, NaN, infinity, 3, 6 and 64 channels": refused.odd_contents(),
        "a header that lies about rate, channels, bits, codec, length or tags": (refused.headers()),
        "wav, flac, mp3, ogg, m4a, aac and opus, truncated at 2 %; a flac of one block and an m4a "
        "whose index is missing, truncated at 60 %": refused.cuts(),
        "flac, mp3, ogg, m4a, aac and opus with noise behind their header": refused.noisy(),
        "an empty file, words, zeros, a picture, a script, playlists or a zip file, named .wav, "
        ".mp3 and .m4a": refused.strangers(),
        "a symlink to nothing or to itself, a folder, a pipe, a device": refused.places(),
    }
    return {**good, **bad}


def catalogue() -> list[Hostile]:
    """All hostile songs in a fixed order, with unique names."""
    songs = [song for group in groups().values() for song in group]
    if len({song.name for song in songs}) != len(songs):
        raise ValueError("two hostile songs have the same name")
    return songs
