"""Puts the numbers of metrics/evaluation.json into README.md, between the marks. `make readme`."""

import re
import sys

from songcast.commands.summary import check_summary, evaluation_rows
from songcast.errors import SongcastError
from songcast.files import root
from songcast.stages.register import EVALUATION, read_evaluation

FIRST, LAST = "<!-- result table -->", "<!-- end of result table -->"
COLUMNS = ("forecaster", "prediction gain, dB", "bits per sample", "lag, samples")


def main() -> int:
    path = root() / EVALUATION
    evaluation = read_evaluation(path)
    rows = evaluation_rows(check_summary(path, evaluation))
    table = markdown(rows, len(evaluation["songs"]))
    readme = root() / "README.md"
    readme.write_text(between_marks(readme.read_text(), table))
    print(table)
    return 0


def markdown(rows: list[list[str]], songs: int) -> str:
    """Return the summary as a table; the best gain and the fewest bits are bold.

    >>> print(markdown([["ridge", "25.00  ", "9.0000 *", "0"]], 8))
    Means over the unseen passages of 8 songs:
    <BLANKLINE>
    | forecaster | prediction gain, dB | bits per sample | lag, samples |
    |---|--:|--:|--:|
    | ridge | 25.00 | **9.0000** | 0 |
    """
    lines = [f"| {' | '.join(COLUMNS)} |", "|---|" + "--:|" * (len(COLUMNS) - 1)]
    lines += [f"| {' | '.join(cell(text) for text in row)} |" for row in rows]
    return "\n".join([f"Means over the unseen passages of {songs} songs:", "", *lines])


def cell(text: str) -> str:
    """Return a table cell: bold where the summary has its star."""
    return f"**{text[:-2]}**" if text.endswith(" *") else text.strip()


def between_marks(text: str, table: str) -> str:
    """Return ``text`` with ``table`` between the marks. Exits where they are missing."""
    if FIRST not in text or LAST not in text:
        sys.exit(f"README.md: the marks {FIRST} and {LAST} are missing: put them back")
    pattern = re.compile(f"{re.escape(FIRST)}.*?{re.escape(LAST)}", re.DOTALL)
    return pattern.sub(lambda _: f"{FIRST}\n{table}\n{LAST}", text)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SongcastError as mistake:
        sys.exit(f"readme_table: {mistake}")
