"""What the pages say can be done: commands parse, files, settings and options exist."""

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import songcast
from songcast.cli import build_parser

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "benchmarks/README.md"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IGNORED = {
    line.removesuffix("*").strip("/")
    for line in (ROOT / ".gitignore").read_text().splitlines()
    if not line.startswith("!")
} | {".dvc/config.local"}
WRITTEN = {"prepared/songs.json"}  # in folders that the pipeline makes
SUFFIXES = r"py|md|yaml|yml|toml|lock|json|html|dvc|css|js|svg"


def each_page(test: Any) -> Any:
    return pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())(
        test
    )


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages; none: those without a language."""
    found = FENCED.findall(page.read_text())
    return [block for language, block in found if language in (languages or ("",))]


def inline(page: Path) -> list[str]:
    """What stands between backticks in a page's text."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text()))


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Arguments of each call of a program in a page's shell blocks."""
    for block in blocks(page, "sh", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(rf"(?:\w+=\S+ )*(?:\S*/)?{program} ", line):
                said = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
                said.whitespace_split = True
                words = list(said)
                end = next((i for i, word in enumerate(words) if set(word) <= set("|&;<>")), None)
                start = next(i for i, word in enumerate(words) if word.endswith(program))
                yield words[start + 1 : end]


def code(page: Path) -> list[str]:
    """Every line that is set as code: in the text, and in blocks of any language."""
    lines = [line for _, block in FENCED.findall(page.read_text()) for line in block.splitlines()]
    return [*inline(page), *lines]


def made() -> set[str]:
    """Paths that the pipeline writes, their folders, and what else git ignores."""
    outs = {
        entry if isinstance(entry, str) else next(iter(entry))
        for stage in PIPELINE["stages"].values()
        for kind in ("outs", "metrics", "plots")
        for entry in stage.get(kind, ())
    }
    return IGNORED | outs | {folder.as_posix() for out in outs for folder in Path(out).parents}


@each_page
def test_every_command_line_parses(page: Path) -> None:
    for arguments in commands(page, "songcast"):
        build_parser().parse_args(arguments)  # SystemExit names what is wrong


@each_page
def test_every_command_and_option_in_the_text_exists(page: Path) -> None:
    (actions,) = (a for a in build_parser()._actions if isinstance(a.choices, dict))
    for said in inline(page):
        words = said.split()
        if words[0].rpartition("/")[2] != "songcast" or len(words) == 1:
            continue
        if words[1] == "--help":
            continue
        assert words[1] in actions.choices, said
        options = {word.partition("=")[0] for word in words[2:] if word.startswith("--")}
        assert options <= set(actions.choices[words[1]]._option_string_actions), said


def test_every_command_is_in_the_readme() -> None:
    (actions,) = (a for a in build_parser()._actions if isinstance(a.choices, dict))
    shown = {arguments[0] for arguments in commands(ROOT / "README.md", "songcast")}
    shown |= {said.split()[1] for said in inline(ROOT / "README.md") if said[:9] == "songcast "}
    assert shown == set(actions.choices)


@each_page
def test_every_dvc_command_parses(page: Path) -> None:
    from dvc.cli.parser import get_main_parser

    for arguments in commands(page, "dvc"):
        get_main_parser().parse_args(arguments)


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for page in PAGES for line in code(page)]
    lines += (ROOT / ".ci" / "run").read_text().splitlines()
    named = {found[1] for line in lines if (found := re.match(r"make ([a-z][a-z-]*)", line))}
    assert {"run", "test", "check", "ui"} <= named
    assert named <= targets


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / link).exists() or link.rstrip("/") in made(), link


@each_page
def test_every_file_named_exists(page: Path) -> None:
    """By its path from the root, the package or the page, or by its last parts."""
    for said in [*inline(page), *"\n".join(blocks(page)).split()]:
        name = said.rstrip(",;")
        is_path = re.fullmatch(r"\.?\w[\w.-]*(?:/[\w.-]+)*/", name)
        is_file = re.fullmatch(rf"\.?\w[\w./-]*\.(?:{SUFFIXES})", name)
        if is_path or is_file:
            assert exists(name.rstrip("/"), page), name


def exists(name: str, page: Path) -> bool:
    # SONG stands for any song: what counts is the folder that holds them.
    known = name.partition("/SONG")[0]
    folders = (ROOT, ROOT / "src" / "songcast", ROOT / "src", page.parent)
    if known in made() or any((folder / known).exists() for folder in folders):
        return True
    if any(known.startswith(f"{out}/") or f"{out}/{known}" in WRITTEN for out in made()):
        return True
    places = ("src", "tests", "benchmarks", "docs")
    return any(next((ROOT / place).rglob(known), None) for place in places)


@each_page
def test_every_program_and_test_in_a_command_exists_with_its_options(page: Path) -> None:
    for said in [*inline(page), *"\n".join(blocks(page, "sh", "bash")).splitlines()]:
        for name in re.findall(r"(?<![\w/.-])(?:benchmarks|tests)/[\w./-]+", said):
            assert (ROOT / name).exists(), said
        if found := re.search(r"python3? ((?:benchmarks|tests)/\S+\.py)(.*)", said):
            program = (ROOT / found[1]).read_text()
            for option in re.findall(r"(?<=\s)--[a-z-]+", found[2].partition("#")[0]):
                assert f'"{option}"' in program, said


@each_page
def test_every_setting_named_exists(page: Path) -> None:
    section = "|".join(PARAMS)
    setting = re.compile(rf"(?<![\w./@-])(?:{section})(?:\.[a-z_]+)+(?![\w./-])")
    for line in code(page):
        for name in setting.findall(line):
            if not re.search(rf"\.(?:{SUFFIXES}|wav)$", name):
                assert set_in(PARAMS, name.split(".")), name


def set_in(params: Any, keys: list[str]) -> bool:
    for key in keys:
        if not isinstance(params, dict) or key not in params:
            return False
        params = params[key]
    return True


@each_page
def test_every_python_example_is_python(page: Path) -> None:
    for block in blocks(page, "python"):
        ast.parse(block)


def test_the_python_example_of_the_readme_runs(
    make_song: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the other tests here do not need: Keras takes seconds to load.
    from helpers.small_continuation import continuation_model
    from songcast.forecasting.persistence import Persistence

    (example,) = (b for b in blocks(ROOT / "README.md", "python") if "import songcast" in b)
    small = continuation_model()

    class Champion(Persistence):
        continuer = property(lambda _: small)

    monkeypatch.setattr(songcast, "load", {"models:/songcast@champion": Champion()}.__getitem__)
    songcast.write_song(make_song(frames=4096), tmp_path / "song.mp3")
    monkeypatch.chdir(tmp_path)
    said: dict[str, Any] = {}
    exec(example.replace("seconds=5.0", "seconds=0.1"), said)
    assert said["forecast"].prediction_gain_db.shape == (2,)
    assert said["more"].samples.shape == (4410, 2)


def test_readme_has_a_place_for_the_measured_table() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.count("<!-- result table -->") == readme.count("<!-- end of result table -->")
    assert readme.index("<!-- result table -->") < readme.index("<!-- end of result table -->")


@pytest.mark.parametrize("benchmark", ["accuracy", "activations", "serving", "training"])
def test_benchmarks_explain_themselves(benchmark: str) -> None:
    command = [sys.executable, ROOT / "benchmarks" / f"{benchmark}.py", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"benchmarks/{benchmark}.py" in done.stdout
