"""A YAML file -> frozen, typed, validated settings; every mistake in it is one line."""

import os
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from songcast.errors import ParamsError

Section = TypeVar("Section", bound="Settings")

# What PyYAML lets through: the 31st of February, 5000 digits, a wrong tag, a thousand brackets.
_UNREADABLE = (ValueError, AttributeError, RecursionError)
# What is allowed, where pydantic says it in words of its own.
_RULES = {
    "model_type": "a section of key: value lines",
    "tuple_type": "a list, such as [a, b]",
    "float_type": "a number (in YAML, write 1.0e-3 for 1e-3)",
    "too_short": "{min_length} or more in it",
    "too_long": "{max_length} or fewer in it",
    "string_too_short": "text of {min_length} character or more",
}


class Settings(BaseModel):
    """Base of all sections: immutable, no unknown keys, no conversion from another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def load(cls: type[Section], path: str | os.PathLike[str]) -> Section:
    """Read the YAML file at ``path`` into ``cls``; any mistake is a one-line ``ParamsError``."""
    name = Path(path).name
    try:
        document = _tuples(yaml.load(Path(path).read_text(encoding="utf-8"), _UniqueKeys))
    except OSError as error:
        raise ParamsError(
            f"{path}: cannot be read ({error.strerror}); run in the repository"
        ) from error
    except (yaml.YAMLError, *_UNREADABLE) as error:
        raise ParamsError(f"{name}: not valid YAML ({_one_line(error)}); correct it") from error
    try:
        return cls.model_validate(document)
    except ValidationError as error:
        raise ParamsError(f"{name}: {_explain(cls, document, error)}") from error


class _UniqueKeys(yaml.SafeLoader):
    """Plain YAML takes the last of two equal keys in silence."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for key in {key for key in keys if keys.count(key) > 1}:
            raise yaml.MarkedYAMLError(problem=f"{key} stands there twice")
        return super().construct_mapping(node, deep)


def _tuples(value: Any) -> Any:
    """Lists as tuples: strict and immutable settings know only tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _explain(cls: type[Settings], document: Any, error: ValidationError) -> str:
    """Say the first mistake in one line: section.key, what was received, what is allowed."""
    first = error.errors()[0]
    kind, place = first["type"], _place(document, first["loc"])
    if kind == "missing":
        return f"{'.'.join([*place, str(first['loc'][-1])])} is missing; add it"
    key = ".".join(place) or "the file"
    if kind == "extra_forbidden":
        return f"{key} is unknown; allowed there: {', '.join(_known(cls, place[:-1]))}"
    if kind == "value_error":
        return f"{key}: {first['ctx']['error']}; correct it"
    if kind in _RULES:
        rule = _RULES[kind].format(**first.get("ctx", {}))
    else:
        rule = first["msg"].removeprefix("Input should be ")
    received = list(first["input"]) if isinstance(first["input"], tuple) else first["input"]
    return f"{key} is {reprlib.repr(received)}; allowed: {rule}"


def _place(document: Any, location: tuple[int | str, ...]) -> list[str]:
    """Return the keys and list places of ``location``; pydantic has its own marks in it too."""
    place = []
    for part in location:
        known = range(len(document)) if isinstance(document, tuple) else document
        if isinstance(known, dict | range) and part in known:
            place.append(str(part))
            document = document[part]
    return place


def _known(cls: type[Settings], place: list[str]) -> list[str]:
    for key in place:
        if key in cls.model_fields:
            cls = next(_sections(cls.model_fields[key].annotation), cls)
    return list(cls.model_fields)


def _sections(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation
    for part in get_args(annotation):
        yield from _sections(part)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
