"""The example clients in the documentation work as printed."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from helpers.serving_models import Echo, app_of, running
from songcast import cli
from songcast.audio.songs import read_song, write_song

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"<!-- example: (\w+) -->\n```\w*\n(.*?)```", re.DOTALL)
RUN = {"sh": ["bash", "-ec"], "python": [sys.executable, "-c"], "javascript": ["node", "-e"]}


def test_the_examples_work_as_printed(chord, tmp_path, monkeypatch):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    examples = [example for page in pages for example in BLOCK.findall(page.read_text())]
    assert {language for language, _ in examples} == set(RUN)
    monkeypatch.chdir(tmp_path)
    write_song(chord, "song.mp3")
    assert cli.main(["predict", "song.mp3", "-o", "expected.wav", "--model", "persistence"]) == 0
    with running(app_of(Echo())) as client:
        for language, code in examples:
            if shutil.which(RUN[language][0]) is None:
                continue
            Path("predicted.wav").unlink(missing_ok=True)
            assert "http://127.0.0.1:8000" in code
            code = code.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))
            done = subprocess.run([*RUN[language], code], capture_output=True, text=True)
            assert (done.returncode, done.stderr) == (0, ""), done.stderr
            assert Path("predicted.wav").read_bytes() == Path("expected.wav").read_bytes()
            if language == "sh":
                assert read_song("continuation.wav").seconds == 3.0
