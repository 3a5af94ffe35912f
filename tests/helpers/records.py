"""A check for all records: frozen, with keyword-only arguments."""

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest


def assert_sealed(record: Any) -> None:
    """Assert that no field can be set and that positional arguments are refused."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    for name, value in values.items():
        with pytest.raises(FrozenInstanceError):
            setattr(record, name, value)
    same = type(record)(**values)
    assert all(getattr(same, name) is value for name, value in values.items())
    with pytest.raises(TypeError, match="positional"):
        type(record)(*values.values())
