"""Keeps names and paths as they were typed: finds and checks all settings that the schema declares as text."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any, TypeGuard, get_type_hints

from tmqc.settings.schema import Config

_TEXT, _OPTIONAL, _LIST = str, str | None, list[str]
# Invisible characters that Unicode classifies as letters or marks: joiners, fillers, variation selectors.
_BLANK_LETTERS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0]")


def normalize_name(text: str) -> str:
    """Normalize a name to what a reader sees: NFC, no invisible characters, single plain spaces, none at the ends.

    Control characters are kept so that the caller can refuse them: a line break within a name is a fault of the table.
    """
    composed = unicodedata.normalize("NFC", _BLANK_LETTERS.sub("", text))
    shown = "".join(c for c in composed if unicodedata.category(c) != "Cf")
    # NFC again: once an invisible character is removed, a mark behind it combines with the letter before it.
    return unicodedata.normalize("NFC", re.sub(r"[^\S\x00-\x1f\x7f-\x9f]+", " ", shown).strip())


@cache
def text_settings(kind: type = Config) -> dict[str, Any]:
    """Map the name of each text setting to its type: `str`, `str | None` or `list[str]`."""
    found: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if _is_group(hint):
            found |= {f"{name}.{inner}": type_ for inner, type_ in text_settings(hint).items()}
        elif hint in (_TEXT, _OPTIONAL, _LIST):
            found[name] = hint
    return found | ({"init.from": _OPTIONAL} if kind is Config else {})  # `init` is a dict, not a dataclass


def lenient_schema(kind: type = Config) -> type:
    """Return the schema with type Any for text settings: OmegaConf would convert numbers read by YAML to text."""
    hints, made = get_type_hints(kind), []
    for each in fields(kind):
        hint = hints[each.name]
        if _is_group(hint):
            inner = lenient_schema(hint)
            made.append((each.name, inner, field(default_factory=inner)))
        else:
            hint = Any if hint in (_TEXT, _OPTIONAL) else list[Any] if hint == _LIST else hint
            default = (
                field(default=each.default)
                if each.default_factory is MISSING
                else field(default_factory=each.default_factory)
            )
            made.append((each.name, hint, default))
    return make_dataclass(kind.__name__, made)


def check_composed(composed: Any, kind: type = Config, prefix: str = "") -> list[str]:
    """Return faults of composed settings that the typed schema misses: unknown settings, and numbers given as text.

    Args:
        composed: plain dictionaries and lists, interpolations not resolved.
    """
    hints, faults = get_type_hints(kind), []
    for name, value in composed.items():
        hint = hints.get(name)
        if hint is None:
            faults.append(f"{prefix}{name}: there is no such setting")
        elif _is_group(hint) and isinstance(value, dict):
            faults += check_composed(value, hint, f"{prefix}{name}.")
        elif hint in (_TEXT, _OPTIONAL):
            faults += _check_text(prefix + name, value, optional=hint == _OPTIONAL)
        elif hint == _LIST and isinstance(value, list):
            faults += [fault for each in value for fault in _check_text(prefix + name, each, optional=False)]
    if kind is Config and isinstance(init := composed.get("init"), dict):
        known = Config().init
        faults += [
            f"init.{name}: there is no such setting; init has {', '.join(known)}" for name in init.keys() - known
        ]
        faults += _check_text("init.from", init.get("from"), optional=True)
    return faults


def _check_text(name: str, value: Any, *, optional: bool) -> list[str]:
    if isinstance(value, str) or (optional and value is None):
        return []
    hint = "put it in quotes" if isinstance(value, bool | int | float) else "give a name or a path"
    return [f"{name}: {value!r} is not text, and may differ from what was typed: {hint}"]


def _is_group(hint: Any) -> TypeGuard[type]:
    return isinstance(hint, type) and is_dataclass(hint)
