"""The model card of a version: accuracy, training data, limits, usage, lineage.

Format after Mitchell et al., "Model Cards for Model Reporting", 2019. Text from plain values.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from songcast.tracking.descriptions import accuracy, headline

TITLE = "Learns songs from their raw amplitude and predicts what comes next."
CARD = """\
{result}

# songcast, {uri}

{title} This version is `{kind}`: {what}.

## Accuracy

{accuracy}

## Training data

{songs}

## Limits

- It processes samples of 16 bits in one or two channels, at any sample rate. It was trained at
  {rate}.
- The filter bank adapts to every song. The network is frozen and was trained on {count} songs. On
  music unlike them it improves little on the filter bank, and by design loses little.
- The numbers above hold for these songs, some of them decoded from mp3 and ogg. Your songs have
  other numbers: `songcast score song.flac` measures them.
- A continuation imitates the texture of the song. It is not a composition, and it may resemble
  its source: the licence of the song applies to it.

## Usage

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

## Lineage

{lineage}
"""


def model_card(
    uri: str,
    kind: str,
    evaluation: Mapping[str, Any],
    lineage: Mapping[str, Any],
    sample_rate_hz: int | None,
) -> str:
    """Return the card as markdown.

    ``evaluation``: the content of metrics/evaluation.json. ``lineage``: see ``Version.lineage``.
    """
    learned = [song for song in lineage.get("songs", ()) if song["learned"]]
    rate = f"{sample_rate_hz} Hz" if sample_rate_hz else "the rate of its training songs"
    facts = {key: value for key, value in lineage.items() if not isinstance(value, dict | list)}
    return CARD.format(
        result=headline(evaluation["summary"], kind),
        uri=uri,
        kind=kind,
        title=TITLE,
        what=_what(kind, lineage),
        accuracy=accuracy(evaluation, kind),
        songs=_songs(learned),
        rate=rate,
        count=len(learned) or "few",
        lineage="\n".join(f"- {key}: {_cell(facts[key])}" for key in sorted(facts)),
    )


def _what(kind: str, lineage: Mapping[str, Any]) -> str:
    if kind != "retrain":
        return "trained from scratch"
    parent = lineage.get("parent_version")
    return "a warm start" + (f" from version {parent}" if parent else "")


def _songs(songs: Sequence[Mapping[str, Any]]) -> str:
    if not songs:
        return "Not recorded."
    rows = [
        f"| {_cell(song['source'])} | {song['seconds']} | `{song['sha256'][:12]}` "
        f"| {_cell(song['licence'] or 'not stated in data/SOURCES.md')} |"
        for song in songs
    ]
    return "\n".join(["| song | seconds | sha256 | licence |", "|---|--:|---|---|", *rows])


def _cell(text: object) -> str:
    """Return text for one cell of a table: on one line, with escaped bars."""
    return " ".join(str(text).split()).replace("|", "\\|")
