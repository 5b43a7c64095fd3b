"""Allowed values of single settings: declared with the setting in the schema, checked here."""

from __future__ import annotations

from dataclasses import MISSING, field, fields, is_dataclass
from typing import Any


def any_value(*, default: Any = MISSING) -> Any:
    """Declare a setting of which only the type is checked. Without `default` it is taken from `conf/`, as below."""
    return field(default=default)


def one_of(allowed: tuple[str, ...], *, default: Any = MISSING) -> Any:
    """Declare a setting that is one of the `allowed` words."""
    return field(default=default, metadata={"one_of": allowed})


def within(low: float, high: float, *, default: Any = MISSING) -> Any:
    """Declare a setting that is a number from `low` to `high`, both included, or None if its type allows it."""
    return field(default=default, metadata={"within": (low, high)})


def check_each(group: Any, prefix: str = "") -> list[str]:
    """Check each setting by itself against the words or the range that the schema allows; return the faults."""
    faults = []
    for each in fields(group):
        name, value = f"{prefix}{each.name}", getattr(group, each.name)
        if is_dataclass(value):
            faults += check_each(value, f"{name}.")
        elif (words := each.metadata.get("one_of")) and value not in words:
            faults.append(f"{name}={value}: must be one of {', '.join(words)}")
        elif span := each.metadata.get("within"):
            (low, high), is_optional = span, str(each.type).endswith("| None")
            if not (low <= value <= high if value is not None else is_optional):
                or_null = "null, or " if is_optional else ""
                faults.append(f"{name}={value}: must be {or_null}a number from {low:g} to {high:g}")
    return faults
