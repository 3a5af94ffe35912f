"""`songcast compare`: is one version better than another, song by song and beyond chance."""

import argparse
import math
from typing import TYPE_CHECKING, Any

from songcast.commands import Subparsers, add_command
from songcast.commands.promote import version_number

if TYPE_CHECKING:
    from songcast.registry.comparison import Comparison


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    parser = add_command(
        subparsers,
        "compare",
        run,
        "compare two versions song by song",
        "Bits per sample of A minus those of B on the songs' unseen passages, as stored with the "
        "versions; below 0, A is better. The mean has a 95 % confidence interval (bootstrap over "
        "songs): the gate lets A pass only if all of it is below 0.",
        "songcast compare 4 3",
    )
    for name in ("A", "B"):
        parser.add_argument(name.lower(), metavar=name, type=version_number, help="a version")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")


def run(arguments: argparse.Namespace) -> int:
    """Compare the versions."""
    from songcast import registry
    from songcast.commands.forecasting import require_registry
    from songcast.errors import RegistryError
    from songcast.registry.comparison import compare
    from songcast.report import console

    require_registry()
    a, b = registry.version(arguments.a), registry.version(arguments.b)
    found = compare(a.evaluation, b.evaluation)
    if math.isnan(found.mean):
        raise RegistryError(
            f"versions {a.number} and {b.number} have no measured song in common: "
            "nothing can be compared"
        )
    if arguments.json:
        console.print_json({"a": a.number, "b": b.number, **as_json(found)})
        return 0
    rows = [[slug, f"{difference:+.4f}"] for slug, difference in found.songs.items()]
    console.print_table(["song", f"bits/sample, {a.number} minus {b.number}"], rows)
    print(f"mean {found.mean:+.4f}, 95 % interval {found.low:+.4f} to {found.high:+.4f}")
    print(verdict(found, a.number, b.number))
    return 0


def as_json(found: "Comparison") -> dict[str, Any]:
    """Return the comparison for the JSON document."""
    return {
        "mean_bits": found.mean,
        "low_bits": found.low,
        "high_bits": found.high,
        "songs": dict(found.songs),
    }


def verdict(found: "Comparison", a: int, b: int) -> str:
    """Say who is better, if anyone is."""
    if found.high < 0:
        return f"version {a} is better"
    return f"version {b} is better" if found.low > 0 else "neither is better beyond chance"
