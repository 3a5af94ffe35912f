"""Puts what becomes of each hostile song at each entry into docs/reliability.md.

The outcomes are those that the catalogue declares and test_entries.py holds every entry to.
"""

import re
from pathlib import Path

from hostile_songs import groups
from outcomes import ENTRIES

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
FIRST, LAST = "<!-- hostile songs -->", "<!-- end of hostile songs -->"


def table() -> str:
    """One row for each group. Raises ``ValueError`` where its songs do not fare alike."""
    lines = [f"| songs | how many | {' | '.join(ENTRIES)} |", "|---|--:|" + "---|" * len(ENTRIES)]
    total = 0
    for title, songs in groups().items():
        fates = {tuple(song.outcome(entry) for entry in ENTRIES) for song in songs}
        if len(fates) != 1:
            raise ValueError(f"{title}: fares differently: {fates}; make two groups of it")
        lines.append(f"| {title} | {len(songs)} | {' | '.join(*fates)} |")
        total += len(songs)
    return "\n".join([*lines, f"| all | {total} |" + " |" * len(ENTRIES)])


def with_table(page: str) -> str:
    """Return the page with the table between its marks. Raises ``ValueError`` without marks."""
    if page.count(FIRST) != 1 or page.count(LAST) != 1:
        raise ValueError(f"{PAGE}: needs the marks {FIRST} and {LAST} once each")
    pattern = re.compile(f"{re.escape(FIRST)}.*?{re.escape(LAST)}", re.DOTALL)
    return pattern.sub(lambda _: f"{FIRST}\n{table()}\n{LAST}", page)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text()))
    print(table())
