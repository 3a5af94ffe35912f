"""The structure of the repository: imports, locked dependencies, the pipeline."""

import ast
import configparser
import functools
import graphlib
import importlib.metadata
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import songcast
from songcast.config import Params
from songcast.data.code_digest import import_closure

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "songcast"
MODULES = sorted(PACKAGE.rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
# The modules that may import a library, by path in the package.
IMPORTERS = {
    "pydub": r"audio/\w+\.py",
    "av": r"audio/\w+\.py",
    "soundfile": r"audio/\w+\.py",
    "imageio_ffmpeg": r"audio/\w+\.py",
    "soxr": r"audio/\w+\.py",
    "mlflow": r"(tracking|registry|serving)/\w+\.py",
    "ray": r"distributed/\w+\.py",
    "pickle": r"(?!)",
    "cloudpickle": r"(?!)",
    "joblib": r"(?!)",
    "dill": r"(?!)",
}


MOST_LINES = 20_449
# A stage is a module, however short.
SHORT = {"stages/evaluate_baselines.py", "stages/train.py"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@functools.cache
def imports(path: Path, only_types: bool = True) -> frozenset[str]:
    """Full names of all modules that a file imports, at its head or inside a function.

    ``only_types``: include imports under ``if TYPE_CHECKING``.
    """
    names: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif only_types or not (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ):
            todo += ast.iter_child_nodes(node)
    return frozenset(names)


def test_the_package_has_few_entries_and_no_tiny_modules() -> None:
    entries = {name_of(path).partition("/")[0] for path in MODULES}
    assert len(entries) <= 20
    lines = {name_of(path): path.read_text().count("\n") for path in MODULES}
    tiny = {name for name, n in lines.items() if n < 40 and not name.endswith("__init__.py")}
    assert tiny <= SHORT, "merge it into the module that uses it"
    assert sum(lines.values()) <= MOST_LINES


def test_only_its_adapters_import_a_library() -> None:
    for library, pattern in IMPORTERS.items():
        users = {name_of(p) for p in MODULES for m in imports(p) if m.split(".")[0] == library}
        assert {user for user in users if not re.fullmatch(pattern, user)} == set(), library


def layers() -> dict[str, int]:
    """Rank of each module or package in the table of docs/architecture.md, lowest = 0."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.split("\n## Layers")[1].split("\n## ")[0]
    cells = re.findall(r"^\| \d+ \| `([\w./]+)` \|", table, re.MULTILINE)
    names = [cell.removesuffix(".py").rstrip("/") for cell in reversed(cells)]
    assert len(set(names)) == len(names), "a module appears twice"
    return {name: rank for rank, name in enumerate(names)}


def test_imports_point_downwards_in_the_table_of_docs_architecture() -> None:
    ranks = layers()
    entries = {name_of(path).split("/")[0].removesuffix(".py") for path in MODULES}
    assert set(ranks) == entries - {"__init__"}
    upwards = [
        f"{module} -> {other}"
        for module, others in import_graph().items()
        for other in others
        if module and ranks[other.split(".")[0]] > ranks[module.split(".")[0]]
    ]
    assert upwards == []


def test_no_imports_form_a_cycle() -> None:
    graph = import_graph(only_types=False)
    tuple(graphlib.TopologicalSorter(graph).static_order())  # CycleError names one


def import_graph(only_types: bool = True) -> dict[str, set[str]]:
    """By module of songcast, the modules it imports; names within songcast, "" for itself."""
    modules = {module_of(path): path for path in MODULES}
    graph = {}
    for module, path in modules.items():
        names = {name.removeprefix("songcast.") for name in imports(path, only_types)}
        # `from songcast.data import corpus` in a module of songcast.data does not use the package.
        package = module.rpartition(".")[0]
        graph[module] = names & set(modules) - {module, package}
    return graph


def module_of(path: Path) -> str:
    """Dotted name within songcast; a package has the name of its folder."""
    return (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        .removesuffix("__init__")
        .rstrip(".")
    )


def test_every_imported_library_is_a_direct_dependency() -> None:
    homes = importlib.metadata.packages_distributions()
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    text = " ".join(lines).lower().replace("_", "-")
    declared = set(re.findall(r"(?:^| )([a-z0-9-]+)(?=[>=<;[])", text))
    used = {m.split(".")[0] for p in MODULES for m in imports(p)} & set(homes)
    for module in sorted(used - {"songcast"}):
        names = {home.lower().replace("_", "-") for home in homes[module]}
        assert names & declared, f"{module}: add one of {sorted(names)} to pyproject.toml"


def pins(lock: str) -> dict[str, str]:
    """Each locked package in lower case, with its version, condition and hashes."""
    entries = re.split(r"^(?=[\w.-]+==)", (ROOT / lock).read_text(), flags=re.MULTILINE)
    return {entry.lower().split("==", 1)[0]: entry for entry in entries if "==" in entry}


# The lock of each group of dependencies; the others add to the first.
LOCKS = {
    "requirements.lock": None,
    "requirements-test.lock": "test",
    "requirements-docs.lock": "docs",
    "requirements-cluster.lock": "cluster",
}


def test_every_dependency_is_locked_with_hashes() -> None:
    project = PYPROJECT["project"]
    for lock, group in LOCKS.items():
        needed = project["optional-dependencies"][group] if group else project["dependencies"]
        names = {re.match(r"[\w.-]+", line)[0].lower() for line in needed}  # type: ignore[index]
        assert names - {*pins(lock), *pins("requirements.lock")} == set(), "run `make lock`"
        assert [entry for entry in pins(lock).values() if "--hash=sha256:" not in entry] == []


def test_no_lock_has_a_package_in_another_version() -> None:
    entries: dict[str, str] = {}
    for lock in LOCKS:
        for name, entry in pins(lock).items():
            assert entries.setdefault(name, entry).split()[0] == entry.split()[0], name
    assert pins("requirements.lock").keys() & pins("requirements-test.lock").keys() == set()


def test_locks_name_no_host_and_no_local_file() -> None:
    for lock in LOCKS:
        text = (ROOT / lock).read_text()
        assert (
            re.findall(r"^.*(?:://|--(?:extra-)?index-url|--find-links| @ ).*$", text, re.M) == []
        )


def test_versions_agree() -> None:
    assert PYPROJECT["project"]["version"] == songcast.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(
        rf"^## \[{re.escape(songcast.__version__)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.M
    )


def test_the_dvc_remote_is_in_the_repository_and_dvc_sends_no_analytics() -> None:
    config = configparser.ConfigParser()
    config.read_string(re.sub(r"(?m)^\s+", "", (ROOT / ".dvc" / "config").read_text()))
    core = config["core"]
    assert (core["analytics"], core["check_update"]) == ("false", "false")
    url = config[f"'remote \"{core['remote']}\"'"]["url"]
    assert (ROOT / ".dvc" / url).resolve().is_relative_to(ROOT)


def test_a_zip_download_is_told_what_to_do_before_anything_is_installed(tmp_path: Path) -> None:
    for path in (ROOT / "Makefile", ROOT / "pyproject.toml", *ROOT.glob("*.lock")):
        shutil.copy(path, tmp_path)
    for target in ("run", "demo", "test"):
        command = ["make", "-C", str(tmp_path), target]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "has no git history (a ZIP download?)" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_no_output_of_the_pipeline_is_in_git() -> None:
    ignored = (ROOT / ".gitignore").read_text() + (ROOT / "models" / ".gitignore").read_text()
    outs = ("/data", "/prepared", "/evaluated", "/listening", "/registered.json")
    for entry in (*outs, "/train", "/retrain"):
        assert entry in ignored.split(), entry


# Modules of songcast that cannot change the output of a stage.
NEUTRAL = (
    "songcast",  # the public interface
    "songcast.config",  # its values come from params.yaml, which DVC tracks by key
    "songcast.data.code_digest",  # decides what is computed again, not how
    "songcast.distributed.cluster",  # where work runs; results are the same, see test_cluster.py
    "songcast.distributed.engine",
    "songcast.errors",
    "songcast.files",  # writes the content that it gets
    "songcast.report.console",  # lines and progress bars on a terminal
    "songcast.tracking",  # logs to MLflow
)
# The registry finds the parent of retrain; metrics/retrain.json records which one that was.
NEUTRAL_FOR = {"retrain": ("songcast.registry",)}


def code_of(stage: str) -> dict[str, str]:
    """Modules that can change the output of a stage, with their paths in the repository."""
    ignore = (*NEUTRAL, *NEUTRAL_FOR.get(stage, ()))
    closure = import_closure(f"songcast.stages.{stage}", ignore=ignore)
    closure.pop("songcast.stages")  # starts the stage
    return {
        name: path.relative_to(ROOT).as_posix()
        for name, path in closure.items()
        if len(ast.parse(path.read_text()).body) > 1  # more than the docstring of a package
    }


def test_every_stage_depends_on_the_code_that_can_change_its_output_and_on_no_other() -> None:
    for stage, record in PIPELINE["stages"].items():
        code = code_of(stage)
        deps = [dep for dep in record["deps"] if dep.startswith("src/")]
        covered = {dep: {p for p in code.values() if f"{p}/".startswith(f"{dep}/")} for dep in deps}
        missing = set(code.values()) - set().union(*covered.values())
        assert missing == set(), f"add these to the deps of {stage} in dvc.yaml"
        unused = [dep for dep, paths in covered.items() if not paths]
        assert unused == [], f"remove these from the deps of {stage} in dvc.yaml"


def test_a_change_of_code_reruns_the_stages_that_use_it() -> None:
    stages = list(PIPELINE["stages"])
    for path, expected in {
        "serving/app.py": [],
        "commands/score.py": [],
        "tracking/store.py": [],
        "report/page.py": ["report"],
        "registry/gate.py": ["register"],
        "evaluation/spectral.py": ["evaluate_baselines", "evaluate", "report"],
        "continuation/rendering.py": ["continuation", "evaluate_baselines", "evaluate"],
        "training/forecaster.py": ["continuation", "train", "retrain"],
        "forecasting/stacking.py": [
            stage for stage in stages if stage not in ("prepare", "register")
        ],
        "bundle.py": [stage for stage in stages if stage != "prepare"],
        "audio/formats.py": [stage for stage in stages if stage != "register"],
    }.items():
        file = f"src/songcast/{path}"
        assert (ROOT / file).exists(), file
        rerun = [
            stage
            for stage, record in PIPELINE["stages"].items()
            if any(f"{file}/".startswith(f"{dep}/") for dep in record["deps"])
        ]
        assert rerun == expected, path


def test_each_stage_is_a_module_and_its_dependencies_exist() -> None:
    made = {path for stage in PIPELINE["stages"].values() for path in outputs(stage)} | {"data"}
    for name, stage in PIPELINE["stages"].items():
        assert stage["cmd"] == f"python -m songcast.stages.{name}"
        for dep in stage["deps"]:
            assert dep in made or (ROOT / dep).exists(), f"{name}: {dep} does not exist"


def outputs(stage: dict[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, ()):
            yield entry if isinstance(entry, str) else next(iter(entry))


def test_every_section_of_params_belongs_to_its_stage() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    Params.load(ROOT / "params.yaml")
    read = {name: stage.get("params", []) for name, stage in PIPELINE["stages"].items()}
    # `engine`, `workers` and `cache_gb` do not change results, and a sweep is not a stage.
    sections = set(params) - {"engine", "sweep", "workers", "cache_gb"}
    # It reads the section of evaluate, as both write tracks of the same length.
    assert read.pop("evaluate_baselines") == ["evaluate"]
    assert sections == {name for name, keys in read.items() if keys}
    for name in sections:
        # A stage may also read single keys of other sections.
        assert name in read[name]
        assert {key.split(".")[0] for key in read[name]} <= set(params)
