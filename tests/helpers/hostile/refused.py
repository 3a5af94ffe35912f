"""Files that are not songs, and paths that are not files."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from helpers.audio_files import wav_bytes
from helpers.hostile.outcomes import Hostile
from helpers.hostile.sound_files import (
    FRAMES,
    LOSSY,
    cut,
    header_then_noise,
    huge_flac,
    noise,
    pcm,
    with_header,
)


def odd_contents() -> list[Hostile]:
    nan = np.zeros((FRAMES, 2), np.float32)
    nan[1000, 1] = np.nan
    infinite = np.where(np.isnan(nan), np.float32(np.inf), nan)
    many = [
        Hostile(
            name=f"{channels} channels",
            write=lambda p, channels=channels: pcm(p, noise(500, channels)),
            message=f"{channels} channels",
        )
        for channels in (3, 6, 64)
    ]
    return [
        Hostile(name="no samples", write=lambda p: pcm(p, noise(0)), message="no samples"),
        Hostile(
            name="NaN", write=lambda p: p.write_bytes(wav_bytes(nan)), message="NaN or infinite"
        ),
        Hostile(
            name="infinity",
            write=lambda p: p.write_bytes(wav_bytes(infinite)),
            message="NaN or infinite",
        ),
        *many,
    ]


def headers() -> list[Hostile]:
    honest = wav_bytes(noise())
    long_chunk = b"junk" + (0xFFFFFFF0).to_bytes(4, "little")
    contents = {
        "wav of rate 0": with_header(24, "<I", 0),
        "wav of 4 GHz": with_header(24, "<I", 0xFFFFFFFF),
        "wav of no channels": with_header(22, "<H", 0),
        "wav of 65535 channels": with_header(22, "<H", 0xFFFF),
        "wav of 0 bits": with_header(34, "<H", 0),
        "wav of 40 bits": with_header(34, "<H", 40),
        "wav of unknown codec": with_header(20, "<H", 0x7FFF),
        "wav that declares 1 GB": with_header(40, "<I", 0x40000000),
        "wav with a chunk of 4 GB before the data": honest[:36] + long_chunk + honest[36:],
        "mp3 with an id3 tag and no music": b"ID3\x04\0\0\0\0\x07\x76" + bytes(1014),
        "mp3 with an id3 tag that declares 256 MB": b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(3000),
    }
    huge = _refused("flac that declares 2^36 frames", "a.flac", huge_flac)
    others = [
        _refused(name, f"a.{name.split()[0]}", lambda content=content: content)
        for name, content in contents.items()
    ]
    return [huge, *others]


def cuts() -> list[Hostile]:
    """Songs of which a full disk or a broken connection left nothing that can be decoded."""
    parts = [(suffix, 0.02) for suffix in (".wav", ".flac", *LOSSY)]
    return [
        _refused(f"{suffix[1:]} cut at {part:.0%}", f"a{suffix}", partial(cut, suffix, part))
        for suffix, part in [*parts, (".flac", 0.6), (".m4a", 0.6)]
    ]


def noisy() -> list[Hostile]:
    """Songs damaged on disk."""
    return [
        _refused(
            f"{suffix[1:]} header, then noise", f"a{suffix}", partial(header_then_noise, suffix)
        )
        for suffix in (".flac", *LOSSY)
    ]


def strangers() -> list[Hostile]:
    contents = {
        "nothing": b"",
        "words": b"these are words, not sounds\n" * 400,
        "zeros": bytes(10_000),
        "a picture": b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20,
        "a script": b"#!/bin/sh\nrm -rf /\n" * 50,
        "a playlist": b"#EXTM3U\n#EXTINF:1,x\nfile:///etc/passwd\n",
        "a concat list": b"ffconcat version 1.0\nfile /etc/passwd\n",
        "a zip": b"PK\x03\x04" + bytes(3000),
    }
    return [
        _refused(f"{name} named {suffix}", f"a{suffix}", lambda content=content: content)
        for name, content in contents.items()
        for suffix in (".wav", ".mp3", ".m4a")
    ]


def places() -> list[Hostile]:
    odd: dict[str, Callable[[Path], object]] = {
        "symlink to nothing": lambda p: p.symlink_to("none.wav"),
        "symlink to itself": lambda p: p.symlink_to(p.name),
        "folder": lambda p: p.mkdir(),
        "pipe": os.mkfifo,
        "device": lambda p: p.symlink_to("/dev/zero"),
    }
    return [
        Hostile(name=name, write=write, message="a.wav", is_file=False)
        for name, write in odd.items()
    ]


def _refused(name: str, file: str, content: Callable[[], bytes]) -> Hostile:
    return Hostile(name=name, file=file, write=lambda p: p.write_bytes(content()), message=file)
