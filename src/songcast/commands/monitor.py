"""`songcast monitor`: the songs that the champion served, compared with its evaluation."""

import argparse
import datetime
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from songcast.commands.loading import CHAMPION_URI
from songcast.errors import SongcastError
from songcast.registry.gate import LEAST_SONGS
from songcast.registry.live import (
    Record,
    Shift,
    is_drift,
    measured_shift,
    read_records,
    records_path,
)
from songcast.registry.versions import Version, find_version
from songcast.report import console
from songcast.report.console import number
from songcast.report.results import mean_of
from songcast.tracking.run_data import send_metrics
from songcast.tracking.runs import STAGE, create_run
from songcast.tracking.store import experiment_id, session

DRIFT = 3
DAY_SECONDS = 86400
# Measure: its name and unit, its decimals.
MEASURES = {
    "bits_per_sample": ("bits per sample", 2),
    "prediction_gain_db": ("prediction gain, dB", 1),
    "seconds": ("duration, s", 1),
}
WORDS = {"registration": "at registration", "before": "in the window before"}


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; return ``DRIFT`` for drift."""
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
        measures = {m: {k: as_json(v) for k, v in s.items()} for m, s in shifts.items()}
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
    records: Sequence[Record], days: float | None, songs: int | None, now: float
) -> tuple[list[Record], list[Record]]:
    """Return the records of the window and of the one before it, each song once in each."""
    if songs is not None:
        latest = list({record.song: record for record in records}.values())
        latest.sort(key=lambda record: record.time)
        return latest[-songs:], latest[-2 * songs : -songs]
    length = (days or 0.0) * DAY_SECONDS
    latest, earlier = (
        list({r.song: r for r in records if start <= r.time < stop}.values())
        for start, stop in ((now - length, math.inf), (now - 2 * length, now - length))
    )
    return latest, earlier


def compare(
    measure: str, now: Sequence[Record], before: Sequence[Record], champion: Version
) -> dict[str, Shift]:
    """Compare a measure with the registered evaluation, if it has it, and the window before."""
    values = [getattr(record, measure) for record in now]
    others = {"before": [getattr(record, measure) for record in before]}
    registered = evaluated(champion, measure)
    if registered or measure == "bits_per_sample":
        others = {"registration": registered, **others}
    return {name: measured_shift(values, other) for name, other in others.items()}


def evaluated(champion: Version, measure: str) -> list[float]:
    """Return a measure of the held-out passages of a version; a gain is a mean over channels."""
    songs = (champion.evaluation.get("songs") or {}).values()
    return [v for v in (mean_of(song.get(measure)) for song in songs) if math.isfinite(v)]


def verdicts(shifts: dict[str, Shift], songs: int) -> list[str]:
    """Return a line for each comparison of the bits per sample."""
    if songs < LEAST_SONGS:
        return [f"too few songs for a verdict: {songs} in the window, {LEAST_SONGS} are needed"]
    return [sentence(WORDS[name], shift) for name, shift in shifts.items()]


def sentence(where: str, shift: Shift) -> str:
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


def row(measure: str, name: str, shift: Shift) -> list[str]:
    """Return one comparison as a row of the table."""
    words, digits = MEASURES[measure]
    texts = [number(v, digits) for v in (shift.median, shift.other_median, shift.shift)]
    strength = [number(shift.effect, 2), number(shift.p, 4), str(shift.other_songs)]
    return [words, name, *texts, *strength]


def as_json(shift: Shift) -> dict[str, Any]:
    """Return one comparison as an entry of the JSON document, which has no NaN."""
    return {k: None if v != v else v for k, v in asdict(shift).items()}


def numbers(shifts: dict[str, dict[str, Shift]], drift: bool) -> dict[str, float]:
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
    with session(lock=True) as client:
        query = f"tags.`{STAGE}` = 'monitor' and tags.`songcast.version` = '{version}'"
        found = client.search_runs([experiment_id(client)], query)
        tags = {"songcast.version": version}
        name = f"monitor version {version}"
        run = found[0].info.run_id if found else create_run(client, "monitor", tags, name=name)
        step = len(client.get_metric_history(run, "songs"))
        send_metrics(client, run, [{"step": step, **metrics}])
        client.set_terminated(run)


def plot(
    path: Path,
    now: Sequence[Record],
    before: Sequence[Record],
    champion: Version,
    title: str,
) -> None:
    """Draw the bits per sample of each served song over time, and the evaluated ones."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    from songcast.report.figures import style

    @style.styled
    def draw() -> None:
        figure, axes = style.new_figure(f"Version {champion.number}: {title}", 3.5, 1, 1)
        ax, handles = axes[0, 0], []
        for records, colour in ((before, style.GREY), (now, style.BLUE)):
            when = [datetime.datetime.fromtimestamp(r.time, datetime.UTC) for r in records]
            values = [float(r.bits_per_sample or 0.0) for r in records]
            handles += ax.plot(when, values, "o", markersize=3, alpha=0.6, color=colour)
        expected = evaluated(champion, "bits_per_sample")
        handles += [ax.axhline(v, color=style.VERMILION, linewidth=0.8) for v in expected][:1]
        locator = AutoDateLocator()  # type: ignore[no-untyped-call]
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
        ax.set_ylabel("bits per sample")
        style.legend(figure, handles, ["window before", "window", "held-out songs"][: len(handles)])
        style.save_png(figure, path)

    draw()
