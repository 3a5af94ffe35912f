"""Files that players play although something is odd: tags, chains, wrong lengths, damage.

The files are made here, byte by byte where no encoder makes them. Oracles: the original samples,
libsndfile, and the same file without its oddity. The last test reads files derived from public bug
reports of other audio tools, where that folder lies beside the checkout.
"""

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from helpers.audio_files import (
    APE,
    ID3V1,
    ID3V2,
    encode,
    flac_bytes,
    music,
    ogg_page,
    ogg_pages,
    place_of,
    relabelled,
    wav_bytes,
)
from songcast.audio.reading import open_song
from songcast.audio.songs import Song, SongWarning, read_song, write_song
from songcast.errors import AudioError

CASES = Path(__file__).parents[3] / "shared" / "cases" / "audio"
SONG = music(44100)


def read(path):
    """Samples, sample rate and damage of a file."""
    with open_song(path) as reader:
        samples = np.concatenate(list(reader.blocks()))
    return samples, reader.sample_rate_hz, reader.damage


def read_bytes(tmp_path, content, suffix=".bin"):
    path = tmp_path / f"odd{suffix}"
    path.write_bytes(content)
    return read(path)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The song in every format, by suffix."""
    folder = tmp_path_factory.mktemp("plain")
    for suffix, codec in [
        *[(".mp3", "libmp3lame"), (".opus", "libopus"), (".m4a", "aac"), (".aac", "aac")],
        *[(".wma", "wmav2"), (".mka", "libopus"), (".oga", "flac")],
    ]:
        rate = 48000 if codec == "libopus" else 44100
        pages = {"page_duration": "200000"} if suffix == ".opus" else {}
        encode(folder / f"a{suffix}", SONG, rate, codec, **pages)
    for suffix in (".wav", ".flac", ".ogg", ".aiff", ".au", ".caf"):
        if suffix == ".ogg":
            write_song(Song(samples=SONG, sample_rate_hz=44100, name="song"), folder / "a.ogg")
        else:
            soundfile.write(folder / f"a{suffix}", SONG, 44100, "PCM_16")
    return {path.suffix: path for path in folder.iterdir()}


def test_a_wav_of_unknown_or_wrong_length_is_read_to_its_end(tmp_path):
    exact = SONG.nbytes
    for length in (0, 0x7F000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, exact + 2, exact + 44):
        samples, _, damage = read_bytes(tmp_path, wav_bytes(SONG, data_bytes=length))
        np.testing.assert_array_equal(samples, SONG)
        assert ("declared frames" in damage) == (length == exact + 44), hex(length)
    samples, _, _ = read_bytes(tmp_path, wav_bytes(SONG, data_bytes=exact - 88))
    np.testing.assert_array_equal(samples, SONG[:-22])
    odd = wav_bytes(SONG) + b"\1\2\3"  # bytes behind the data
    np.testing.assert_array_equal(read_bytes(tmp_path, odd)[0], SONG)


def test_tags_before_and_after_any_format_change_nothing(tmp_path, plain):
    for suffix, path in plain.items():
        content = path.read_bytes()
        expected, rate, damage = read(path)
        assert damage == ""
        for tagged in (ID3V2 + content, content + ID3V1, content + APE, ID3V2 + content + ID3V1):
            samples, tagged_rate, _ = read_bytes(tmp_path, tagged, suffix)
            np.testing.assert_array_equal(samples, expected, suffix)
            assert tagged_rate == rate


def test_encoder_delay_is_removed(plain):
    """Where the file states the delay: the sound begins where it began, to the sample."""
    for suffix in (".mp3", ".m4a", ".ogg"):
        samples, _, _ = read(plain[suffix])
        x, y = SONG[8000:20000, 0].astype(float), samples[:, 0].astype(float)
        errors = [np.sum((y[8000 + d : 20000 + d] - x) ** 2) for d in range(-1200, 1201)]
        assert int(np.argmin(errors)) == 1200, suffix
        assert len(SONG) <= len(samples) < len(SONG) + 1024  # ffmpeg keeps an m4a's padding


def test_opus_is_read_at_48_khz_without_its_pre_skip_whatever_its_header_says(tmp_path, plain):
    expected, rate, _ = read(plain[".opus"])
    reference, reference_rate = soundfile.read(plain[".opus"], always_2d=True)
    assert (rate, reference_rate, len(expected)) == (48000, 48000, len(SONG))
    assert np.abs(expected - reference * 32768).max() < 3
    head, *pages = ogg_pages(plain[".opus"].read_bytes())
    for stated in (0, 8000, 16000, 11025):
        changed = head.replace((48000).to_bytes(4, "little"), stated.to_bytes(4, "little"))
        samples, rate, _ = read_bytes(tmp_path, ogg_page(changed) + b"".join(pages))
        assert rate == 48000
        np.testing.assert_array_equal(samples, expected)
    shifted = [ogg_page(page, granule_shift=10**9) for page in pages]  # ripped from a radio stream
    samples, _, _ = read_bytes(tmp_path, head + b"".join(shifted))
    np.testing.assert_array_equal(samples, expected)


def test_all_links_of_a_chain_are_read(tmp_path, plain):
    """Also where headers, rate or channels change, which FFmpeg alone reads as noise or not."""

    def link(name, samples, rate, quality):
        path = tmp_path / name
        with soundfile.SoundFile(
            path, "w", rate, samples.shape[1], "VORBIS", format="OGG", compression_level=quality
        ) as file:
            file.write(samples)
        return relabelled(path.read_bytes(), len(name)), read(path)[0]

    first, expected = link("a.ogg", SONG, 44100, 0.2)
    for name, samples, rate, quality in [
        ("same", SONG, 44100, 0.2),
        ("quality", SONG, 44100, 0.8),
        ("rate-and-mono", music(22050, 1, 22050), 22050, 0.2),
    ]:
        second, tail = link(f"{name}.ogg", samples, rate, quality)
        result, sample_rate, _ = read_bytes(tmp_path, first + second)
        assert sample_rate == 44100
        np.testing.assert_array_equal(result[: len(expected)], expected)
        rest = result[len(expected) :]
        if name == "rate-and-mono":
            assert len(rest) == 2 * len(tail)
            halves = rest[::2, 0] * np.sqrt(2) - tail[:, 0]
            assert np.std(halves) < 0.05 * np.std(tail)
        else:
            assert 0 <= len(rest) - len(tail) < 2048
            assert np.abs(rest[len(rest) - len(tail) :][2048:].astype(int) - tail[2048:]).max() < 3
    opus, expected = plain[".opus"].read_bytes(), read(plain[".opus"])[0]
    mono = encode(tmp_path / "mono.opus", SONG[:, :1], 48000, "libopus").read_bytes()
    for second in (opus, mono):
        result, _, damage = read_bytes(tmp_path, opus + relabelled(second, 7))
        assert 0 <= len(result) - 2 * len(expected) < 1000
        np.testing.assert_array_equal(result[: len(expected)], expected)
        assert ("converted to 48000 Hz and 2" in damage) == (second is mono)


def test_ogg_end_marks(tmp_path, plain):
    """On several pages: read to the last. On none: read whole, with a note."""
    for suffix in (".ogg", ".opus"):
        pages = ogg_pages(plain[suffix].read_bytes())
        expected = read(plain[suffix])[0]
        many = pages[:-2] + [ogg_page(page, flags=page[5] | 4) for page in pages[-2:]]
        samples, _, damage = read_bytes(tmp_path, b"".join(many))
        np.testing.assert_array_equal(samples, expected)
        assert damage == ""
        none = [*pages[:-1], ogg_page(pages[-1], flags=0)]
        samples, _, damage = read_bytes(tmp_path, b"".join(none))
        np.testing.assert_array_equal(samples[: len(expected)], expected)
        assert damage == "no end mark in the Ogg stream, it may have been cut"


def test_mpeg_audio_in_wav_and_streams_joined_or_cut_anywhere(tmp_path, plain):
    mp3 = encode(tmp_path / "b.mp3", SONG, 44100, "libmp3lame", write_xing="0").read_bytes()
    bare, _, damage = read_bytes(tmp_path, mp3)
    assert damage == ""
    assert len(SONG) <= len(bare) < len(SONG) + 3 * 1152
    fmt = bytes.fromhex("5500 0200 44ac0000 803e0000 0100 0000")
    wav = b"WAVEfmt \x10\0\0\0" + fmt + b"data" + len(mp3).to_bytes(4, "little") + mp3
    samples, rate, _ = read_bytes(tmp_path, b"RIFF" + len(wav).to_bytes(4, "little") + wav, ".wav")
    assert rate == 44100
    assert len(bare) - 1152 <= len(samples) <= len(bare)
    twice, _, _ = read_bytes(tmp_path, mp3 + mp3)
    assert 2 * len(bare) - 1152 <= len(twice) <= 2 * len(bare)
    for suffix in (".mp3", ".aac"):
        content, whole = plain[suffix].read_bytes(), read(plain[suffix])[0]
        cut, _, _ = read_bytes(tmp_path, content[5000:], suffix)  # in mid-frame
        part = cut[-30000:-4000]
        place = place_of(part, whole)
        error = part.astype(float) - whole[place : place + len(part)]
        assert np.std(error) < 0.2 * np.std(part), suffix  # AAC's decoder adds its own noise
        assert abs(len(whole) - len(part) - 4000 - place) < 2304


def test_a_change_of_rate_or_channels_in_mid_stream_is_converted_and_noted(tmp_path):
    seam = 1152  # FFmpeg loses the frame before another stream

    def mp3(samples, rate):
        path = encode(tmp_path / "part.mp3", samples, rate, "libmp3lame", write_xing="0")
        return path.read_bytes(), read(path)[0]

    stereo, expected = mp3(SONG, 44100)
    mono, tail = mp3(SONG[:, :1], 44100)
    samples, rate, damage = read_bytes(tmp_path, stereo + mono, ".mp3")
    assert (rate, samples.shape) == (44100, (len(expected) + len(tail) - seam, 2))
    assert "it has 44100 Hz and 1 channels, converted to 44100 Hz and 2" in damage
    samples, _, _ = read_bytes(tmp_path, mono + stereo, ".mp3")
    assert samples.shape == (len(expected) + len(tail) - seam, 1)
    np.testing.assert_array_equal(samples[: len(tail) - seam], tail[:-seam])
    slow, tail = mp3(music(22050, 2, 22050), 22050)
    samples, rate, damage = read_bytes(tmp_path, stereo * 9 + slow, ".mp3")
    assert rate == 44100
    assert len(samples) == 9 * (len(expected) - seam) + 2 * len(tail)
    assert "it has 22050 Hz and 2 channels, converted to 44100 Hz and 2" in damage


def test_damaged_songs_are_read_with_a_warning_and_fractions_are_refused(tmp_path, plain, capfd):
    """Cut to 80 %: what is there, and a note. Cut to 30 % of a stated length: refused."""
    for suffix, path in plain.items():
        content, whole = path.read_bytes(), read(path)[0]
        if suffix == ".m4a":  # its index is at the end
            with pytest.raises(AudioError, match="is damaged, it cannot be decoded"):
                read_bytes(tmp_path, content[: len(content) * 8 // 10], suffix)
            continue
        samples, _, damage = read_bytes(tmp_path, content[: len(content) * 8 // 10], suffix)
        assert 0.5 * len(whole) < len(samples) < 0.9 * len(whole), suffix
        same = samples[: len(samples) - 8192]
        np.testing.assert_array_equal(same, whole[: len(same)], suffix)
        assert damage, suffix
        assert "\n" not in damage
        if suffix in (".wav", ".flac", ".aiff", ".au", ".mp3", ".mka"):
            with pytest.raises(AudioError, match=r"only \d+ of \d+ frames .* less than half"):
                read_bytes(tmp_path, content[: len(content) * 3 // 10], suffix)
    holed = bytearray(plain[".mp3"].read_bytes())
    holed[4000:6000] = bytes(2000)
    assert read_bytes(tmp_path, holed, ".mp3")[2]
    flipped = bytearray(flac_bytes(SONG, 16))
    flipped[30000] ^= 16
    samples, _, damage = read_bytes(tmp_path, flipped, ".flac")
    assert np.count_nonzero(samples != SONG) == 1
    assert damage == "the decoder reported: CRC error"
    with pytest.warns(SongWarning, match=r"odd\.flac: the decoder reported: CRC error"):
        read_song(tmp_path / "odd.flac")
    assert capfd.readouterr() == ("", "")


# As FFmpeg 5.1 decodes them, but for these; docs/reference/audio-formats.md explains each.
OTHERWISE = {
    "A15_ext_24_in_32.wav": (22050, 4275.1),  # FFmpeg takes the integers for floats
    "B09_44k_then_48k.mp3": (51675, 3912.4),  # FFmpeg loses 16 frames where the rate changes
}


@pytest.mark.skipif(not CASES.is_dir(), reason="no cases beside the checkout")
def test_files_from_public_bug_reports_have_the_frames_and_level_of_ffmpeg():
    with (CASES / "expected.tsv").open() as table:
        rows = list(csv.DictReader(table, delimiter="\t"))
    wrong = []
    for row in rows:
        name = row["file"]
        expected = OTHERWISE.get(name, (int(row["frames"]), float(row["rms_lsb"])))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SongWarning)
            song = read_song(CASES / name)
        level = float(np.sqrt(np.mean(song.samples.astype(float) ** 2)))
        properties = (song.sample_rate_hz, song.channels, song.frames)
        stated = (int(row["sample_rate_hz"]), int(row["channels"]), expected[0])
        if properties != stated or abs(level / expected[1] - 1) > 5e-4:
            wrong.append((name, properties, level, stated, expected[1]))
    assert wrong == []
    assert len(rows) >= 100
