"""The documentation is true: commands parse; files, links, settings and options exist."""

import argparse
import ast
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import songcast
from songcast.cli import build_parser
from songcast.config import Params

ROOT = Path(__file__).parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if "_build" not in page.parts),
    *(ROOT / name for name in ("benchmarks/README.md", "mlruns/README.md")),
]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
FENCED = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
IGNORED = {
    line.removesuffix("*").strip("/")
    for line in (ROOT / ".gitignore").read_text().splitlines()
    if not line.startswith("!")
} | {".dvc/config.local", "docs/_build"}
# In folders that the pipeline makes.
WRITTEN = {
    "prepared/songs.json",
    "models/train/bundle.json",
    "models/train/weights.safetensors",
    "mlruns/artifacts",
}
SUFFIXES = r"py|md|yaml|yml|toml|lock|json|html|dvc|css|js|svg"
ODD = re.compile(
    r"\b(un)?hear(s|d|ing)?\b|\bsaid\b|\btold\b|\btells?\b|\bwhoever\b|\bgo(es)? on\b|\brivals?\b"
    r"|\bof its own\b|\bis none\b|\bso it is\b",
    re.IGNORECASE,
)


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in these languages; without languages, the unnamed ones."""
    fenced = FENCED.findall(page.read_text())
    return [block for language, block in fenced if language in (languages or ("",))]


def inline(page: Path) -> list[str]:
    """The code spans in a page's text."""
    return re.findall(r"`([^`\n]+)`", FENCED.sub("", page.read_text()))


def shell_lines(page: Path) -> list[str]:
    """The lines of all shell blocks, continued lines joined."""
    text = "\n".join(blocks(page, "sh", "bash"))
    return text.replace("\\\n", " ").splitlines()


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """Arguments of each call of a program in a page's shell blocks."""
    for line in shell_lines(page):
        if re.match(rf"(?:\w+=\S+ )*(?:\S*/)?{program} ", line):
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
            lexer.whitespace_split = True
            words = list(lexer)
            end = next((i for i, word in enumerate(words) if set(word) <= set("|&;<>")), None)
            start = next(i for i, word in enumerate(words) if word.endswith(program))
            yield words[start + 1 : end]


def code(page: Path) -> list[str]:
    """All code spans, and the lines of all blocks."""
    lines = [line for _, block in FENCED.findall(page.read_text()) for line in block.splitlines()]
    return [*inline(page), *lines]


def outputs() -> Iterator[str]:
    """The paths that the stages of dvc.yaml write."""
    for stage in PIPELINE["stages"].values():
        for kind in ("outs", "metrics", "plots"):
            for entry in stage.get(kind, ()):
                yield entry if isinstance(entry, str) else next(iter(entry))


def made() -> set[str]:
    """Paths that the pipeline writes, their folders, and everything else that git ignores."""
    outs = set(outputs())
    return IGNORED | outs | {folder.as_posix() for out in outs for folder in Path(out).parents}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (actions,) = (a for a in build_parser()._actions if isinstance(a.choices, dict))
    return dict(actions.choices)  # type: ignore[arg-type]


def options(parser: argparse.ArgumentParser) -> set[str]:
    return {option for option in parser._option_string_actions if option.startswith("--")}


def test_every_songcast_command_parses() -> None:
    for page in PAGES:
        for arguments in commands(page, "songcast"):
            build_parser().parse_args(arguments)  # SystemExit explains what is wrong


def test_every_command_and_option_in_the_text_exists() -> None:
    known = subcommands()
    for page in PAGES:
        for span in inline(page):
            program, *words = span.split()
            if program.rpartition("/")[2] != "songcast" or not words or words[0] == "--help":
                continue
            if words[0] == "COMMAND":
                continue
            assert words[0] in known, f"{name(page)}: {span}"
            used = {word.partition("=")[0] for word in words if word.startswith("--")}
            assert used <= options(known[words[0]]), f"{name(page)}: {span}"


def test_the_reference_of_commands_is_complete() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text()
    lines = text.splitlines()
    for command, parser in subcommands().items():
        row = next((line for line in lines if line.startswith(f"| `songcast {command}")), None)
        assert row, f"docs/reference/cli.md lacks songcast {command}"
        # --json of the registry's commands is described once, above their table.
        missing = {o for o in options(parser) if o not in row} - {"--help", "--json", "--output"}
        assert not missing, f"songcast {command}: {missing}"


def test_every_dvc_command_parses() -> None:
    from dvc.cli.parser import get_main_parser

    parser = get_main_parser()
    for page in PAGES:
        for arguments in commands(page, "dvc"):
            parser.parse_args(arguments)


def test_every_make_target_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for page in PAGES for line in code(page)]
    lines += (ROOT / ".ci" / "run").read_text().splitlines()
    named = {match[1] for line in lines if (match := re.match(r"make ([a-z][a-z-]*)", line))}
    assert {"run", "test", "check", "docs", "ui"} <= named
    assert named - targets == set()


def test_every_link_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)]+)", page.read_text()):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists() or path.rstrip("/") in made(), f"{name(page)}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
                slugs = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
                assert anchor in slugs, f"{name(page)}: {link}"


def test_every_page_is_in_the_index() -> None:
    docs = ROOT / "docs"
    listed = set((docs / "index.md").read_text().split())
    pages = {
        page.relative_to(docs).with_suffix("").as_posix() for page in PAGES if docs in page.parents
    }
    assert pages - listed == {"index"}


def test_every_file_named_exists() -> None:
    """By its path from the root, the package or the page, or by its last parts."""
    for page in PAGES:
        for word in [*inline(page), *"\n".join(blocks(page)).split()]:
            path = word.rstrip(",;")
            is_folder = re.fullmatch(r"\.?\w[\w.-]*(?:/[\w.-]+)*/", path)
            is_file = re.fullmatch(rf"\.?\w[\w./-]*\.(?:{SUFFIXES})", path)
            if (is_folder or is_file) and "NAME" not in path:
                assert exists(path.rstrip("/"), page), f"{name(page)}: {path}"


def exists(path: str, page: Path) -> bool:
    # SONG stands for any song: the folder that holds them must exist.
    known = path.partition("/SONG")[0]
    folders = (ROOT, ROOT / "src" / "songcast", ROOT / "src", page.parent)
    if known in made() or any((folder / known).exists() for folder in folders):
        return True
    if any(known.startswith(f"{out}/") or f"{out}/{known}" in WRITTEN for out in made()):
        return True
    places = ("src", "tests", "benchmarks", "docs")
    return any(next((ROOT / place).rglob(known), None) for place in places)


def test_every_program_and_test_in_a_command_exists_with_its_options() -> None:
    for page in PAGES:
        for line in [*inline(page), *shell_lines(page)]:
            for path in re.findall(r"(?<![\w/.-])(?:benchmarks|tests)/[\w./-]+", line):
                assert (ROOT / path).exists(), f"{name(page)}: {line}"
            if match := re.search(r"python3? ((?:benchmarks|tests)/\S+\.py)(.*)", line):
                program = (ROOT / match[1]).read_text()
                for option in re.findall(r"(?<=\s)--[a-z-]+", match[2].partition("#")[0]):
                    assert f'"{option}"' in program, f"{name(page)}: {line}"


def test_every_setting_named_exists() -> None:
    section = "|".join(PARAMS)
    setting = re.compile(rf"(?<![\w./@-])(?:{section})(?:\.[a-z_]+)+(?![\w./-])")
    for page in PAGES:
        for line in code(page):
            for key in setting.findall(line):
                if not re.search(rf"\.(?:{SUFFIXES}|wav)$", key):
                    assert key in dict(settings(PARAMS)), f"{name(page)}: {key}"


def settings(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """All keys of params.yaml with their values, sections included."""
    for key, value in section.items():
        yield prefix + key, value
        if isinstance(value, dict):
            yield from settings(value, f"{prefix}{key}.")


def test_the_reference_of_settings_is_complete_and_has_the_values_of_params_yaml() -> None:
    page = (ROOT / "docs" / "reference" / "params.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \| ([^|]+) \|", page, re.MULTILINE)
    shown = {key: value.strip() for key, value, _ in rows}
    leaves = {k: v for k, v in settings(PARAMS) if not isinstance(v, dict)}
    leaves = {k: v for k, v in leaves.items() if not k.startswith("sweep.space.")}
    assert set(shown) - {"sweep.space"} == set(leaves)
    assert {k: yaml.safe_load(shown[k]) for k in leaves} == leaves


def test_the_reference_of_settings_has_the_bounds_of_the_schema() -> None:
    page = (ROOT / "docs" / "reference" / "params.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| [^|]+ \| ([^|]+) \|", page, re.MULTILINE)
    for key, allowed in rows:
        schema = schema_of(key.split("."))
        bounds = [schema[b] for b in ("minimum", "maximum") if b in schema]
        for bound in bounds:
            if f"{bound:g}" != f"{2**32 - 1:g}":
                numbers = re.findall(r"-?\d+(?:e\d+)?", allowed)
                assert float(bound) in map(float, numbers), f"{key}: {bound} is not in {allowed!r}"
        for choice in schema.get("enum", ()):
            assert choice in allowed, f"{key}: {choice}"


def schema_of(keys: list[str]) -> dict[str, Any]:
    """The JSON schema of one setting."""
    schema: dict[str, Any] = Params.model_json_schema()
    definitions = schema["$defs"]
    for key in keys:
        schema = schema["properties"][key]
        if "$ref" in schema:
            schema = definitions[schema["$ref"].rpartition("/")[2]]
    return schema


def test_the_reference_of_files_names_every_output_of_the_pipeline() -> None:
    text = (ROOT / "docs" / "reference" / "files.md").read_text()
    named = {span.rstrip("/") for span in re.findall(r"`([^`\n]+)`", text)}
    assert set(outputs()) - named == set()


def test_every_python_example_is_python() -> None:
    for page in PAGES:
        for block in blocks(page, "python"):
            ast.parse(block)


def test_the_python_example_of_the_readme_runs(
    make_song: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Keras takes seconds to load, and the other tests here do not need it.
    from helpers.small_continuation import continuation_model
    from songcast.forecasting.baselines import Persistence
    from songcast.registry.models import Model

    (example,) = (b for b in blocks(ROOT / "README.md", "python") if "import songcast" in b)
    model = Model(Persistence())
    vars(model)["continuation"] = continuation_model()
    monkeypatch.setattr(songcast, "load", {"models:/songcast@champion": model}.__getitem__)
    songcast.write_song(make_song(frames=4096), tmp_path / "song.mp3")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example.replace("seconds=5.0", "seconds=0.1"), names)
    assert names["forecast"].prediction_gain_db.shape == (2,)
    assert names["more"].samples.shape == (4410, 2)


def test_the_forecaster_of_the_guide_predicts_a_line(make_song: Any) -> None:
    example, *_ = blocks(ROOT / "docs" / "how-to" / "add-a-forecaster.md", "python")
    names: dict[str, Any] = {}
    exec(example, names)
    samples = np.repeat(np.arange(100, dtype=np.int16)[:, None] * 7, 2, axis=1)
    song = songcast.Song(samples=samples, sample_rate_hz=44100, name="line")
    forecast = names["Extrapolation"]().forecast(song)
    assert forecast.mean[2:] == pytest.approx(samples[2:], abs=1e-6)


def test_the_table_of_the_readme_agrees_with_the_measured_metrics() -> None:
    """Within what another machine may change: the notebook differs by 0.1 dB, the rest by less."""
    rows = re.findall(
        r"^\| (\w+)[^|]*\| *([\d.]*) *\| ([\d.]+) \|", (ROOT / "README.md").read_text(), re.M
    )
    shown = {row: (gain, bits) for row, gain, bits in rows}
    summary = json.loads((ROOT / "metrics" / "evaluation.json").read_text())["summary"]
    assert set(shown) - {"FLAC"} == set(summary)
    for forecaster, measured in summary.items():
        gain, bits = map(float, shown[forecaster])
        assert gain == pytest.approx(measured["prediction_gain_db"], abs=0.2), forecaster
        assert bits == pytest.approx(measured["bits_per_sample"], abs=0.05), forecaster
    lines = (ROOT / "plots" / "bits.csv").read_text().splitlines()
    flac = dict(line.split(",") for line in lines)["flac"]
    assert float(shown["FLAC"][1]) == pytest.approx(float(flac), abs=0.05)


def test_the_text_avoids_odd_words() -> None:
    for page in [*PAGES, ROOT / "CHANGELOG.md"]:
        text = re.sub(r"`[^`\n]+`", "", FENCED.sub("", page.read_text()))
        lines = [line for line in text.splitlines() if ODD.search(line)]
        assert lines == [], name(page)


def test_benchmarks_explain_themselves() -> None:
    for benchmark in ("accuracy", "activations", "serving", "training"):
        command = [sys.executable, ROOT / "benchmarks" / f"{benchmark}.py", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert f"benchmarks/{benchmark}.py" in done.stdout


@pytest.mark.slow
def test_the_built_documentation_has_no_warnings_and_loads_nothing_from_the_network(
    tmp_path: Path,
) -> None:
    pytest.importorskip("sphinx", reason="needs the extra docs")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "cache"]
    done = subprocess.run(
        [*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    asset = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"(?:https?:)?//[^\"]*")
    rel = r"rel=\"[^\"]*(?:stylesheet|icon|preload)"
    style = re.compile(rf"<link\b(?=[^>]*{rel})[^>]*href=\"(?:https?:)?//")
    for page in (tmp_path / "html").rglob("*.html"):
        assert not asset.search(page.read_text()) and not style.search(page.read_text()), page
    for sheet in (tmp_path / "html").rglob("*.css"):
        assert not re.search(r"(?:@import|url\()\s*[\"']?(?:https?:)?//", sheet.read_text()), sheet
