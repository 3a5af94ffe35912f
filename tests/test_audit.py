"""`make audit`: nothing is called sound that was not looked up; licences and materials are all."""

import json
from email.message import Message
from pathlib import Path

import pytest

import dependencies

LOCK = (Path(__file__).parents[1] / "requirements.lock").read_text()
SOUND = {"name": "numpy", "version": "2.4", "vulns": []}
FLAWED = {"name": "jinja2", "version": "2.4", "vulns": [{"id": "PYSEC-2019-217"}]}
SKIPPED = {"name": "keras", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("entries", "sound", "said"),
    [
        ([SOUND], True, "none in 1 packages"),
        ([SOUND, SKIPPED], False, "none in 1 packages; not looked up: keras"),
        ([SKIPPED], False, "not looked up: PyPI's database cannot be reached from here"),
        ([SOUND, FLAWED], False, "jinja2 2.4 has PYSEC-2019-217"),
    ],
)
def test_what_was_not_looked_up_is_not_called_sound(entries, sound, said):
    report = json.dumps({"dependencies": entries, "fixes": []})
    assert dependencies.vulnerabilities(report) == (sound, said)


def test_without_a_report_nothing_was_looked_up():
    assert dependencies.vulnerabilities("")[0] is False


@pytest.mark.parametrize(
    ("fields", "licence"),
    [
        ([("License-Expression", "MIT"), ("License", "other")], "MIT"),
        ([("License", "EPL-2.0 OR GPL-2.0-or-later")], "EPL-2.0 OR GPL-2.0-or-later"),
        ([("License", "Copyright\n\nall of it"), ("Classifier", "License :: OSI :: X")], "X"),
        ([("License", "Copyright\n\nall of it")], "Copyright"),
        ([("Classifier", "Topic :: Y")], "not stated"),
    ],
)
def test_the_licence_is_found_wherever_it_is_stated(fields, licence):
    metadata = Message()
    for key, value in fields:
        metadata[key] = value
    assert dependencies.licence_of(metadata) == licence


def test_every_locked_package_is_in_the_bill_with_what_brings_it_along(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    locked = list(dependencies.locked(LOCK))
    assert len(locked) == sum("==" in line for line in LOCK.splitlines())
    packages = {package.name: package for package in locked}
    bill = json.loads(dependencies.bill_of_materials(locked))
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert {c["purl"].partition("@")[0] for c in bill["components"]} == {
        f"pkg:pypi/{name}" for name in packages
    }
    assert packages["grandalf"].is_copyleft
    assert packages["grandalf"].wanted_by == ("dvc",)
    assert packages["imageio-ffmpeg"].is_copyleft
    assert not packages["numpy"].is_copyleft
