"""Whether `songcast serve` stays as it was: legitimate requests, hostile ones, a moving champion.

A few clients send songs of five seconds one after the other, so that the server always works at
its capacity. Beside them one client uploads broken files, and the champion moves to and fro.
Told: answers by status, latencies, and how memory goes, by least squares over what follows the
first fifth of the time. Exit code 1: a legitimate request failed, or a hostile one was answered
with an error of the server's. Run after `make run`, on a machine that does nothing else:

    .venv/bin/python benchmarks/soak.py --minutes 20
"""

import argparse
import base64
import itertools
import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from hostile_uploads import short_songs, uploads
from serving import ask, copied_store, moving_champion, private_bytes, served, songs

SONG_SECONDS = 5.0
WATCH_SECONDS = 2.0
# What a broken upload may be answered with: heard after all, or refused in words.
SOUND = {200, 413, 422}


@dataclass
class Seen:
    """What was seen so far. ``memory``: (minutes since the start, MB)."""

    legitimate: list[tuple[int, float]] = field(default_factory=list)
    hostile: Counter[int] = field(default_factory=Counter)
    memory: list[tuple[float, float]] = field(default_factory=list)


def main() -> int:
    arguments = parse_arguments()
    with copied_store(), served(None) as (url, server):
        bodies = list(songs(SONG_SECONDS))
        ask(url, bodies[0])  # the decoder starts with the first song
        with moving_champion(arguments.move_seconds) as moves:
            seen = soak(url, server, bodies, arguments.minutes * 60.0, arguments.clients)
        ended_well = server.is_running() and ask(url, bodies[0]) == 200
    found = {**summary(seen), "champion_moves": len(moves), "answers_at_the_end": ended_well}
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print(table(found))
    failed = found["failed_legitimate_requests"] or set(seen.hostile) - SOUND or not ended_well
    return 1 if failed else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--clients", type=int, default=4, help="legitimate ones (4)")
    parser.add_argument(
        "--move-seconds", type=float, default=30.0, help="between moves of the champion (30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead")
    return parser.parse_args()


def soak(
    url: str, server: psutil.Process, bodies: list[bytes], seconds: float, clients: int
) -> Seen:
    """Ask for so long and return what was seen."""
    seen = Seen()
    start = time.monotonic()
    stop = start + seconds

    def legitimate(number: int) -> None:
        for turn in itertools.count(number):
            if time.monotonic() >= stop:
                return
            before = time.perf_counter()
            status = ask(url, bodies[turn % len(bodies)])
            seen.legitimate.append((status, time.perf_counter() - before))

    def hostile() -> None:
        for body in hostile_bodies():
            if time.monotonic() >= stop:
                return
            seen.hostile[ask(url, body)] += 1

    def watch() -> None:
        while time.monotonic() < stop:
            minutes = (time.monotonic() - start) / 60.0
            seen.memory.append((minutes, private_bytes(server) / 2**20))
            time.sleep(WATCH_SECONDS)

    threads = [threading.Thread(target=legitimate, args=(n,)) for n in range(clients)]
    threads += [threading.Thread(target=hostile), threading.Thread(target=watch)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def hostile_bodies() -> Iterator[bytes]:
    """Yield requests with broken songs of all formats, without end."""
    with tempfile.TemporaryDirectory() as scratch:
        originals = short_songs(Path(scratch))
    for content in uploads(originals, seed=0):
        song = base64.b64encode(content).decode()
        yield json.dumps({"inputs": [song], "params": {"task": "score"}}).encode()


def summary(seen: Seen) -> dict[str, Any]:
    """Return the numbers; ``memory_slope``: MB per minute, with its standard error."""
    latencies = [seconds for status, seconds in seen.legitimate if status == 200]
    minutes, megabytes = np.array(seen.memory).T
    settled = minutes >= minutes[-1] / 5.0
    (slope, _), spread = np.polyfit(minutes[settled], megabytes[settled], 1, cov=True)
    return {
        "minutes": float(minutes[-1]),
        "legitimate_requests": len(seen.legitimate),
        "failed_legitimate_requests": len(seen.legitimate) - len(latencies),
        "songs_per_second": len(latencies) / float(minutes[-1]) / 60.0,
        "p50_seconds": float(np.quantile(latencies, 0.5)),
        "p99_seconds": float(np.quantile(latencies, 0.99)),
        "hostile_uploads": {str(status): n for status, n in sorted(seen.hostile.items())},
        "memory_mb": [float(megabytes[0]), float(megabytes.max()), float(megabytes[-1])],
        "memory_slope_mb_per_minute": float(slope),
        "memory_slope_standard_error": float(np.sqrt(spread[0, 0])),
    }


def table(found: dict[str, Any]) -> str:
    first, highest, last = found["memory_mb"]
    statuses = ", ".join(f"{n} × {status}" for status, n in found["hostile_uploads"].items())
    rows = {
        "minutes": f"{found['minutes']:.1f}",
        "legitimate requests": f"{found['legitimate_requests']}",
        "of these failed": f"{found['failed_legitimate_requests']}",
        "songs of 5 s per second": f"{found['songs_per_second']:.2f}",
        "p50, p99 in seconds": f"{found['p50_seconds']:.2f}, {found['p99_seconds']:.2f}",
        "hostile uploads, by status": statuses,
        "moves of the champion": f"{found['champion_moves']}",
        "memory in MB: first, most, last": f"{first:.0f}, {highest:.0f}, {last:.0f}",
        "memory slope in MB per minute": f"{found['memory_slope_mb_per_minute']:+.2f} "
        f"± {found['memory_slope_standard_error']:.2f}",
        "answers at the end": "yes" if found["answers_at_the_end"] else "no",
    }
    return "\n".join(["| soak | |", "|---|---|", *(f"| {k} | {v} |" for k, v in rows.items())])


if __name__ == "__main__":
    sys.exit(main())
