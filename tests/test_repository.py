"""The house stays in order: who imports whom, and that the papers agree with the code."""

import ast
import configparser
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import songcast
from songcast.cli import build_parser
from songcast.params import Params

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "songcast"
MODULES = sorted(PACKAGE.rglob("*.py"))
DOCUMENTS = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/README.md"]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
# Who alone may import what, by path in the package.
IMPORTERS = {
    "pydub": r"codec\.py",
    "soundfile": r"codec\.py",
    "imageio_ffmpeg": r"codec\.py",
    "mlflow": r"(tracking|registry|serving)/\w+\.py",
    "ray": r"cluster\.py",
    "pickle": r"(?!)",
    "cloudpickle": r"(?!)",
    "joblib": r"(?!)",
    "dill": r"(?!)",
}
# What the modules of forecasters must not know: everything that knows them.
ABOVE_FORECASTERS = re.compile(
    r"songcast\.(stages|commands|cli|tracking\w*|registry\w*|promotion|serving|stage_log|models|evaluation"
    r"|training|gate|artifact_store)\b"
)


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Full names of all modules that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("library", IMPORTERS)
def test_only_its_adapter_imports_a_library(library: str) -> None:
    allowed = re.compile(IMPORTERS[library])
    users = {name_of(p) for p in MODULES for m in imports(p) if m.split(".")[0] == library}
    assert {user for user in users if not allowed.fullmatch(user)} == set()


def test_forecasters_know_nothing_of_what_uses_them() -> None:
    for path in sorted((PACKAGE / "forecasters").glob("*.py")):
        assert [m for m in imports(path) if ABOVE_FORECASTERS.match(m)] == [], path.name


def test_errors_know_nobody() -> None:
    assert [m for m in imports(PACKAGE / "errors.py") if m.startswith("songcast")] == []


def test_stages_and_commands_are_imported_by_no_lower_module() -> None:
    upper = ("stages/", "commands/", "cli.py", "__main__.py")
    for path in MODULES:
        if not name_of(path).startswith(upper):
            above = [m for m in imports(path) if re.match(r"songcast\.(stages|commands|cli)\b", m)]
            assert above == [], name_of(path)


def test_every_library_imported_is_a_dependency() -> None:
    """What is used directly is asked for directly, whatever else brings it along today."""
    homes = importlib.metadata.packages_distributions()
    project = PYPROJECT["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    said = " ".join(lines).lower().replace("_", "-")
    declared = set(re.findall(r"(?:^| )([a-z0-9-]+)(?=[>=<;[])", said))
    used = {m.split(".")[0] for p in MODULES for m in imports(p)} & set(homes)
    for module in sorted(used - {"songcast"}):
        names = {home.lower().replace("_", "-") for home in homes[module]}
        assert names & declared, f"{module}: add one of {sorted(names)} to pyproject.toml"


def test_every_dependency_is_locked_with_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    locked = {m[1].lower() for m in re.finditer(r"^([\w.-]+)==", lock, re.MULTILINE)}
    wanted = [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"]["dev"],
    ]
    names = {re.match(r"[\w.-]+", line)[0].lower() for line in wanted}  # type: ignore[index]
    assert names - locked == set(), "run `make lock`"
    entries = re.split(r"^(?=[\w.-]+==)", lock, flags=re.MULTILINE)[1:]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_lock_names_no_host_and_no_local_file() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert re.findall(r"^.*(?:://|--(?:extra-)?index-url|--find-links| @ ).*$", lock, re.M) == []


def test_versions_agree() -> None:
    assert PYPROJECT["project"]["version"] == songcast.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(songcast.__version__)}\b", changelog, re.MULTILINE)


def test_remote_lies_in_the_repository_and_nothing_calls_home() -> None:
    config = configparser.ConfigParser()
    config.read_string(re.sub(r"(?m)^\s+", "", (ROOT / ".dvc" / "config").read_text()))
    core = config["core"]
    assert (core["analytics"], core["check_update"]) == ("false", "false")
    url = config[f"'remote \"{core['remote']}\"'"]["url"]
    assert (ROOT / ".dvc" / url).resolve().is_relative_to(ROOT)


def test_no_output_of_the_pipeline_is_in_git() -> None:
    ignored = (ROOT / ".gitignore").read_text() + (ROOT / "models" / ".gitignore").read_text()
    for entry in ("/data", "/prepared", "/listening", "/registered.json", "/train", "/retrain"):
        assert entry in ignored.split(), entry


@pytest.mark.parametrize("stage", PIPELINE["stages"])
def test_stage_is_its_module_and_its_files_exist(stage: str) -> None:
    said: dict[str, Any] = PIPELINE["stages"][stage]
    assert said["cmd"] == f"python -m songcast.stages.{stage}"
    assert f"src/songcast/stages/{stage}.py" in said["deps"]
    made = {path for other in PIPELINE["stages"].values() for path in outputs(other)} | {"data"}
    for dep in said["deps"]:
        assert dep in made or (ROOT / dep).is_file(), f"{stage}: {dep} does not exist"


def outputs(stage: dict[str, Any]) -> Iterator[str]:
    for kind in ("outs", "metrics", "plots"):
        for entry in stage.get(kind, ()):
            yield entry if isinstance(entry, str) else next(iter(entry))


def test_every_section_of_params_belongs_to_its_stage() -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    Params.load(ROOT / "params.yaml")
    asked = {
        stage: said["params"] for stage, said in PIPELINE["stages"].items() if "params" in said
    }
    # The engine changes no result, and a sweep is no stage.
    assert set(params) - {"engine", "sweep"} == set(asked)
    for stage, keys in asked.items():
        # A stage reads its own section, and single keys of what comes before it.
        assert stage in keys
        assert all(key.split(".")[0] in params for key in keys)


def code_lines(path: Path) -> list[str]:
    """Lines of the fenced blocks of a page, and what stands between backticks in its text."""
    parts = re.split(r"^```.*$", path.read_text(), flags=re.MULTILINE)
    inline = [word for text in parts[::2] for word in re.findall(r"`([^`\n]+)`", text)]
    return [*inline, *(line for block in parts[1::2] for line in block.splitlines())]


def test_documented_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for path in DOCUMENTS for line in code_lines(path)]
    lines += (ROOT / ".ci" / "run").read_text().splitlines()
    named = {found[1] for line in lines if (found := re.match(r"make ([a-z-]+)", line))}
    assert {"run", "test", "check", "ui"} <= named
    assert named <= targets


def test_documented_commands_exist_and_all_are_documented() -> None:
    parser = build_parser()
    known = {name for action in parser._actions for name in (getattr(action, "choices", 0) or ())}
    command = re.compile(r"(?:\S*/)?songcast ([a-z]+)")
    for path in DOCUMENTS:
        named = {found[1] for line in code_lines(path) if (found := command.match(line))}
        assert named <= known, path.name
        assert path != ROOT / "README.md" or named == known


def test_documented_files_exist() -> None:
    made = {path for said in PIPELINE["stages"].values() for path in outputs(said)}
    for path in DOCUMENTS:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", path.read_text()):
            there = (path.parent / link).exists() or link in made
            assert there, f"{path.name} links to {link}, which does not exist"


def test_modules_that_the_pages_name_exist() -> None:
    files = {
        p.name for folder in ("src", "tests", "benchmarks") for p in (ROOT / folder).rglob("*")
    }
    for path in DOCUMENTS:
        named = {word for line in code_lines(path) for word in re.findall(r"\b\w+\.py\b", line)}
        assert named <= files, path.name


def test_readme_has_a_place_for_the_measured_table() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("<!-- result table -->") == readme.count("<!-- end of result table -->")
    assert readme.index("<!-- result table -->") < readme.index("<!-- end of result table -->")


@pytest.mark.parametrize("benchmark", ["accuracy", "activations", "serving", "training"])
def test_benchmarks_explain_themselves(benchmark: str) -> None:
    command = [sys.executable, ROOT / "benchmarks" / f"{benchmark}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"benchmarks/{benchmark}.py" in done.stdout
