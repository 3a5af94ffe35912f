"""Figures show the data. Oracles: numpy by hand, scipy.signal, PIL's reader."""

import itertools
import re
import time

import matplotlib
import numpy as np
import pytest
from PIL import Image
from scipy.signal import welch

from songcast.report.figures.rhythm import rhythm, rhythm_of
from songcast.report.figures.sound import residual_spectrum, spectrograms, waveforms
from songcast.report.figures.style import save_png
from songcast.report.figures.summary import bits_per_song, forgetting, learning_curves

RATE = 44100
LONG_NAME = "a-song-whose-name-$x_1$-never-ends-" * 4


@pytest.fixture(scope="module")
def passage(make_song):
    """Half a second in stereo, loudest in its middle, int16, and a noisy prediction of it."""
    x = make_song(frames=RATE // 2).samples.copy()
    x[:9000] //= 8
    x[13000:] //= 8
    return x, x + np.random.default_rng(1).normal(0, 40, x.shape)


def gain_db(x, mean):
    """Prediction gain, mean over channels."""
    x = x.astype(float)
    return np.mean(10 * np.log10((x**2).sum(axis=0) / ((x - mean) ** 2).sum(axis=0)))


def title(figure):
    return figure.get_suptitle().replace("\n", " ")


def numbers(text):
    return [float(number) for number in re.findall(r"−?\d+\.\d+", text.replace("−", "-"))]


def line(ax, label):
    return next(line for line in ax.get_lines() if line.get_label() == label)


def legend_names(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def plotted_values(figure):
    for ax in figure.axes:
        yield from (line.get_xydata() for line in ax.get_lines())
        yield from (image.get_array() for image in ax.get_images())


def drawn(figure, folder):
    """PNG bytes of a figure, checked to be 1000 pixels wide, finite and without metadata."""
    save_png(figure, folder / "figure.png")
    with Image.open(folder / "figure.png") as image:
        assert image.width == 1000
        assert set(image.info) <= {"dpi"}
    assert all(np.isfinite(values).all() for values in plotted_values(figure))
    return (folder / "figure.png").read_bytes()


def evaluation(songs, **offsets):
    """Bits that differ from song to song and by a constant from forecaster to forecaster."""
    bits = np.random.default_rng(3).uniform(4, 9, songs)
    return {
        "summary": {},
        "songs": {
            f"song-{i}": {
                name: {"bits_per_sample": float(bits[i] + offset), "prediction_gain_db": [1.0]}
                for name, offset in offsets.items()
            }
            for i in range(songs)
        },
    }


def rows(*bits):
    keys = ("step", "train_bits_per_sample", "validation_bits_per_sample")
    return [dict(zip(keys, (i + 1, b - 0.1, b), strict=True)) for i, b in enumerate(bits)]


def every_figure(x, mean, songs=8):
    """One of each."""
    return passage_figures(x, mean) | song_figures(songs)


def passage_figures(x, mean):
    return {
        "waveforms": waveforms(x, {"train": mean}, RATE, LONG_NAME),
        "spectrograms": spectrograms(x, mean, RATE),
        "rhythm": rhythm(x, {"train": mean}, RATE),
        "residual_spectrum": residual_spectrum(x, {"train": x - mean}, RATE),
    }


def song_figures(songs):
    slugs = [f"{LONG_NAME}{i}" for i in range(songs)]
    table = evaluation(songs, ridge=0.5, train=0.0, flac=0.7)
    table["songs"] = dict(zip(slugs, table["songs"].values(), strict=True))
    before = {slug: 6.0 + i / 10 for i, slug in enumerate(slugs)}
    return {
        "bits_per_song": bits_per_song(table),
        "learning_curves": learning_curves(rows(8.0, 7.0)),
        "forgetting": forgetting(dict.fromkeys(before, 0.0), set(slugs[:1])),
    }


# --- all figures ---


@pytest.fixture(scope="module")
def figures_of_each_kind(passage, tmp_path_factory):
    """Every figure, and its bytes as a PNG."""
    folder = tmp_path_factory.mktemp("figures")
    return {
        name: (figure, drawn(figure, folder)) for name, figure in every_figure(*passage).items()
    }


def test_every_figure_has_a_title_and_names_its_axes(figures_of_each_kind):
    for name, (figure, _) in figures_of_each_kind.items():
        assert title(figure), name
        outer = [ax for ax in figure.axes if ax.get_xlabel()]
        assert outer, name
        for ax in outer:
            assert re.search(r"\(.+\)|epoch", ax.get_xlabel()), name


def test_short_silent_and_constant_passages_can_be_drawn(tmp_path):
    for frames, channels, loud in [(1, 1, 0), (1, 2, 9), (2, 1, 32767), (700, 2, 0), (5000, 1, 0)]:
        x = np.full((frames, channels), loud, np.int16)
        for figure in passage_figures(x, np.zeros(x.shape)).values():
            drawn(figure, tmp_path)


def test_a_perfect_prediction_can_be_drawn(passage, tmp_path):
    x, _ = passage
    for figure in passage_figures(x, x.astype(float)).values():
        drawn(figure, tmp_path)
        assert re.search("∞ dB|within 0 dB|correlation 1.000", title(figure))


def test_the_same_figure_gives_the_same_bytes(figures_of_each_kind, passage, tmp_path):
    for name, figure in every_figure(*passage).items():
        assert drawn(figure, tmp_path) == figures_of_each_kind[name][1], name


def test_settings_of_the_user_have_no_effect_and_are_kept(tmp_path):
    plain = drawn(song_figures(8)["bits_per_song"], tmp_path)
    with matplotlib.rc_context({"xtick.color": "red", "savefig.dpi": 30, "font.size": 20}):
        before = dict(matplotlib.rcParams)
        assert drawn(song_figures(8)["bits_per_song"], tmp_path) == plain
        assert dict(matplotlib.rcParams) == before


def test_titles_labels_and_legends_stay_inside_and_do_not_overlap(figures_of_each_kind, tmp_path):
    few, many = song_figures(1), song_figures(30)
    for figure in (*few.values(), *many.values()):
        drawn(figure, tmp_path)
    kinds = [(name, figure) for name, (figure, _) in figures_of_each_kind.items()]
    for name, figure in (*kinds, *few.items(), *many.items()):
        heading = figure._suptitle.get_window_extent()
        bodies = [ax.get_tightbbox() for ax in figure.axes]
        legends = [legend.get_window_extent() for legend in figure.legends]
        for box in (heading, *bodies, *legends):
            assert box.x0 >= -1, name
            assert box.y0 >= -1, name
            assert box.x1 <= figure.bbox.x1 + 1, name
            assert box.y1 <= figure.bbox.y1 + 1, name
        for body in bodies:
            assert body.y1 <= heading.y0 + 1, name
            assert all(legend.y1 <= body.y0 + 1 for legend in legends), name
        labels = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
        for one, other in itertools.pairwise(sorted(labels, key=lambda box: box.y0)):
            assert one.y1 <= other.y0 + 1, name


def cpu_seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def test_five_seconds_in_stereo_are_drawn_quickly(make_song, tmp_path):
    x = make_song(frames=5 * RATE).samples
    mean = np.roll(x, 1, axis=0).astype(float)
    for draw in (
        lambda: waveforms(x, {"train": mean}, RATE, "song"),
        lambda: spectrograms(x, mean, RATE),
        lambda: residual_spectrum(x, {"train": x - mean}, RATE),
    ):
        # Measured below 1; shared machines stutter, but not three times in a row.
        assert any(cpu_seconds(lambda draw=draw: drawn(draw(), tmp_path)) < 4.0 for _ in range(3))


def test_a_failed_save_leaves_the_old_file(passage, tmp_path, monkeypatch):
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    figure = learning_curves(rows(8.0))
    monkeypatch.setattr(figure, "savefig", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_png(figure, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


# --- waveforms ---


def test_the_zoom_is_the_loudest_20_ms_of_original_and_prediction_aligned(passage):
    x, mean = passage
    figure = waveforms(x, {"train": mean, "other": mean / 2}, RATE, "song")
    length = 882
    energy = np.convolve((x.astype(float) ** 2).sum(axis=1), np.ones(length), "valid")
    start = int(np.argmax(energy))
    grid = np.array(figure.axes).reshape(3, 2)
    for c in range(2):
        _, near, error = grid[:, c]
        cut = slice(start, start + length)
        np.testing.assert_array_equal(line(near, "original").get_ydata(), x[cut, c])
        np.testing.assert_array_equal(line(near, "train").get_ydata(), mean[cut, c])
        np.testing.assert_array_equal(line(near, "other").get_ydata(), mean[cut, c] / 2)
        np.testing.assert_allclose(line(error, "train").get_ydata(), x[cut, c] - mean[cut, c])
        for name in ("original", "train"):
            np.testing.assert_allclose(line(near, name).get_xdata(), np.arange(length) / 44.1)
        assert f"{start / RATE:.3f} s" in near.get_title(loc="left")
    assert legend_names(figure) == ["original", "train", "other"]


def test_the_whole_passage_is_drawn_between_its_extremes(passage):
    x, mean = passage
    figure = waveforms(x, {"train": mean}, RATE, "song")
    for c, whole in enumerate(figure.axes[:2]):
        vertices = whole.collections[0].get_paths()[0].vertices
        assert vertices[:, 1].min() == x[:, c].min()
        assert vertices[:, 1].max() == x[:, c].max()
        outline = np.concatenate([li.get_ydata() for li in whole.get_lines() if len(li._y) > 2])
        assert outline.min() == mean[:, c].min()
        assert outline.max() == mean[:, c].max()
        assert whole.get_xlim() == (0, 0.5)
        assert (whole.get_xlabel(), figure.axes[0].get_ylabel()) == ("time (s)", "amplitude (LSB)")


def test_the_title_of_waveforms_gives_each_gain_best_first(passage):
    x, mean = passage
    worse = 0.9 * mean
    figure = waveforms(x, {"ridge": worse, "train": mean}, RATE, "song")
    expected = f"{gain_db(x, mean):.1f} dB (train), {gain_db(x, worse):.1f} dB (ridge)"
    assert title(figure) == f"song: prediction gain {expected}"


def test_mono_has_one_column_and_stereo_two(passage):
    x, mean = passage
    assert len(waveforms(x[:, :1], {"a": mean[:, :1]}, RATE, "m").axes) == 3
    assert len(waveforms(x, {}, RATE, "s").axes) == 6


# --- spectra ---


def test_spectrograms_share_one_scale_and_a_full_scale_sine_reads_0_db():
    t = np.arange(RATE) / RATE
    x = np.rint(32767 * np.sin(2 * np.pi * 3000 * t))[:, None].astype(np.int16)
    figure = spectrograms(x, 0.9 * x, RATE)
    images = [ax.get_images()[0] for ax in figure.axes[:3]]
    assert len({image.get_clim() for image in images}) == 1
    assert len(figure.axes) == 4  # the fourth is the only colour bar
    assert figure.axes[3].get_ylabel() == "level (dB re full-scale sine)"
    original, forecast, residual = (image.get_array() for image in images)
    assert original.max() == pytest.approx(0.0, abs=1.5)  # scalloping of the window
    assert original.max() - forecast.max() == pytest.approx(-20 * np.log10(0.9))
    assert original.max() - residual.max() == pytest.approx(20.0, abs=0.01)
    row = np.argmax(original[:, original.shape[1] // 2])
    _, _, low, high = images[0].get_extent()
    assert low + (high - low) * row / (original.shape[0] - 1) == pytest.approx(3.0, abs=0.03)
    assert title(figure) == "The residual is 20.0 dB below the original"
    assert figure.axes[0].get_ylabel() == "frequency (kHz)"


def test_a_click_is_at_its_time_in_the_spectrogram():
    x = np.zeros((RATE, 1))
    x[30000] = 20000
    image = spectrograms(x, x, RATE).axes[0].get_images()[0]
    left, right, _, _ = image.get_extent()
    power = (10 ** (image.get_array() / 10)).sum(axis=0)
    column = np.sum(np.arange(len(power)) * power) / power.sum()
    seconds = left + (column + 0.5) * (right - left) / len(power)
    assert seconds == pytest.approx(30000 / RATE, abs=0.002)


def test_rounding_errors_are_on_the_line_of_quantisation_noise():
    rng = np.random.default_rng(5)
    rounding = rng.uniform(-0.5, 0.5, (5 * RATE, 2))
    song = rng.normal(0, 100, rounding.shape)
    figure = residual_spectrum(song, {"train": rounding}, RATE)
    ax = figure.axes[0]
    floor = line(ax, "16-bit quantisation noise").get_ydata()[0]
    assert floor == pytest.approx(10 * np.log10(1 / 12 / (RATE / 2) / 32768**2))
    residual = line(ax, "train")
    high = residual.get_xdata() > 300
    np.testing.assert_allclose(residual.get_ydata()[high], floor, atol=0.7)
    np.testing.assert_allclose(line(ax, "song").get_ydata()[high], floor + 50.8, atol=0.7)
    assert numbers(title(figure))[0] == pytest.approx(gain_db(song, song - rounding), abs=0.06)
    assert numbers(title(figure))[1] == pytest.approx(0.0, abs=0.1)
    assert ax.get_ylabel() == "power (dB re full scale per Hz)"


def test_spectrum_agrees_with_scipy_where_bands_are_single_bins(passage):
    x, mean = passage
    ax = residual_spectrum(x, {"train": x - mean}, RATE).axes[0]
    _, density = welch(
        x.astype(float), RATE, np.hanning(4098)[1:-1], 4096, 2048, detrend=False, axis=0
    )
    expected = 10 * np.log10(density.mean(axis=1) / 32768**2)
    drawn_hz, drawn_db = line(ax, "song").get_data()
    np.testing.assert_allclose(drawn_hz[:16], np.arange(1, 17) * RATE / 4096)
    np.testing.assert_allclose(drawn_db[:16], expected[1:17], rtol=1e-9)


def test_spectrum_title_names_the_best_forecaster(passage):
    x, mean = passage
    errors = {"persistence": 3 * (x - mean), "train": x - mean}
    figure = residual_spectrum(x, errors, RATE)
    above = 10 * np.log10(np.mean((x - mean) ** 2) * 12)
    assert title(figure) == (
        f"train's residual: {gain_db(x, mean):.1f} dB below the song, "
        f"{above:.1f} dB above 16-bit quantisation noise"
    )


# --- loudness and beat ---


def clicks(bpm, seconds=4.0, quieter=1.0):
    """Short bursts at a tempo, int16 (frames, 1)."""
    x = np.zeros((round(seconds * RATE), 1))
    burst = np.random.default_rng(2).normal(0, 8000 * quieter, 800) * np.exp(-np.arange(800) / 200)
    for start in np.arange(0.2, seconds - 0.1, 60 / bpm):
        x[round(start * RATE) :][:800, 0] += burst
    return x.astype(np.int16)


def test_clicks_give_their_tempo_and_onsets_at_their_times():
    measured = rhythm_of(clicks(120), RATE)
    assert measured.tempo_bpm == pytest.approx(120, rel=0.03)
    times = np.arange(len(measured.onsets)) * measured.hop_seconds
    for click in np.arange(0.2, 3.9, 0.5):
        near = np.abs(times - click) < 0.03
        assert measured.onsets[near].max() > 20 * np.median(measured.onsets)


def test_a_sine_has_its_loudness_in_each_window():
    t = np.arange(RATE) / RATE
    x = np.rint(3276.7 * np.sin(2 * np.pi * 1000 * t))[:, None].astype(np.int16)
    np.testing.assert_allclose(rhythm_of(x, RATE).loudness_db, -20.0, atol=0.01)


def test_the_title_of_rhythm_gives_the_difference_in_loudness():
    x = clicks(120)
    rng = np.random.default_rng(4)
    x = x + rng.normal(0, 300, x.shape)
    figure = rhythm(x, {"train": x / 2}, RATE)
    assert title(figure) == (
        "train: loudness within 6 dB of the song (median); onset correlation 1.000"
    )
    tempi = {name: re.search(r", (\d+) BPM", name)[1] for name in legend_names(figure)}
    assert len(tempi) == 2
    assert len(set(tempi.values())) == 1


def test_a_passage_of_less_than_two_seconds_has_no_tempo(passage):
    x, _ = passage
    assert rhythm_of(x, RATE).tempo_bpm is None


# --- songs and epochs ---


def test_bits_title_is_the_mean_difference_to_ridge():
    table = evaluation(8, persistence=2.0, ridge=0.92, train=0.0, flac=-1.0)
    text = title(bits_per_song(table))
    assert text == (
        "train needs 0.92 bits per sample less than ridge, 1.00 more than flac, mean of 8 songs"
    )


def test_bits_title_when_ridge_is_best():
    text = title(bits_per_song(evaluation(2, ridge=0.0, train=0.25)))
    assert text == "ridge needs 0.25 bits per sample less than train, mean of 2 songs"


def test_every_value_is_in_the_row_of_its_song():
    for songs in (1, 8, 30):
        check_rows(songs)


def check_rows(songs):
    table = evaluation(songs, ridge=0.5, cascade=0.2, train=0.0, retrain=-0.1)
    ax = bits_per_song(table).axes[0]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels[songs > 1 :] == sorted(
        table["songs"], key=lambda slug: -table["songs"][slug]["train"]["bits_per_sample"]
    )
    for name in ("ridge", "cascade", "train", "retrain"):
        bits, y = line(ax, name).get_data()
        for slug, entry in table["songs"].items():
            index = np.rint(y).tolist().index(labels.index(slug))
            assert bits[index] == entry[name]["bits_per_sample"]
        if songs > 1:
            assert bits[0] == pytest.approx(np.mean(bits[1:]))
    assert ax.get_xlabel() == "bits per sample (fewer is better)"


def test_learning_curves_carry_the_rows_and_mark_the_best_epoch():
    figure = learning_curves(rows(8.0, 6.5, 6.25, 6.75))
    ax = figure.axes[0]
    np.testing.assert_allclose(line(ax, "validation").get_ydata(), [8.0, 6.5, 6.25, 6.75])
    np.testing.assert_allclose(line(figure.axes[1], "training").get_ydata(), [7.9, 6.4, 6.15, 6.65])
    np.testing.assert_array_equal(line(ax, "best epoch").get_xydata(), [[3, 6.25]])
    assert title(figure) == "Best at epoch 3: 6.250 bits per sample on validation"


def test_forgetting_separates_old_songs_from_new():
    change = {"a": 0.1, "b": 0.2, "c": -1.5}
    figure = forgetting(change, {"c"})
    assert title(figure) == (
        "After retraining: 2 old songs 0.150 worse, 1 new song 1.500 better (bits per sample)"
    )
    ax = figure.axes[0]
    labels = ax.get_yticklabels()
    assert {t.get_text() for t in labels if t.get_fontweight() == "bold"} == {"c"}
    rows_of = [label.get_text() for label in labels]
    ends = {li.get_ydata()[0]: li.get_xdata()[1] for li in ax.get_lines()[1:] if len(li._x) == 2}
    assert ends == {rows_of.index(slug): bits for slug, bits in change.items()}
    assert ax.get_xlabel().startswith("change of bits per sample")
