"""`songcast sync`: tell MLflow what it could not be told."""

import argparse

from songcast.commands import Subparsers, add_command


def add(subparsers: Subparsers) -> None:
    """Add the command."""
    add_command(
        subparsers,
        "sync",
        run,
        "deliver to MLflow what was logged while its server was away",
        "A stage that meets a dead server goes on, and keeps its metrics in mlruns/undelivered; "
        "`make run` delivers them too, when it comes to reporting or registering.",
        "songcast sync",
    )


def run(_: argparse.Namespace) -> int:
    """Deliver what waits."""
    from songcast import tracking

    delivered = tracking.deliver_kept()
    print("\n".join(delivered) or "nothing waits to be delivered")
    return 0
