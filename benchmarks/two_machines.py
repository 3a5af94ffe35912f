"""Bytes that pass the network while two machines train together.

    sudo .venv/bin/python benchmarks/two_machines.py

The machines are two network namespaces of this one, joined by a virtual cable, so it needs Linux
and root. Each has a node of Ray with one core, a home and a cache; the second one does not see the
feature cache of the repository. Trains on the songs in data/ with the settings of params.yaml and
writes docs/two_machines.json, which `benchmarks/scale.py --only` puts on the page.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "two_machines.json"
START_SECONDS, BATCHES = 300, 50


@dataclass(frozen=True)
class Machine:
    """A network namespace with a network card, and the home of its user."""

    name: str
    address: str
    home: Path

    def start(self, *command: str | Path, **options: Any) -> subprocess.Popen[str]:
        """Start a program on this machine."""
        own = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home / "cache")}
        ray = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
        left_out = ("DVC_ROOT", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
        inherited = {k: v for k, v in os.environ.items() if k not in left_out}
        environment = {**inherited, **own, **ray, **options.pop("env", {})}
        arguments = ("ip", "netns", "exec", self.name, *map(str, command))
        return subprocess.Popen(arguments, env=environment, text=True, **options)

    def bytes_on_the_wire(self) -> int:
        """Return the bytes that its card has sent and received."""
        counts = [f"/sys/class/net/card/statistics/{way}_bytes" for way in ("tx", "rx")]
        return sum(map(int, ip("netns", "exec", self.name, "cat", *counts).split()))

    def features(self) -> dict[str, int]:
        """Return the names of the features in its cache, and their bytes."""
        return sizes(self.home / "cache" / "songcast" / "features")


def sizes(folder: Path) -> dict[str, int]:
    """Return the names of the features in a folder, and their bytes."""
    return {
        done.parent.name: sum(path.stat().st_size for path in done.parent.iterdir())
        for done in folder.glob("*/done")
    }


def ip(*arguments: str) -> str:
    """Run the program `ip`. Raises ``OSError`` or ``CalledProcessError``."""
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


@contextmanager
def two_machines(folder: Path, hidden: Path) -> Iterator[tuple[Machine, Machine]]:
    """Yield two machines with homes in ``folder`` and a Ray cluster, the head on the first one.

    The second one sees another, empty folder in place of ``hidden``. Raises ``OSError`` or
    ``CalledProcessError`` where network namespaces are not available.
    """
    unique = f"songcast-{secrets.token_hex(3)}"
    machines = [Machine(f"{unique}-{n}", f"10.213.0.{n}", folder / f"machine-{n}") for n in (1, 2)]
    names = [machine.name for machine in machines]
    ray = Path(sys.executable).with_name("ray")
    # The path of a socket has at most 107 characters.
    sockets = tempfile.mkdtemp(dir="/tmp")
    started: list[subprocess.Popen[str]] = []
    with ExitStack() as stack:
        stack.callback(lambda: [process.wait() for process in started])
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        for name in names:
            ip("netns", "add", name)
            stack.callback(remove, name)
        card = ["card", "netns", names[0]]
        ip("link", "add", *card, "type", "veth", "peer", "name", "card", "netns", names[1])
        for machine in machines:
            ip("-n", machine.name, "addr", "add", f"{machine.address}/24", "dev", "card")
            for device in ("lo", "card"):
                ip("-n", machine.name, "link", "set", device, "up")
        head = f"{machines[0].address}:6379"
        hide = 'mount -t tmpfs tmpfs "$0" && exec "$@"'
        for machine, arguments in zip(
            machines,
            (
                (ray, "start", "--head", "--port=6379", f"--temp-dir={sockets}"),
                ("sh", "-c", hide, hidden, ray, "start", f"--address={head}"),
            ),
            strict=True,
        ):
            machine.home.mkdir(parents=True)
            options = (f"--node-ip-address={machine.address}", "--num-cpus=1", "--block")
            log = machine.home / "ray.log"
            with log.open("w") as output:
                started.append(machine.start(*arguments, *options, stdout=output, stderr=output))
            end = time.monotonic() + START_SECONDS
            while "terminate" not in log.read_text():
                if time.monotonic() > end:
                    raise OSError(log.read_text())
                time.sleep(0.2)
        first, second = machines
        yield first, second


def remove(name: str) -> None:
    """End the programs in a network namespace, and remove it."""
    for signal_number in (15, 9):
        for pid in ip("netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal_number)
        time.sleep(2)
    ip("netns", "del", name)


def train(machine: Machine, home: Path) -> list[int]:
    """Run the stage train in ``home``; return the bytes on the wire before it and after each epoch.

    The last value is that at the end. Raises ``CalledProcessError``.
    """
    counts, lines = [machine.bytes_on_the_wire()], []
    environment = {"RAY_ADDRESS": f"{machine.address}:6379"}
    command = [sys.executable, "-m", "songcast.stages.train"]
    with machine.start(*command, cwd=home, env=environment, stderr=subprocess.PIPE) as process:
        for line in process.stderr or ():
            lines.append(line)
            if "epoch" in line:
                counts.append(machine.bytes_on_the_wire())
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, stderr="".join(lines))
    return [*counts, machine.bytes_on_the_wire()]


def read_per_step(home: Path) -> int:
    """Return the bytes of features that one batch is made of, the mean of some batches."""
    from songcast.config import Params
    from songcast.data.corpus import Corpus
    from songcast.training.feature_cache import SongFeatures, compute_features
    from songcast.training.setup import new_model, open_crops, songs_to_train_on

    params = Params.load(home / "params.yaml").train
    songs = songs_to_train_on(Corpus.open(home / "prepared"), params)
    sampler = open_crops(songs, new_model(params, songs), params, home / "features")
    compute_features(sampler.songs)
    count, read = 0, SongFeatures.read

    def counted(*arguments: Any) -> Any:
        nonlocal count
        rows = read(*arguments)
        count += rows.nbytes
        return rows

    SongFeatures.read = counted  # type: ignore[assignment, method-assign]
    for index in range(BATCHES):
        sampler.batch(0, index)
    return count // BATCHES


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch) / "repository"
        (home / "features").mkdir(parents=True)
        shutil.copytree(ROOT / "data", home / "data")
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        (home / "params.yaml").write_text(yaml.safe_dump(params))
        subprocess.run([sys.executable, "-m", "songcast.stages.prepare"], cwd=home, check=True)
        shared = {**params, "engine": "ray", "workers": 2}
        (home / "params.yaml").write_text(yaml.safe_dump(shared))
        with two_machines(Path(scratch), home / "features") as (first, second):
            counts = train(first, home)
            own, other = sizes(home / "features"), second.features()
        epochs = [b - a for a, b in pairwise(counts[1:-1])]
        steps, run = params["train"]["steps_per_epoch"], counts[-1] - counts[0]
        results = {
            "songs": len({name.rpartition("-")[0] for name in own | other}),
            "on_both": sorted({name.rpartition("-")[0] for name in own.keys() & other.keys()}),
            "features_mb": [round(sum(part.values()) / 1e6, 1) for part in (own, other)],
            "batch_size": params["train"]["batch_size"],
            "steps": steps * params["train"]["epochs"],
            "read_mb_per_step": round(read_per_step(home) / 1e6, 3),
            "wire_mb_per_step": round(sum(epochs) / len(epochs) / steps / 1e6, 3),
            "wire_mb_per_run": round(run / 1e6, 1),
        }
    TARGET.write_text(json.dumps(results, indent=2) + "\n")
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
