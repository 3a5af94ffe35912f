"""A generator of hostile songs: files that a person, a disk or an attacker may hand us.

Each entry says what must become of it: the sound's frames, channels and rate, or a refusal.
"""

import os
import struct
import subprocess
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import soundfile
from numpy.typing import NDArray

from songcast.audio import Song, write_song

RATES_HZ = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000)
FRAMES = 2400
LOSSY = (".mp3", ".ogg", ".m4a", ".aac", ".opus")


@dataclass(frozen=True, kw_only=True)
class Hostile:
    """One song. ``sound``: (frames, channels, rate) that must come out; None: refused, ``said``.

    ``frames`` None: any number above 0 (lossy codecs pad).
    """

    name: str
    file: str
    write: Callable[[Path], None]
    sound: tuple[int | None, int, int] | None = None
    said: str = ""


def noise(frames: int = FRAMES, channels: int = 2, peak: int = 9000) -> NDArray[np.int16]:
    rng = np.random.default_rng(frames + channels)
    return rng.integers(-peak, peak, (frames, channels)).astype(np.int16)


def catalogue() -> list[Hostile]:
    """All of them, in a fixed order; names are unique."""
    songs = [*formats(), *shapes(), *headers(), *damages(), *strangers(), *names(), *places()]
    if len({song.name for song in songs}) != len(songs):
        raise ValueError("two hostile songs of one name")
    return songs


def formats() -> list[Hostile]:
    """What is a song, in every rate, depth and container: must be heard."""
    rates = [
        Hostile(
            name=f"wav {rate} Hz",
            file="a.wav",
            write=lambda path, rate=rate: pcm(path, noise(), rate=rate),
            sound=(FRAMES, 2, rate),
        )
        for rate in RATES_HZ
    ]
    depths = [
        Hostile(
            name=f"wav {subtype}",
            file="a.wav",
            write=lambda path, subtype=subtype: soundfile.write(
                path, noise() / 32768, 44100, subtype
            ),
            sound=(FRAMES, 2, 44100),
        )
        for subtype in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    ]
    containers = [
        Hostile(
            name=f"{suffix[1:]} stereo",
            file=f"a{suffix}",
            write=encoded,
            sound=(FRAMES if suffix == ".flac" else None, 2, 48000),
        )
        for suffix in (".flac", *LOSSY)
    ]
    twelve = Hostile(
        name="12 bit wav in 16 bit words",
        file="a.wav",
        write=lambda path: path.write_bytes(wav(noise(), valid_bits=12)),
        sound=(FRAMES, 2, 44100),
    )
    return [*rates, *depths, *containers, twelve]


def shapes() -> list[Hostile]:
    """Odd content in a sound file."""
    one = noise(1, 1)
    flat = np.zeros((FRAMES, 2), np.int16)
    square = np.where(np.arange(FRAMES)[:, None] % 100 < 50, 32767, -32768)
    nan = np.zeros((FRAMES, 2), np.float32)
    nan[1000, 1] = np.nan
    return [
        Hostile(name="one sample", file="a.wav", write=lambda p: pcm(p, one), sound=(1, 1, 44100)),
        Hostile(
            name="no samples", file="a.wav", write=lambda p: pcm(p, one[:0]), said="no samples"
        ),
        Hostile(
            name="silence", file="a.wav", write=lambda p: pcm(p, flat), sound=(FRAMES, 2, 44100)
        ),
        Hostile(
            name="full-scale square",
            file="a.wav",
            write=lambda p: pcm(p, np.repeat(square, 2, 1).astype(np.int16)),
            sound=(FRAMES, 2, 44100),
        ),
        Hostile(
            name="lowest amplitude throughout",
            file="a.wav",
            write=lambda p: pcm(p, np.full((FRAMES, 2), -32768, np.int16)),
            sound=(FRAMES, 2, 44100),
        ),
        Hostile(
            name="float far above full scale",
            file="a.wav",
            write=lambda p: soundfile.write(p, noise() / 100.0, 44100, "FLOAT"),
            sound=(FRAMES, 2, 44100),
        ),
        Hostile(
            name="NaN",
            file="a.wav",
            write=lambda p: p.write_bytes(wav(nan)),
            said="NaN or infinite",
        ),
        Hostile(
            name="infinity",
            file="a.wav",
            write=lambda p: p.write_bytes(wav(np.where(np.isnan(nan), np.inf, nan))),
            said="NaN or infinite",
        ),
        Hostile(
            name="subnormal floats",
            file="a.wav",
            write=lambda p: p.write_bytes(wav(np.full((FRAMES, 2), 1e-40, np.float32))),
            sound=(FRAMES, 2, 44100),
        ),
        *(
            Hostile(
                name=f"{channels} channels",
                file="a.wav",
                write=lambda p, channels=channels: pcm(p, noise(500, channels)),
                said=f"{channels} channels",
            )
            for channels in (3, 6, 64)
        ),
    ]


def headers() -> list[Hostile]:
    """Headers that lie."""
    honest = wav(noise())

    def patched(place: int, form: str, value: int) -> Callable[[Path], None]:
        def write(path: Path) -> None:
            data = bytearray(honest)
            struct.pack_into(form, data, place, value)
            path.write_bytes(data)

        return write

    bad = (
        ("wav of rate 0", 24, "<I", 0),
        ("wav of 4 GHz", 24, "<I", 0xFFFFFFFF),
        ("wav of no channels", 22, "<H", 0),
        ("wav of 65535 channels", 22, "<H", 0xFFFF),
        ("wav of 0 bits", 34, "<H", 0),
        ("wav of 40 bits", 34, "<H", 40),
        ("wav of unknown codec", 20, "<H", 0x7FFF),
        ("wav that declares 1 GB", 40, "<I", 0x40000000),
    )
    found = [
        Hostile(name=name, file="a.wav", write=patched(place, form, value), said="a.wav")
        for name, place, form, value in bad
    ]
    return [
        *found,
        Hostile(
            name="flac that declares 2^36 frames",
            file="a.flac",
            write=_boastful_flac,
            said="a.flac",
        ),
        Hostile(
            name="wav with a chunk of 4 GB before the data",
            file="a.wav",
            write=lambda p: p.write_bytes(
                honest[:36] + b"junk" + struct.pack("<I", 0xFFFFFFF0) + honest[36:]
            ),
            said="a.wav",
        ),
        Hostile(
            name="id3 tag and no music",
            file="a.mp3",
            write=lambda p: p.write_bytes(b"ID3\x04\0\0\0\0\x07\x76" + bytes(1014)),
            said="a.mp3",
        ),
        Hostile(
            name="id3 tag that declares 256 MB",
            file="a.mp3",
            write=lambda p: p.write_bytes(b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(3000)),
            said="a.mp3",
        ),
    ]


def _boastful_flac(path: Path) -> None:
    encoded(path)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F  # STREAMINFO: 36 bits of total samples, RFC 9639 section 8.2
    data[22:26] = b"\xff\xff\xff\xff"
    path.write_bytes(data)


def damages() -> list[Hostile]:
    """Songs cut short or eaten by the disk."""
    cut = [
        Hostile(
            name=f"{suffix[1:]} cut at {part:.0%}",
            file=f"a{suffix}",
            write=lambda p, part=part: _cut(p, part),
            said=f"a{suffix}",
        )
        for suffix in (".wav", ".flac", *LOSSY)
        for part in (0.02, 0.6)
    ]
    rotten = [
        Hostile(
            name=f"{suffix[1:]} header, then noise",
            file=f"a{suffix}",
            write=_rot_behind_the_header,
            said=f"a{suffix}",
            sound=(FRAMES, 2, 44100) if suffix == ".wav" else None,
        )
        for suffix in (".wav", ".flac", *LOSSY)
    ]
    return [*cut, *rotten]


def _cut(path: Path, part: float) -> None:
    encoded(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])


def _rot_behind_the_header(path: Path) -> None:
    if path.suffix == ".wav":  # any bytes are amplitudes
        data = wav(noise())
    else:
        encoded(path)
        data = path.read_bytes()
    head = data[:48]
    path.write_bytes(head + np.random.default_rng(1).bytes(len(data) - len(head)))


def strangers() -> list[Hostile]:
    """What is no song at all."""
    contents = {
        "nothing": b"",
        "words": b"these are words, no sounds\n" * 400,
        "zeros": bytes(10_000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
        "a script": b"#!/bin/sh\nrm -rf /\n" * 50,
        "a playlist": b"#EXTM3U\n#EXTINF:1,x\nfile:///etc/passwd\n",
        "a concat list": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "a zip": b"PK\x03\x04" + bytes(3000),
    }
    return [
        Hostile(
            name=f"{name} named {suffix}",
            file=f"a{suffix}",
            write=lambda p, content=content: p.write_bytes(content),
            said=f"a{suffix}",
        )
        for name, content in contents.items()
        for suffix in (".wav", ".mp3", ".m4a")
    ]


def names() -> list[Hostile]:
    """A good song under an odd name."""
    odd = {
        "unicode": "\u266b \u043f\u0435\u0441\u043d\u044f \u6b4c.wav",
        "combining marks": "cafe\u0301 \u202e gpj.wav",
        "spaces": "  a  song .wav",
        "leading dash": "-rf.wav",
        "255 bytes": "x" * 251 + ".wav",
        "shell characters": "a;$(touch owned)`id`|&<>*?'\"\\.wav",
        "percent, braces and markup": "%s {0} [bold]x[red].wav",
        "a line break": "a\nb.wav",
        "only a suffix's case": "A.WAV",
        "not utf-8": os.fsdecode(b"caf\xe9.wav"),
        "many dots": "a....wav",
    }
    return [
        Hostile(
            name=f"named with {what}",
            file=file,
            write=lambda p: pcm(p, noise()),
            sound=(FRAMES, 2, 44100),
        )
        for what, file in odd.items()
    ]


def places() -> list[Hostile]:
    """Not plain files."""
    return [
        Hostile(name="symlink to a song", file="a.wav", write=_symlink, sound=(FRAMES, 2, 44100)),
        Hostile(
            name="symlink to nothing",
            file="a.wav",
            write=lambda p: p.symlink_to("none.wav"),
            said="a.wav",
        ),
        Hostile(
            name="symlink to itself",
            file="a.wav",
            write=lambda p: p.symlink_to(p.name),
            said="a.wav",
        ),
        Hostile(name="folder", file="a.wav", write=lambda p: p.mkdir(), said="a.wav"),
        Hostile(name="pipe", file="a.wav", write=os.mkfifo, said="a.wav"),
        Hostile(name="device", file="a.wav", write=lambda p: p.symlink_to("/dev/zero"), said="a."),
    ]


def _symlink(path: Path) -> None:
    target = path.with_name("elsewhere")
    target.mkdir()
    pcm(target / "song.wav", noise())
    path.symlink_to(target / "song.wav")


def pcm(path: Path, samples: NDArray[np.int16], rate: int = 44100) -> None:
    """16 bit by the stdlib."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())


def wav(samples: NDArray[np.generic], valid_bits: int | None = None) -> bytes:
    """A wav by hand, integer or float by dtype; ``valid_bits`` makes it extensible."""
    channels, width = samples.shape[1], samples.dtype.itemsize
    tag = 3 if samples.dtype.kind == "f" else 1
    base = (channels, 44100, 44100 * channels * width, channels * width, 8 * width)
    fmt = struct.pack("<HHIIHH", tag, *base)
    if valid_bits is not None:
        guid = struct.pack("<H", tag) + bytes.fromhex("000000001000800000aa00389b71")
        fmt = struct.pack("<HHIIHHHHI", 0xFFFE, *base, 22, valid_bits, 0) + guid
    body = b"WAVE" + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    body += b"data" + struct.pack("<I", samples.nbytes) + samples.tobytes()
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encoded(path: Path) -> None:
    """Half a second of noise at 48 kHz in the format of the suffix (2400 frames where lossless)."""
    frames = 24000 if path.suffix in LOSSY else FRAMES
    song = Song(samples=noise(frames), sample_rate_hz=48000, name="noise")
    if path.suffix in (".aac", ".opus"):
        source = path.with_name("source.wav.tmp")
        pcm(source, song.samples, 48000)
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-f", "wav"]
        subprocess.run([*command, "-i", source, path], check=True, stdin=subprocess.DEVNULL)
        source.unlink()
    else:
        write_song(song, path)
