"""Unusual songs that must be read."""

import os
from pathlib import Path

import numpy as np
import soundfile

from helpers.audio_files import wav_bytes
from helpers.hostile.outcomes import Hostile, Sound
from helpers.hostile.sound_files import (
    FRAMES,
    LOSSY,
    LOSSY_RATE_HZ,
    RATE_HZ,
    cut,
    encoded,
    header_then_noise,
    noise,
    pcm,
)

RATES_HZ = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 192000)


def rates() -> list[Hostile]:
    return [
        Hostile(
            name=f"wav {rate} Hz",
            write=lambda path, rate=rate: pcm(path, noise(), rate),
            sound=Sound(rate_hz=rate),
        )
        for rate in RATES_HZ
    ]


def depths() -> list[Hostile]:
    by_soundfile = [
        Hostile(
            name=f"wav {subtype}",
            write=lambda path, subtype=subtype: soundfile.write(
                path, noise() / 32768, RATE_HZ, subtype
            ),
            sound=Sound(),
        )
        for subtype in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")
    ]
    twelve = Hostile(
        name="12 bit wav in 16 bit words",
        write=lambda path: path.write_bytes(wav_bytes(noise(), valid_bits=12)),
        sound=Sound(),
    )
    return [*by_soundfile, twelve]


def containers() -> list[Hostile]:
    return [
        Hostile(
            name=f"{suffix[1:]} stereo",
            file=f"a{suffix}",
            write=lambda path: path.write_bytes(encoded(path.suffix)),
            sound=Sound(frames=None if suffix in LOSSY else FRAMES, rate_hz=LOSSY_RATE_HZ),
        )
        for suffix in (".flac", *LOSSY)
    ]


def truncated() -> list[Hostile]:
    return [
        Hostile(
            name=f"{suffix[1:]} cut at 60%",
            file=f"a{suffix}",
            write=lambda path: path.write_bytes(cut(path.suffix, 0.6)),
            sound=Sound(frames=None, least=1000, rate_hz=LOSSY_RATE_HZ),
        )
        for suffix in (".wav", ".mp3", ".ogg", ".aac", ".opus")
    ]


def one_sample() -> list[Hostile]:
    one = noise(1, 1)
    sound = Sound(frames=1, channels=1, level=abs(int(one[0, 0])), too_short=True)
    return [Hostile(name="one sample", write=lambda p: pcm(p, one), sound=sound)]


def odd_sounds() -> list[Hostile]:
    flat = np.zeros((FRAMES, 2), np.int16)
    half_waves = np.arange(FRAMES)[:, None] // 50 % 2 * np.ones((1, 2))
    square = np.where(half_waves == 0, 32767, -32768).astype(np.int16)
    lowest = np.full((FRAMES, 2), -32768, np.int16)
    tiny = np.full((FRAMES, 2), 1e-40, np.float32)
    return [
        Hostile(name="silence", write=lambda p: pcm(p, flat), sound=Sound(level=0)),
        Hostile(
            name="full-scale square", write=lambda p: pcm(p, square), sound=Sound(level=32767.5)
        ),
        Hostile(
            name="lowest amplitude everywhere",
            write=lambda p: pcm(p, lowest),
            sound=Sound(level=32768),
        ),
        Hostile(
            name="float far above full scale",
            write=lambda p: soundfile.write(p, noise() / 100.0, RATE_HZ, "FLOAT"),
            sound=Sound(level=32768),
        ),
        Hostile(
            name="subnormal floats",
            write=lambda p: p.write_bytes(wav_bytes(tiny)),
            sound=Sound(level=0),
        ),
    ]


def noisy_wav() -> list[Hostile]:
    return [
        Hostile(
            name="wav header, then noise",
            write=lambda p: p.write_bytes(header_then_noise(".wav")),
            sound=Sound(level=32768 / 3**0.5),
        )
    ]


def names() -> list[Hostile]:
    odd = {
        "unicode": "\u266b \u043f\u0435\u0441\u043d\u044f \u6b4c.wav",
        "combining marks": "cafe\u0301 \u202e gpj.wav",
        "spaces": "  a  song .wav",
        "leading dash": "-rf.wav",
        "255 bytes": "x" * 251 + ".wav",
        "shell characters": "a;$(touch owned)`id`|&<>*?'\"\\.wav",
        "percent, braces and markup": "%s {0} [bold]x[red].wav",
        "a line break": "a\nb.wav",
        "a suffix in upper case": "A.WAV",
        "not utf-8": os.fsdecode(b"caf\xe9.wav"),
        "many dots": "a....wav",
    }
    return [
        Hostile(
            name=f"named with {description}",
            file=file,
            write=lambda p: pcm(p, noise()),
            sound=Sound(),
        )
        for description, file in odd.items()
    ]


def symlink() -> list[Hostile]:
    def write(path: Path) -> None:
        target = path.with_name("elsewhere")
        target.mkdir()
        pcm(target / "song.wav", noise())
        path.symlink_to(target / "song.wav")

    return [Hostile(name="symlink to a song", write=write, sound=Sound())]
