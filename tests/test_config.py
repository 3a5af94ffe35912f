"""Values of params.yaml are parsed to typed settings or refused with one line."""

import json
import re
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from songcast import config
from songcast.config import Params
from songcast.errors import ParamsError
from songcast.files import root
from songcast.forecasting import distribution

GOOD = {
    "sample_rate_hz": "44100",
    "train_fraction": "0.7",
    "validation_fraction": "0.1",
    "test_fraction": "0.2",
    "guard_seconds": "0.1",
    "held_out": "[]",
    "on_damage": "warn",
    "on_leak": "warn",
}
REPOSITORY = Path(__file__).parents[1] / "params.yaml"
GOOD["expect"] = json.dumps(yaml.safe_load(REPOSITORY.read_text())["prepare"]["expect"])


def test_bounds_are_those_of_the_code():
    assert distribution.BLOCK_FRAMES == config.BLOCK_FRAMES


@pytest.fixture
def prepare_section(tmp_path):
    """``prepare_section(key=YAML, other=None)`` returns the path of a params.yaml.

    It has the keys of ``GOOD`` with these changes, and the other sections of the repository.
    """

    def write(**changes):
        others = yaml.safe_load(REPOSITORY.read_text())
        del others["prepare"]
        entries = {**GOOD, **changes}
        lines = [f"  {key}: {value}" for key, value in entries.items() if value is not None]
        path = tmp_path / "params.yaml"
        rest = yaml.safe_dump(others) if others else ""
        path.write_text("\n".join(["prepare:", *lines, rest]))
        return path

    return write


def test_the_repository_has_valid_params():
    prepare = Params.load(REPOSITORY).prepare
    assert prepare.sample_rate_hz == 44100
    assert prepare.held_out == ()


def test_settings_are_typed_and_frozen(prepare_section):
    prepare = Params.load(prepare_section(held_out="[a, b.wav]", guard_seconds="1")).prepare
    assert prepare.held_out == ("a", "b.wav")
    assert (prepare.guard_seconds, prepare.train_fraction) == (1.0, 0.7)
    with pytest.raises(ValidationError):
        prepare.train_fraction = 0.5


MISTAKES = [
    (
        {"sample_rate_hz": "'44100'"},
        "sample_rate_hz is '44100'; allowed: a valid integer",
    ),
    ({"sample_rate_hz": "true"}, "prepare.sample_rate_hz is True; allowed: a valid integer"),
    (
        {"sample_rate_hz": "44100.0"},
        "sample_rate_hz is 44100.0; allowed: a valid integer",
    ),
    ({"sample_rate_hz": "7999"}, "is 7999; allowed: greater than or equal to 8000"),
    ({"sample_rate_hz": "192001"}, "is 192001; allowed: less than or equal to 192000"),
    ({"sample_rate_hz": None}, "prepare.sample_rate_hz is missing; add it"),
    ({"sample_rate_hz": ""}, "prepare.sample_rate_hz is None; allowed: a valid integer"),
    ({"sample_rate": "1"}, "prepare: sample_rate is unknown, not one of sample_rate_hz, tr"),
    ({"guard_seconds": "-1"}, "prepare.guard_seconds is -1; allowed: greater than or equal"),
    ({"guard_seconds": ".nan"}, "prepare.guard_seconds is nan; allowed: a finite number"),
    ({"guard_seconds": "1e-2"}, "'1e-2'; allowed: a number (in YAML, write 1.0e-3 for 1e-3)"),
    ({"guard_seconds": "true"}, "prepare.guard_seconds is True; allowed: a number"),
    ({"test_fraction": "0.3"}, "prepare: train, validation and test fractions must sum to 1"),
    ({"test_fraction": "0.0"}, "prepare.test_fraction is 0.0; allowed: greater than 0"),
    ({"held_out": "song"}, "prepare.held_out is 'song'; allowed: a list"),
    ({"held_out": "[1]"}, "prepare.held_out.0 is 1; allowed: a valid string"),
    ({"held_out": "[]\n  held_out: []"}, "held_out occurs twice"),
    ({"held_out": "["}, "not valid YAML"),
]


def test_a_mistake_gives_one_line_with_key_value_and_rule(prepare_section):
    for changes, expected in MISTAKES:
        with pytest.raises(ParamsError) as caught:
            Params.load(prepare_section(**changes))
        message = str(caught.value)
        assert message.startswith("params.yaml: ")
        assert expected in message
        assert "\n" not in message


DOCUMENTS = [
    ("", "params.yaml: the file is None; allowed: a section"),
    ("- 1\n", "params.yaml: the file is [1]; allowed: a section"),
    ("prepare: 3\n", "params.yaml: prepare is 3; allowed: a section of key: value lines"),
    ("1: 2\n", "params.yaml: "),
    ("\0", "params.yaml: not valid YAML"),
    ("a: 2026-02-31\n", "params.yaml: not valid YAML (day is out of range for month)"),
    (f"a: {'9' * 5000}\n", "params.yaml: not valid YAML (Exceeds the limit (4300 digits)"),
    ("a: !!timestamp x\n", "params.yaml: not valid YAML"),
    ("[" * 3000, "params.yaml: not valid YAML"),
    ("&a [*a]\n", "params.yaml: not valid YAML"),
]


def test_other_documents_are_refused(tmp_path):
    for text, expected in DOCUMENTS:
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(ParamsError, match=re.escape(expected)):
            Params.load(tmp_path / "params.yaml")


SPACES = [
    (64, "units is 64; allowed: a list, such as [64, 96], or a range: {low: 1.0e-3, high: 1."),
    ([], "units is []; allowed: at least 1 in it"),
    ({"low": 0, "high": 1}, "units.low is 0; allowed: greater than 0"),
    ({"low": 2, "high": 1}, "units: low 2 must be below high 1; correct it"),
    ({"low": 1, "hgh": 2}, "units: hgh is unknown, not one of low, high;"),
    ({"low": 1}, "units.high is missing; add it"),
    ({"low": 1, "high": 2, "step": 1}, "units: step is unknown, not one of low, high;"),
]


def test_the_space_of_a_sweep_has_lists_and_ranges(tmp_path):
    for values, expected in SPACES:
        document = yaml.safe_load(REPOSITORY.read_text())
        document["sweep"]["space"]["units"] = values
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document))
        with pytest.raises(ParamsError, match=re.escape(f"params.yaml: sweep.space.{expected}")):
            Params.load(tmp_path / "params.yaml")


def test_seeds_have_the_range_of_keras(tmp_path):
    text = REPOSITORY.read_text()
    for seed, fits in ((2**32 - 1, True), (2**32, False)):
        (tmp_path / "params.yaml").write_text(text.replace("seed: 0", f"seed: {seed}"))
        if fits:
            assert Params.load(tmp_path / "params.yaml").train.seed == seed
        else:
            with pytest.raises(ParamsError, match=r"seed is 4294967296; allowed: less than"):
                Params.load(tmp_path / "params.yaml")


def test_an_unknown_section_and_a_missing_file_are_named(tmp_path, prepare_section):
    path = prepare_section()
    path.write_text(path.read_text() + "\nprepares: {}\n")
    with pytest.raises(ParamsError, match=r"the file: prepares is unknown, not one of prepare"):
        Params.load(path)
    with pytest.raises(ParamsError, match=r"none\.yaml: cannot be read \(No such file"):
        Params.load(tmp_path / "none.yaml")


def test_the_root_is_given_by_dvc_or_is_a_parent_with_params_or_dvc_yaml(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert root() == tmp_path / "a" / "b"
    (tmp_path / "params.yaml").touch()
    assert root() == tmp_path
    (tmp_path / "a" / "dvc.yaml").touch()
    assert root() == tmp_path / "a"
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    assert root() == tmp_path
