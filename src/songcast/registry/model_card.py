"""The model card of a version: accuracy, training data, limits, usage, lineage.

Format after Mitchell et al., "Model Cards for Model Reporting", 2019. Text from plain values.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from songcast.report.console import number
from songcast.report.results import bits_per_sample, markdown_table, mean_gain_db

BASELINES = ("persistence", "ridge", "cascade")
TITLE = "Learns songs from their raw amplitude and predicts what comes next."
LIMITS = """\
- It processes samples of 16 bits in one or two channels, at any sample rate. It was trained at
  {rate}.
- The filter bank adapts to every song. The network is frozen and was trained on {count} songs. On
  music unlike them it improves little on the filter bank, and by design loses little.
- The numbers above hold for these songs, some of them decoded from mp3 and ogg. Your songs have
  other numbers: `songcast score song.flac` measures them.
- A continuation imitates the texture of the song. It is not a composition, and it may resemble
  its source: the licence of the song applies to it.
"""
CALL = """\
```sh
songcast predict song.flac -o predicted.wav --model {uri}
songcast pull {uri} my_model           # the files, verified
```

```python
import songcast

model = songcast.load("{uri}")
forecast = model.forecast(songcast.read_song("song.flac"))
forecast.prediction_gain_db, forecast.bits_per_sample
```
"""


def model_card(
    uri: str,
    kind: str,
    evaluation: Mapping[str, Any],
    songs: Sequence[Mapping[str, Any]],
    tags: Mapping[str, str],
    sample_rate_hz: int | None,
) -> str:
    """Return the card as markdown.

    ``evaluation``: the content of metrics/evaluation.json. ``songs``: see ``lineage.songs``.
    ``tags``: those of the version.
    """
    learned = [song for song in songs if song["learned"]]
    rate = f"{sample_rate_hz} Hz" if sample_rate_hz else "the rate of its training songs"
    return "\n".join(
        [
            _result(evaluation["summary"], kind),
            "",
            f"# songcast, {uri}",
            "",
            f"{TITLE} This version is `{kind}`: {_what(kind, tags)}.",
            "",
            "## Accuracy",
            "",
            "On the held-out passage at the end of each song. Gain in dB: more is better. "
            "Bits per sample: fewer is better.",
            "",
            _accuracy(evaluation, kind),
            "",
            "## Training data",
            "",
            *_songs(learned),
            "",
            "## Limits",
            "",
            LIMITS.format(rate=rate, count=len(learned) or "few"),
            "## Usage",
            "",
            CALL.format(uri=uri),
            "## Lineage",
            "",
            *(f"- {key.removeprefix('songcast.')}: {_cell(tags[key])}" for key in sorted(tags)),
            "",
        ]
    )


def _result(summary: Mapping[str, Any], kind: str) -> str:
    """Return the first line, which MLflow's list of versions shows."""
    line = f"{kind}, {number(bits_per_sample(summary[kind]), 3)} bits per sample"
    if "ridge" in summary:
        gain = mean_gain_db(summary[kind]) - mean_gain_db(summary["ridge"])
        line += f", {number(gain, 1)} dB over ridge"
    return f"**{line}**"


def _what(kind: str, tags: Mapping[str, str]) -> str:
    if kind != "retrain":
        return "trained from scratch"
    parent = tags.get("songcast.parent_version")
    return "a warm start" + (f" from version {parent}" if parent else "")


def _accuracy(evaluation: Mapping[str, Any], kind: str) -> str:
    names = [n for n in (*BASELINES, kind) if n in evaluation["summary"]]
    rows = [
        [
            slug,
            *(
                text
                for measures in (entry.get(name, {}) for name in names)
                for text in (
                    number(mean_gain_db(measures), 2),
                    number(bits_per_sample(measures), 4),
                )
            ),
        ]
        for slug, entry in {**evaluation["songs"], "**mean**": evaluation["summary"]}.items()
    ]
    columns = [f"{name}, {unit}" for name in names for unit in ("dB", "bits")]
    return markdown_table(["song", *columns], rows)


def _songs(songs: Sequence[Mapping[str, Any]]) -> list[str]:
    if not songs:
        return ["Not recorded."]
    rows = [
        f"| {_cell(song['source'])} | {song['seconds']} | `{song['sha256'][:12]}` "
        f"| {_cell(song['licence'] or 'not stated in data/SOURCES.md')} |"
        for song in songs
    ]
    return ["| song | seconds | sha256 | licence |", "|---|--:|---|---|", *rows]


def _cell(text: str) -> str:
    """Return text for one cell of a table: on one line, with escaped bars."""
    return " ".join(str(text).split()).replace("|", "\\|")
