"""Each invalid value at each key of params.yaml is refused; the values follow the schema."""

import copy
import functools
import math
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from songcast.config import Params
from songcast.stages import prepare, run_stage

REPOSITORY = yaml.safe_load((Path(__file__).parents[1] / "params.yaml").read_text())
SCHEMA = Params.model_json_schema()
Place = tuple[str | int, ...]

# One value of each kind, which is invalid at a key that does not take this kind.
KINDS: dict[str, Any] = {
    "null": None,
    "boolean": True,
    "integer": 7,
    "number": 7.5,
    "string": "no such word",
    "array": ["no such word"],
    "object": {"no such word": 7},
}
NOT_FINITE = (math.nan, math.inf)
HUGE = (10**400, -1e300)


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    return SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def members(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the forms that a value may have: one, or those of a union."""
    return [resolved(s) for s in schema.get("anyOf") or schema.get("oneOf") or [schema]]


def places(schema: dict[str, Any], document: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """Yield every key and list entry at any depth with its schema."""
    for form in members(resolved(schema)):
        if form.get("type") == "array" and isinstance(document, list):
            entries = form.get("prefixItems") or [form["items"]]
            below = dict(enumerate(entries[: len(document)]))
        elif form.get("type") == "object" and isinstance(document, dict):
            below = form.get("properties") or dict.fromkeys(document, form["additionalProperties"])
        else:
            continue
        for key, entry in below.items():
            if entry:  # {} allows everything
                yield (*at, key), entry
                yield from places(entry, document[key], (*at, key))


PLACES = dict(places(SCHEMA, REPOSITORY))
NUMBERS = {
    at: form
    for at, schema in PLACES.items()
    for form in members(schema)
    if form.get("type") in ("integer", "number")
}


def invalid(schema: dict[str, Any]) -> Iterator[Any]:
    """Yield values that are invalid at a key with this schema."""
    forms = members(schema)
    kinds = {form["type"] for form in forms}
    kinds |= {"integer"} if "number" in kinds else set()
    yield from (value for kind, value in KINDS.items() if kind not in kinds)
    for form in forms:
        if "enum" in form:
            yield KINDS["string"]
        if "maximum" in form or "exclusiveMaximum" in form:
            yield from out_of_range(form)
        if form.get("minItems") or form.get("minProperties"):
            yield [] if form["type"] == "array" else {}
        if "maxItems" in form:
            yield [1] * (form["maxItems"] + 1)
        if "minLength" in form:
            yield ""
    if kinds & {"integer", "number"}:
        yield from (*NOT_FINITE, *HUGE)


def out_of_range(form: dict[str, Any]) -> Iterator[float]:
    """Yield the first values outside of the bounds."""
    whole = form["type"] == "integer"
    for bound, way in (("Minimum", -1), ("Maximum", 1)):
        if f"exclusive{bound}" in form:
            yield form[f"exclusive{bound}"]
        else:
            last = form[bound.lower()]
            yield last + way if whole else math.nextafter(last, way * math.inf)


def changed(at: Place, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(REPOSITORY)
    functools.reduce(lambda inner, key: inner[key], at[:-1], document)[at[-1]] = value
    return document


@pytest.fixture
def refusal(tmp_path, monkeypatch, capfd, own_process):
    """``refusal(document)`` returns the line with which a stage refuses the settings."""
    monkeypatch.chdir(tmp_path)

    def run(document: Any) -> str:
        text = yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        (tmp_path / "params.yaml").write_text(text)
        with pytest.raises(SystemExit) as caught:
            run_stage(prepare.main)
        out, err = capfd.readouterr()
        assert (caught.value.code, out, err.count("\n")) == (2, "", 1), err
        return err

    return run


def named(at: Place) -> str:
    return "songcast prepare: params.yaml: " + ".".join(map(str, at))


def test_the_schema_has_every_key_of_the_file():
    def keys(document: Any, at: Place = ()) -> Iterator[Place]:
        for key, value in document.items() if isinstance(document, dict) else ():
            yield (*at, key)
            yield from keys(value, (*at, key))

    assert set(keys(REPOSITORY)) <= PLACES.keys()
    assert len(NUMBERS) > 50


def test_every_number_has_bounds():
    for at, form in NUMBERS.items():
        assert {"minimum", "exclusiveMinimum"} & form.keys(), at
        assert {"maximum", "exclusiveMaximum"} & form.keys(), at


def test_a_refusal_names_the_key_the_value_and_the_allowed_values(refusal):
    for at, schema in PLACES.items():
        for value in invalid(schema):
            line = refusal(changed(at, value))
            assert line.startswith(named(at)), (value, line)
            if isinstance(value, list | dict):  # the invalid value may be an element
                rules = ("; allowed: ", "; allowed there: ", "; add it")
                assert any(rule in line for rule in rules), (value, line)
            else:
                assert f" is {reprlib.repr(value)}; allowed: " in line, (value, line)


def at_place(at: Place) -> Any:
    return functools.reduce(lambda inner, key: inner[key], at, REPOSITORY)


# The file and each key whose value is a section.
SECTIONS = [
    at
    for at, schema in {(): SCHEMA, **PLACES}.items()
    if isinstance(at_place(at), dict) and any("properties" in form for form in members(schema))
]


def test_a_missing_and_an_unknown_key_are_named(refusal):
    for at in SECTIONS:
        section = at_place(at)
        for key in section:
            fewer = {k: v for k, v in section.items() if k != key}
            line = refusal(changed(at, fewer) if at else fewer)
            assert line == f"{named((*at, key))} is missing; add it\n"
        more = {**section, "no_such_key": 1}
        line = refusal(changed(at, more) if at else more)
        place = named(at or ("the file",))
        assert line.startswith(f"{place}: no_such_key is unknown, not one of ")
        assert set(line.partition("one of ")[2].partition(";")[0].split(", ")) == set(section)
