"""The clients that the pages show work as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.serving_models import Echo, app_of, running
from songcast import cli
from songcast.audio.songs import read_song, write_song

ROOT = Path(__file__).parents[2]
PAGES = ("docs/how-to/serve.md",)
BLOCK = re.compile(r"<!-- example: (\w+) -->\n```\w*\n(.*?)```", re.DOTALL)
EXAMPLES = [
    pytest.param(language, code, id=f"{page}-{language}")
    for page in PAGES
    for language, code in BLOCK.findall((ROOT / page).read_text())
]
RUN = {"sh": ["bash", "-ec"], "python": [sys.executable, "-c"], "javascript": ["node", "-e"]}


@pytest.fixture(scope="module")
def server():
    with running(app_of(Echo())) as client:
        yield str(client.base_url)


def test_three_languages_are_shown():
    assert {parameter.values[0] for parameter in EXAMPLES} == set(RUN)


@pytest.mark.parametrize(("language", "code"), EXAMPLES)
def test_an_example_works_as_printed(language, code, server, chord, tmp_path):
    program = shutil.which(RUN[language][0])
    if program is None:
        pytest.skip(f"no {RUN[language][0]} here")
    write_song(chord, tmp_path / "song.mp3")
    assert "http://127.0.0.1:8000" in code
    code = code.replace("http://127.0.0.1:8000", server)
    done = subprocess.run(
        [program, *RUN[language][1:], code], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    out = tmp_path / "ours.wav"
    song = str(tmp_path / "song.mp3")
    assert cli.main(["predict", song, "-o", str(out), "--model", "persistence"]) == 0
    assert (tmp_path / "predicted.wav").read_bytes() == out.read_bytes()
    if language == "sh":
        assert read_song(tmp_path / "continuation.wav").seconds == 3.0
