"""Puts the report together: passages, numbers, pictures, lineage into one HTML file."""

import base64
import html
import json
import math
import os
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from songcast.files import atomic_path
from songcast.report.tracks import CONTINUATION, ORIGINAL, Passage, packed

HERE = Path(__file__).parent
LIBRARY = ("wavesurfer.min.js", "spectrogram.min.js")
KEYS = {ORIGINAL: 1, "pred_song": 2, "pred_song_updated": 3, CONTINUATION: 4, "residual": 5}
SAID = {
    ORIGINAL: "the song itself",
    "pred_song": "predicted by train",
    "pred_song_updated": "predicted by retrain",
    CONTINUATION: "the model alone, hearing itself",
}
NAMES = {"pred_song": "train", "pred_song_updated": "retrain"}
MISSING = "–"


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the page shows.

    ``evaluation``: the content of metrics/evaluation.json. ``figures``: description to PNG.
    ``lineage``: name to value. ``params``: stage to its flat settings.
    """

    evaluation: Mapping[str, Any]
    figures: Mapping[str, Path]
    lineage: Mapping[str, str]
    params: Mapping[str, Mapping[str, str]]


def write_report(path: str | os.PathLike[str], passages: Sequence[Passage], report: Report) -> None:
    """Write the page, atomically. Raises ``OSError``."""
    text = page(passages, report)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def page(passages: Sequence[Passage], report: Report) -> str:
    """Return the page's HTML."""
    sent = packed(passages)
    summary, songs = report.evaluation["summary"], report.evaluation["songs"]
    count = f"{len(passages)} passage{'s' if len(passages) != 1 else ''} of songs"
    return string.Template(_read("template.html")).substitute(
        style=_read("style.css"),
        count_of_passages=count,
        findings="\n".join(f"<li><b>{big}</b>{small}</li>" for big, small in findings(summary)),
        contents="".join(f'<a href="#{_id(p.slug)}">{p.slug}</a>' for p, _ in sent),
        songs="\n".join(_song(passage, songs.get(passage.slug, {})) for passage, _ in sent),
        summary=_numbers(summary, f"Mean of {len(songs)} songs, passages that no fit has seen"),
        figures="\n".join(_figure(words, picture) for words, picture in report.figures.items()),
        lineage=_pairs(report.lineage),
        params=_settings(report.params),
        data="\n".join(_data(song) for _, song in sent),
        licence=_read("vendor/LICENSE"),
        library="\n".join(_read(f"vendor/{name}") for name in LIBRARY),
        player=_read("player.js"),
    )


def findings(summary: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return the main results as (a number, what it says), of the forecaster of fewest bits."""
    if not summary:
        return []
    name = min(summary, key=lambda name: summary[name]["bits_per_sample"])
    best = summary[name]
    smaller = 10 ** (best["prediction_gain_db"] / 20)
    found = [
        (f"{smaller:.0f} × smaller", f"than the song: the error of {name} (RMS)"),
        (
            f"{best['bits_per_sample']:.2f} of 16 bits",
            f"are left of each sample once {name} has spoken",
        ),
    ]
    ancestor = summary.get("notebook")
    if ancestor and name != "notebook":
        less = best["prediction_gain_db"] - ancestor["prediction_gain_db"]
        found.append(
            (f"{less:+.1f} dB".replace("-", "−"), "prediction gain over the ancestor, the notebook")
        )
    return found


def _song(passage: Passage, measures: Mapping[str, Mapping[str, Any]]) -> str:
    names = [*passage.tracks, *(["residual"] if passage.residual_of else [])]
    return string.Template(_read("song.html")).substitute(
        id=_id(passage.slug),
        slug=passage.slug,
        seconds=f"{passage.seconds:.3f}",
        finding=_song_finding(passage, measures),
        tracks="\n".join(_track(name, passage) for name in names),
        numbers=_numbers(measures, "The whole unseen passage of this song"),
    )


def _track(name: str, passage: Passage) -> str:
    chosen = name == ORIGINAL
    said = SAID.get(name)
    if said is None:
        said = f"{NAMES[str(passage.residual_of)]}'s error, {passage.amplified_db} dB louder"
    group = f"track-{_id(passage.slug)}"
    return (
        f'<div class="track{" chosen" if chosen else ""}" data-track="{name}" '
        f'data-key="{KEYS[name]}"><label>'
        f'<input type="radio" name="{group}"{" checked" if chosen else ""}>'
        f"<kbd>{KEYS[name]}</kbd><b>{name}</b><small>{said}</small></label>"
        f'<div class="wave" aria-hidden="true"></div></div>'
    )


def _song_finding(passage: Passage, measures: Mapping[str, Mapping[str, Any]]) -> str:
    channels = {1: "mono", 2: "stereo"}[passage.tracks[ORIGINAL].shape[1]]
    about = f"{passage.seconds:.1f} s, {channels}, {passage.sample_rate_hz / 1000:g} kHz."
    if not measures:
        return about
    name = min(measures, key=lambda name: measures[name]["bits_per_sample"])
    gain = _mean(measures[name]["prediction_gain_db"])
    if gain is None:
        return about
    return f"{about} {name} predicts it with an error {10 ** (gain / 20):.0f} times smaller."


def _numbers(measures: Mapping[str, Mapping[str, Any]], caption: str) -> str:
    """Return a table of forecasters; the best gain and the fewest bits stand out."""
    gains = {name: _mean(m["prediction_gain_db"]) for name, m in measures.items()}
    bits = {name: m["bits_per_sample"] for name, m in measures.items()}
    most = max((gain for gain in gains.values() if gain is not None), default=None)
    least = min(bits.values(), default=None)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        f"{_cell(gains[name], 2, gains[name] == most)}{_cell(bits[name], 4, bits[name] == least)}"
        f"<td>{_worst(m['lag_samples'])}</td></tr>"
        for name, m in measures.items()
    )
    return (
        f"<table><caption>{html.escape(caption)}</caption><thead><tr>"
        '<th scope="col">forecaster</th><th scope="col">prediction gain, dB</th>'
        '<th scope="col">bits per sample</th><th scope="col">lag, samples</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _cell(value: float | None, digits: int, best: bool) -> str:
    text = MISSING if value is None else f"{value:.{digits}f}".replace("-", "−")
    return f'<td class="best">{text}</td>' if best and value is not None else f"<td>{text}</td>"


def _mean(value: float | Sequence[float | None] | None) -> float | None:
    """Return the mean over the channels that are not silent, None where all are."""
    values = value if isinstance(value, list | tuple) else [value]
    known = [v for v in values if isinstance(v, int | float)]
    return math.fsum(known) / len(known) if known else None


def _worst(lags: int | Sequence[int]) -> int:
    return lags if isinstance(lags, int) else max(lags, key=abs, default=0)


def _figure(words: str, picture: Path) -> str:
    data = base64.b64encode(picture.read_bytes()).decode()
    return (
        f'<figure class="plot"><img loading="lazy" alt="{html.escape(words)}" '
        f'src="data:image/png;base64,{data}"></figure>'
    )


def _pairs(values: Mapping[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(key)}</th>'
        f'<td class="text"><code>{html.escape(value)}</code></td></tr>'
        for key, value in values.items()
    )
    return f'<div class="wide"><table><tbody>{rows}</tbody></table></div>'


def _settings(params: Mapping[str, Mapping[str, str]]) -> str:
    """Return a table of all settings, a column for each stage."""
    keys: Iterable[str] = dict.fromkeys(key for settings in params.values() for key in settings)
    head = "".join(f'<th scope="col">{html.escape(stage)}</th>' for stage in params)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(key)}</th>'
        + "".join(f"<td>{html.escape(s.get(key, MISSING))}</td>" for s in params.values())
        + "</tr>"
        for key in keys
    )
    return (
        f'<div class="wide"><table><thead><tr><th scope="col">setting</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _data(song: Mapping[str, Any]) -> str:
    # Within a script element only "<" could end it.
    text = json.dumps(song, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="data-{_id(song["slug"])}">{text}</script>'


def _id(slug: str) -> str:
    """Return the song's id in the page; a slug is never markup, see slugs.py."""
    return f"song-{slug}"


def _read(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
