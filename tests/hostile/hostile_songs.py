"""A catalogue of hostile songs: files that a person, a disk or an attacker may hand us."""

import heard_songs
import refused_songs
from outcomes import Hostile


def groups() -> dict[str, list[Hostile]]:
    """All of them; what stands under one title fares alike."""
    heard = {
        "wav at ten rates from 8 to 192 kHz": heard_songs.rates(),
        "wav of 8, 12, 24 and 32 bit, float and double": heard_songs.depths(),
        "flac, mp3, ogg, m4a, aac and opus": heard_songs.containers(),
        "silence, a full-scale square wave, the lowest amplitude throughout, floats far above full "
        "scale, subnormal floats": heard_songs.odd_sounds(),
        "a wav with noise behind its header: any bytes are amplitudes": heard_songs.rotten_wav(),
        "a good song named in unicode, with spaces, a leading dash, 255 bytes, shell characters, "
        "markup, a line break, bytes that are no utf-8": heard_songs.names(),
        "a symlink to a song": heard_songs.symlink(),
        "one single sample": heard_songs.one_sample(),
    }
    refused = {
        "no samples at all, NaN, infinity, 3, 6 and 64 channels": refused_songs.odd_contents(),
        "a header that lies about rate, channels, bits, codec, length or tags": (
            refused_songs.headers()
        ),
        "wav, flac, mp3, ogg, m4a, aac and opus, cut at 2 % and at 60 %": refused_songs.cuts(),
        "flac, mp3, ogg, m4a, aac and opus with noise behind their header": refused_songs.rotten(),
        "no song, named .wav, .mp3 and .m4a: nothing, words, zeros, a picture, a script, "
        "playlists, a zip": refused_songs.strangers(),
        "a symlink to nothing or to itself, a folder, a pipe, a device": refused_songs.places(),
    }
    return {**heard, **refused}


def catalogue() -> list[Hostile]:
    """All of them, in a fixed order; names are unique."""
    songs = [song for group in groups().values() for song in group]
    if len({song.name for song in songs}) != len(songs):
        raise ValueError("two hostile songs of one name")
    return songs
