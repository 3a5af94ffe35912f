"""`songcast monitor`: the songs that the champion served, compared with its evaluation."""

import argparse
import datetime
import math
import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from songcast.commands import Subparsers, add_command

if TYPE_CHECKING:
    from songcast.registry.live import Record, Shift
    from songcast.registry.versions import Version

DRIFT = 3
DAY_SECONDS = 86400
# Measure: its name in a sentence, its unit, its decimals.
MEASURES = {
    "bits_per_sample": ("bits per sample", "", 2),
    "prediction_gain_db": ("prediction gain", " dB", 1),
    "seconds": ("duration", " s", 1),
}
WORDS = {"registration": "at registration", "before": "in the window before"}


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "monitor",
        run,
        "compare the served songs with the champion's evaluation",
        "Compares the songs of a window with the held-out passages of the champion, and with the "
        f"window before (Mann-Whitney U test). Exit code {DRIFT}: bits per sample differ, and the "
        "difference is neither chance nor negligible. A song that was sent several times counts "
        "once.",
        "songcast monitor --window 7d --log",
    )
    parser.add_argument(
        "--window",
        metavar="DAYS|N",
        type=window,
        default=(7.0, None),
        help="the last days, such as 7d, or the last songs, such as 200 (default: 7d)",
    )
    parser.add_argument("--plot", metavar="FILE", type=Path, help="write a figure (PNG)")
    parser.add_argument(
        "--log",
        action="store_true",
        help="add the result to the MLflow run `monitor` of this version, as its next step",
    )


def window(text: str) -> tuple[float | None, int | None]:
    """Parse ``7d`` to (days, None) and ``200`` to (None, songs). Raises ``ArgumentTypeError``."""
    match = re.fullmatch(r"(\d{1,5}(?:\.\d+)?)d|([1-9]\d{0,6})", text)
    if match is None or (match[1] and not float(match[1])):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a window: write days such as 7d, or a number of songs such as 200"
        )
    return (float(match[1]), None) if match[1] else (None, int(match[2]))


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; return ``DRIFT`` for drift."""
    from songcast.commands.loading import CHAMPION_URI, require_registry
    from songcast.errors import SongcastError
    from songcast.registry.live import is_drift, read_records, records_path
    from songcast.registry.versions import find_version
    from songcast.report import console

    require_registry()
    champion = find_version(CHAMPION_URI)
    records = read_records(records_path(), champion.uri, shadow=False)
    days, songs = arguments.window
    now, before = windows(records, days, songs, time.time())
    shifts = {m: compare(m, now, before, champion) for m in MEASURES}
    bits = {k: v for k, v in shifts["bits_per_sample"].items() if not math.isnan(v.p)}
    drift = any(is_drift(shift, len(bits)) for shift in bits.values())
    lines = verdicts(shifts["bits_per_sample"], len(now))
    if arguments.plot:
        try:
            plot(arguments.plot, now, before, champion, lines[0])
        except OSError as error:
            raise SongcastError(f"{arguments.plot}: cannot be written ({error.strerror})") from None
    if arguments.log:
        log(champion.number, numbers(shifts, drift))
    if arguments.json:
        measures = {m: {k: finite(asdict(v)) for k, v in s.items()} for m, s in shifts.items()}
        document = {"version": champion.number, "drift": drift, "songs": len(now)}
        console.print_json({**document, "verdict": lines, "measures": measures})
    else:
        rows = [row(m, name, shift) for m, by in shifts.items() for name, shift in by.items()]
        columns = ["measure", "against", "median", "other", "shift", "effect", "p", "other songs"]
        console.print_table(columns, rows, left=2)
        print("\n".join(lines))
        print(f"version {champion.number}: {'drift' if drift else 'no drift'}")
    return DRIFT if drift else 0


def windows(
    records: Sequence["Record"], days: float | None, songs: int | None, now: float
) -> tuple[list["Record"], list["Record"]]:
    """Return the records of the window and of the one before it, each song once in each."""
    if songs is not None:
        latest = list({record.song: record for record in records}.values())
        latest.sort(key=lambda record: record.time)
        return latest[-songs:], latest[-2 * songs : -songs]
    length = (days or 0.0) * DAY_SECONDS
    found = []
    for stop in (math.inf, now - length):
        start = now - length if stop == math.inf else stop - length
        inside = {r.song: r for r in records if start <= r.time < stop}
        found.append(list(inside.values()))
    return found[0], found[1]


def compare(
    measure: str, now: Sequence["Record"], before: Sequence["Record"], champion: "Version"
) -> dict[str, "Shift"]:
    """Compare a measure with the registered evaluation, if it has it, and the window before."""
    from songcast.registry.live import measured_shift

    values = [getattr(record, measure) for record in now]
    others = {"before": [getattr(record, measure) for record in before]}
    registered = evaluated(champion, measure)
    if registered or measure == "bits_per_sample":
        others = {"registration": registered, **others}
    return {name: measured_shift(values, other) for name, other in others.items()}


def evaluated(champion: "Version", measure: str) -> list[float]:
    """Return a measure of the held-out passages of a version; a gain is a mean over channels."""
    values: list[float] = []
    for song in (champion.evaluation.get("songs") or {}).values():
        value = song.get(measure)
        parts = [v for v in (value if isinstance(value, list) else [value]) if v is not None]
        values += [sum(parts) / len(parts)] if parts else []
    return [value for value in values if math.isfinite(value)]


def verdicts(shifts: dict[str, "Shift"], songs: int) -> list[str]:
    """Return a line for each comparison of the bits per sample."""
    from songcast.registry.gate import LEAST_SONGS

    if songs < LEAST_SONGS:
        return [f"too few songs for a verdict: {songs} in the window, {LEAST_SONGS} are needed"]
    return [sentence(WORDS[name], shift) for name, shift in shifts.items()]


def sentence(where: str, shift: "Shift") -> str:
    """Return one comparison as text.

    >>> from songcast.registry.live import Shift
    >>> numbers = dict(median=6.3, other_median=6.0, shift=0.31, effect=0.4, p=1e-9)
    >>> sentence("at registration", Shift(songs=212, other_songs=8, **numbers))
    'bits per sample 0.31 higher than at registration, p < 0.001, 212 songs'
    """
    if math.isnan(shift.p):
        return f"bits per sample: no songs {where} to compare with"
    chance = "p < 0.001" if shift.p < 0.001 else f"p = {shift.p:.3f}"
    way = "higher" if shift.shift >= 0 else "lower"
    amount = f"{abs(shift.shift):.2f} {way}"
    return f"bits per sample {amount} than {where}, {chance}, {shift.songs} songs"


def row(measure: str, name: str, shift: "Shift") -> list[str]:
    """Return one comparison as a row of the table."""
    from songcast.report.console import number

    words, unit, digits = MEASURES[measure]
    values = (shift.median, shift.other_median, shift.shift)
    texts = [number(value, digits) for value in values]
    strength = [number(shift.effect, 2), number(shift.p, 4), str(shift.other_songs)]
    return [words + unit.replace(" ", ", ", 1), name, *texts, *strength]


def finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return ``values`` with None for NaN, which JSON does not have."""
    return {k: None if v != v else v for k, v in values.items()}


def numbers(shifts: dict[str, dict[str, "Shift"]], drift: bool) -> dict[str, float]:
    """Return the metrics of the run: medians, and shift, effect and p of every comparison."""
    metrics = {"drift": float(drift), "songs": float(shifts["bits_per_sample"]["before"].songs)}
    for measure, by_name in shifts.items():
        metrics[measure] = by_name["before"].median
        for name, shift in by_name.items():
            values = {"shift": shift.shift, "effect": shift.effect, "p": shift.p}
            metrics |= {f"{name}/{measure}_{key}": value for key, value in values.items()}
    return {key: value for key, value in metrics.items() if math.isfinite(value)}


def log(version: int, metrics: dict[str, float]) -> None:
    """Add one step to the run `monitor` of a version, so that MLflow draws drift over time."""
    from songcast.tracking.run_data import points_of, send_metrics
    from songcast.tracking.runs import STAGE, create_run
    from songcast.tracking.store import clear_errors, connect, experiment_id, locked, tracking_uri

    uri = tracking_uri()
    with clear_errors(uri), locked(uri):
        client = connect(uri)
        query = f"tags.`{STAGE}` = 'monitor' and tags.`songcast.version` = '{version}'"
        found = client.search_runs([experiment_id(client)], query)
        tags = {"songcast.version": version}
        name = f"monitor version {version}"
        run = found[0].info.run_id if found else create_run(client, "monitor", tags, name=name)
        step = len(client.get_metric_history(run, "songs"))
        send_metrics(client, run, points_of([{"step": step, **metrics}]))
        client.set_terminated(run)


def plot(
    path: Path,
    now: Sequence["Record"],
    before: Sequence["Record"],
    champion: "Version",
    title: str,
) -> None:
    """Draw the bits per sample of each served song over time, and the evaluated ones."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    from songcast.report.figures.style import (
        BLUE,
        GREY,
        VERMILION,
        legend,
        new_figure,
        save_png,
        styled,
    )

    def draw() -> None:
        figure, axes = new_figure(f"Version {champion.number}: {title}", 3.5, 1, 1)
        ax, handles = axes[0, 0], []
        for records, colour in ((before, GREY), (now, BLUE)):
            when = [datetime.datetime.fromtimestamp(r.time, datetime.UTC) for r in records]
            values = [float(r.bits_per_sample or 0.0) for r in records]
            handles += ax.plot(when, values, "o", markersize=3, alpha=0.6, color=colour)
        expected = evaluated(champion, "bits_per_sample")
        handles += [ax.axhline(v, color=VERMILION, linewidth=0.8) for v in expected][:1]
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        ax.set_ylabel("bits per sample")
        legend(figure, handles, ["window before", "window", "held-out songs"][: len(handles)])
        save_png(figure, path)

    styled(draw)()
