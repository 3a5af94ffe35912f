"""Work on a Ray cluster (``engine: ray``). The only module that imports ray.

``RAY_ADDRESS`` names the cluster; without it Ray starts on this machine. Every node needs
songcast, and the repository's folder at the same path (a shared file system).
"""

import logging
import os
import shutil
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from songcast.errors import CorpusError, ParamsError, SongcastError

if TYPE_CHECKING:
    from songcast.config import Range

Item = TypeVar("Item")
Result = TypeVar("Result")

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers import TensorFlow, which takes some seconds, before they report.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",
}


def import_ray() -> Any:
    """Import Ray with its switches set. Raises ``ParamsError`` if it is not installed."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's own modules warn while they load
            import ray
            import ray.data
    except ImportError as error:
        raise ParamsError(
            "params.yaml: engine is 'ray', and Ray is not installed: "
            "`pip install 'songcast[cluster]'`, or set engine: local"
        ) from error
    return ray


@contextmanager
def connected() -> Iterator[Any]:
    """Yield Ray, connected to the cluster; if Ray starts for the block, it ends with it."""
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    _check(address)
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except ConnectionError as error:
        raise ParamsError(
            f"RAY_ADDRESS is {address!r}: the cluster refuses the connection ({_one_line(error)}); "
            "give this machine its token (RAY_AUTH_MODE, ~/.ray/auth_token)"
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check(address: str) -> None:
    """Raise ``ParamsError`` if nothing listens there; Ray itself would try for ten minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ParamsError(
            f"RAY_ADDRESS is {address!r}: no Ray cluster answers there ({error.strerror}); "
            "correct it, or set engine: local in params.yaml"
        ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def each(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """Yield ``work(item)`` of every item, in the order of completion; one Ray Data task each.

    Ray runs as many tasks at a time as the cluster has cores, and repeats the tasks of a lost
    worker. A ``SongcastError`` of ``work`` is raised here.
    """
    if not items:
        return
    with connected() as ray:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False

        def call(row: dict[str, Any]) -> dict[str, Any]:
            try:
                return {"result": work(items[row["id"]])}
            except SongcastError as error:
                return {"result": error}

        rows = ray.data.range(len(items), override_num_blocks=len(items))
        for row in rows.map(call).iter_rows():
            if isinstance(row["result"], SongcastError):
                raise row["result"]
            yield row["result"]


def train(
    work: Callable[[int, bool, Callable[[Any], None]], None],
    *,
    workers: int,
    folder: Path,
    on_report: Callable[[Any], None],
) -> None:
    """Run ``work(rank, here, report)`` in ``workers`` processes at once, of ranks 0, 1, ...

    ``here`` is true on the node of the caller. Each has ``TF_CONFIG``, a share of the cluster's
    cores, and a GPU if there are enough. Their reports are passed to ``on_report`` here. If one
    dies, all are restarted, at most three times; ``work`` keeps its own checkpoints. ``folder``:
    scratch space that every node sees. Raises ``CorpusError`` if they die too often,
    ``ParamsError`` if the cluster is too small.
    """
    with connected() as ray:
        from ray import get_runtime_context
        from ray.train import (
            FailureConfig,
            RunConfig,
            ScalingConfig,
            TrainingFailedError,
            get_context,
        )
        from ray.train.tensorflow import TensorflowTrainer
        from ray.util.queue import Queue

        resources = worker_resources(
            [node["Resources"] for node in ray.nodes() if node["Alive"]], workers
        )
        reported = Queue(actor_options={"num_cpus": 0})
        node = get_runtime_context().get_node_id()

        def loop() -> None:
            here = get_runtime_context().get_node_id() == node
            work(get_context().get_world_rank(), here, reported.put)

        def receive() -> None:
            for report in iter(reported.get, None):
                on_report(report)

        # With the state of an earlier run, Ray would consider this one finished.
        shutil.rmtree(folder, ignore_errors=True)
        trainer = TensorflowTrainer(
            loop,
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu="GPU" in resources, resources_per_worker=resources
            ),
            run_config=RunConfig(
                name=folder.name,
                storage_path=str(folder.parent),
                failure_config=FailureConfig(max_failures=3),
            ),
        )
        with ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(receive)
            try:
                trainer.fit()
            except TrainingFailedError as error:
                raise CorpusError(
                    f"workers kept failing ({_one_line(error)}); run again to resume from the "
                    "last epoch"
                ) from error
            finally:
                reported.put(None)
            receiving.result()


def worker_resources(nodes: Sequence[Mapping[str, float]], workers: int) -> dict[str, int]:
    """Return the resources of ``nodes`` for each of ``workers``: a GPU if possible, and cores.

    >>> worker_resources([{"CPU": 4}, {"CPU": 12}], 3)
    {'CPU': 4}
    >>> worker_resources([{"CPU": 16, "GPU": 2}, {"CPU": 64}], 2)
    {'CPU': 8, 'GPU': 1}
    """
    most = int(max(node.get("CPU", 0) for node in nodes))
    for given in ({"GPU": 1}, {}):
        for cores in range(most, 0, -1):
            needed = {"CPU": cores, **given}
            room = (min(int(node.get(k, 0)) // n for k, n in needed.items()) for node in nodes)
            if sum(room) >= workers:
                return needed
    raise ParamsError(
        f"params.yaml: workers is {workers}, more than the Ray cluster has cores; lower it, or "
        "add machines"
    )


def tune(
    trial: Callable[[dict[str, Any], Callable[[dict[str, float]], None]], None],
    space: Mapping[str, "tuple[Any, ...] | Range"],
    *,
    trials: int,
    epochs: int,
    grace_epochs: int,
    seed: int,
    folder: Path,
) -> list[tuple[str, dict[str, Any], Path]]:
    """Run ``trial(values, report)`` for ``trials`` draws from ``space``; one core each.

    ``report`` takes a row of metrics per epoch; by its validation_bits_per_sample, worse trials
    are stopped early (ASHA; Li et al., 2018), but not before ``grace_epochs``. The state is in
    ``folder``: an interrupted sweep resumes and does not repeat its finished trials. Returns
    the name, the values, and the folder of each trial; a failed one has an ``error.txt``.
    """
    with connected():
        from ray import tune

        def trainable(config: dict[str, Any]) -> None:
            trial(config, tune.report)

        if tune.Tuner.can_restore(str(folder)):
            tuner = tune.Tuner.restore(
                str(folder), trainable, resume_unfinished=True, restart_errored=True
            )
        else:
            drawn = {
                key: tune.choice(given)
                if isinstance(given, tuple)
                else tune.loguniform(given.low, given.high)
                for key, given in space.items()
            }
            scheduler = tune.schedulers.ASHAScheduler(max_t=epochs, grace_period=grace_epochs)
            tuner = tune.Tuner(
                trainable,
                param_space=drawn,
                tune_config=tune.TuneConfig(
                    metric="validation_bits_per_sample",
                    mode="min",
                    num_samples=trials,
                    scheduler=scheduler,
                    search_alg=tune.search.BasicVariantGenerator(random_state=seed),
                ),
                run_config=tune.RunConfig(
                    name=folder.name,
                    storage_path=str(folder.parent),
                    failure_config=tune.FailureConfig(max_failures=2),
                    verbose=0,
                ),
            )
        results = tuner.fit()
        return [(Path(r.path).name, dict(r.config), Path(r.path)) for r in results]
