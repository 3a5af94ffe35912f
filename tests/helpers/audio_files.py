"""Audio files of every kind, made from int16 samples: by other libraries, or byte by byte."""

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

ID3V2 = b"ID3\x03\0\0\0\0\x02\x01" + b"TIT2" + bytes(253)
ID3V1 = b"TAG" + b"x" * 125
APE = (
    b"APETAGEX"
    + struct.pack("<IIII8x", 2000, 32, 0, 0xA0000000)
    + b"APETAGEX"
    + struct.pack("<IIII8x", 2000, 32, 0, 0x80000000)
)
_GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def music(frames, channels=2, rate=44100, seed=0):
    """Rising tones that differ between the channels, with a little noise, int16."""
    seconds = np.arange(frames)[:, None] / rate
    cycles = np.array([[440.0, 554.0]]) * seconds + 300 * seconds**2
    tones = 6000 * np.sin(2 * np.pi * cycles)
    noise = np.random.default_rng(seed).normal(0, 200, (frames, 2))
    return np.rint(tones + noise).astype(np.int16)[:, :channels]


def place_of(part, whole):
    """The frame of ``whole`` at which ``part`` fits best, by cross-correlation."""
    size = 2 * len(whole)
    spectra = [np.fft.rfft(x[:, 0].astype(float), size) for x in (whole, part)]
    correlation = np.fft.irfft(spectra[0] * np.conj(spectra[1]), size)
    return int(np.argmax(correlation[: len(whole) - len(part) + 1]))


def wav_bytes(samples, rate=44100, valid_bits=None, data_bytes=None):
    """A wav: integer or float by dtype; extensible with ``valid_bits``.

    ``data_bytes``: the stated length of the data, right or wrong.
    """
    channels, width = samples.shape[1], samples.dtype.itemsize
    tag = 3 if samples.dtype.kind == "f" else 1
    fields = (channels, rate, rate * channels * width, channels * width, 8 * width)
    fmt = struct.pack("<HHIIHH", tag, *fields)
    if valid_bits is not None:
        fmt = struct.pack("<HHIIHHHHIH", 0xFFFE, *fields, 22, valid_bits, 0, tag) + _GUID_TAIL
    data = samples.tobytes()
    stated = len(data) if data_bytes is None else data_bytes
    body = b"WAVEfmt " + struct.pack("<I", len(fmt)) + fmt + b"data" + struct.pack("<I", stated)
    return b"RIFF" + struct.pack("<I", min(len(body) + stated, 0xFFFFFFFF)) + body + data


def encode(path, samples, rate, codec, **options):
    """Write ``samples`` by FFmpeg's encoder ``codec``; the suffix gives the container."""
    path = Path(path)
    with av.logging.Capture(), av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.bit_rate = 128_000
        stream.layout = "mono" if samples.shape[1] == 1 else "stereo"
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(samples).reshape(1, -1), "s16", stream.layout.name
        )
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = 0
        resampler = av.AudioResampler(stream.format, stream.layout, rate, stream.frame_size or 0)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path


def flac_bytes(samples, bits, rate=44100, states_length=True):
    """A FLAC of 4 to 32 bits with uncompressed subframes, by RFC 9639.

    ``samples``: integers of ``bits`` bits, (frames, channels).
    """
    frames, channels = samples.shape
    block = 4096
    info = struct.pack(">HH", block, block) + bytes(6)
    packed = rate << 44 | channels - 1 << 41 | bits - 1 << 36 | (frames if states_length else 0)
    info += packed.to_bytes(8, "big") + bytes(16)
    size_code = {8: 1, 12: 2, 16: 4, 20: 5, 24: 6, 32: 7}.get(bits, 0)
    content = b"fLaC\x80" + len(info).to_bytes(3, "big") + info
    for number, start in enumerate(range(0, frames, block)):
        piece = samples[start : start + block]
        head = bytes([0xFF, 0xF8, 0x70, channels - 1 << 4 | size_code << 1, number])
        head += (len(piece) - 1).to_bytes(2, "big")
        head += bytes([_crc(head, 0x07, 8)])
        text = "".join(
            "00000010" + "".join(f"{int(x) & (1 << bits) - 1:0{bits}b}" for x in piece[:, channel])
            for channel in range(channels)
        )
        text += "0" * (-len(text) % 8)
        body = head + int(text, 2).to_bytes(len(text) // 8, "big")
        content += body + _crc(body, 0x8005, 16).to_bytes(2, "big")
    return content


def ogg_pages(content):
    """The pages of an Ogg file."""
    pages, at = [], 0
    while at < len(content):
        lacing = content[at + 27 : at + 27 + content[at + 26]]
        length = 27 + len(lacing) + sum(lacing)
        pages.append(content[at : at + length])
        at += length
    return pages


def ogg_page(page, flags=None, granule_shift=0, serial=None):
    """The page with other flags, a shifted position or another serial number, and its checksum."""
    data = bytearray(page)
    if flags is not None:
        data[5] = flags
    position = int.from_bytes(data[6:14], "little", signed=True)
    if position > 0:
        data[6:14] = (position + granule_shift).to_bytes(8, "little", signed=True)
    if serial is not None:
        data[14:18] = serial.to_bytes(4, "little")
    data[22:26] = bytes(4)
    data[22:26] = _crc(bytes(data), 0x04C11DB7, 32).to_bytes(4, "little")
    return bytes(data)


def relabelled(content, serial):
    """The Ogg file with another serial number, as a second link of a chain needs."""
    return b"".join(ogg_page(page, serial=serial) for page in ogg_pages(content))


def _crc(data, polynomial, bits):
    """A checksum, most significant bit first, starting from 0."""
    table = _TABLES.get((polynomial, bits))
    if table is None:
        table = []
        for byte in range(256):
            value = byte << bits - 8
            for _ in range(8):
                value = value << 1 ^ (polynomial if value >> bits - 1 & 1 else 0)
                value &= (1 << bits) - 1
            table.append(value)
        _TABLES[polynomial, bits] = table
    value, mask = 0, (1 << bits) - 1
    for byte in data:
        value = (value << 8 & mask) ^ table[(value >> bits - 8) ^ byte]
    return value


_TABLES: dict = {}
