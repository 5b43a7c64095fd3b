"""Prepares the command line for Hydra: quotes names and paths, refuses settings that are given twice.

Hydra reads 1.10 as the number 1.1 and 2024_01_15 as 20240115, which may be another run's name, and fails on `=`, `(`,
`#` or an umlaut in a path. Quoted values are read unchanged.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser  # no public function separates overrides from flags
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, RangeSweep
from hydra.errors import HydraException

from tmqc.errors import SettingsError
from tmqc.settings.text import text_settings

_CALL = re.compile(r"\w+\(.*\)")  # such as sort(a) and str(3): functions for Hydra, but possible names of folders
_CLOSING = {"(": ")", "[": "]", "{": "}"}


def read_command_line(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with quotes around every name and path that Hydra would misread.

    Raises:
        SettingsError: Hydra cannot read a value without quotes; or a setting or group is given twice, with different
            or swept values.
    """
    options = get_args_parser().parse_args(arguments)
    sweeps = options.multirun or "hydra.mode=MULTIRUN" in options.overrides
    read, given, faults = list(arguments), dict[str, Override](), list[str]()
    left = list(options.overrides)
    for i, argument in enumerate(arguments):
        if argument not in left:  # a flag, or its value
            continue
        left.remove(argument)
        read[i] = _as_typed(argument, sweeps=sweeps)
        override = _parse(read[i])
        if override is None:
            faults.append(_explain(argument))
            continue
        if override.is_delete():
            continue
        name = override.key_or_group + (f"@{override.package}" if override.package else "")
        before = given.setdefault(name, override)
        if before is not override and (before.is_sweep_override() or _text(before) != _text(override)):
            faults.append(f"{name} is given twice, {_text(before)} and {_text(override)}: leave one of them out")
    if faults:
        raise SettingsError(faults)
    return read


def quote(text: str) -> str:
    """Quote a text so that Hydra reads it unchanged."""
    return QuotedString(text, Quote.single).with_quotes()


def _text(override: Override) -> str:
    return str(override.input_line).partition("=")[2]


def _parse(argument: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None


def _explain(argument: str) -> str:
    key, equals, text = argument.partition("=")
    if not equals:
        return f"{argument}: write group=option or group.setting=value; --help lists all of them"
    if _parse(f"{key}=x") is None:
        return f"{key}: there is no such setting; --help lists all of them"
    quoted = shlex.quote(f"{key}={QuotedString(text, Quote.double).with_quotes()}")
    return f"{key}={text}: Hydra cannot read this value; if it is text, quote it for Hydra and the shell: {quoted}"


def _as_typed(argument: str, *, sweeps: bool) -> str:
    key, _, text = argument.partition("=")
    if key.lstrip("+") == "harmful.kind" and text.lstrip().startswith("{"):
        # Hydra would merge a mapping with the list of an experiment; `compose.to_config` reads the text.
        parsed = _parse(f"x={text}")
        return f"{key}={quote(text.strip())}" if parsed and isinstance(parsed.value(), dict) else argument
    kind = text_settings().get(key.lstrip("+"))
    if kind is None or not text.strip():
        return argument
    parsed = _parse(f"x={text}")
    parts = list(_split(text))
    # Without -m, Hydra refuses several values, so these stay unquoted unless Hydra cannot parse them.
    if len(parts) > 1 and (sweeps or parsed is not None):
        return f"{key}={','.join(_value(part, kind) for part in parts)}"
    if sweeps and (choice := re.fullmatch(r"\s*choice\((.*)\)\s*", text)):
        return f"{key}=choice({','.join(_value(part, kind) for part in _split(choice[1]))})"
    if sweeps and parsed is not None and parsed.is_sweep_override():
        is_range = isinstance(parsed.value(), RangeSweep)
        return f"{key}={','.join(quote(str(n)) for n in parsed.sweep_string_iterator())}" if is_range else argument
    return f"{key}={_value(text, kind)}"


def _value(text: str, kind: Any) -> str:
    text = text.strip()
    if kind == list[str]:
        if not (text.startswith("[") and text.endswith("]")):
            return text
        return f"[{','.join(_value(part, str) for part in _split(text[1:-1]) if part.strip())}]"
    if text.startswith("~/"):
        return quote(str(Path(text).expanduser()))
    parsed = None if _CALL.fullmatch(text) else _parse(f"x={text}")
    value = None if parsed is None else parsed.value()
    stays = isinstance(value, str) or (parsed is not None and value is None and kind == str | None)
    return text if stays else quote(text)


def _split(text: str) -> Iterator[str]:
    """Split at commas outside of quotes and closed brackets."""
    start, at, closes = 0, 0, ""
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 1  # the next character is escaped
        elif char in "'\"" and (end := _end_of_quoted(text, at)):
            at = end
        elif char in _CLOSING and _CLOSING[char] in text[at + 1 :]:
            closes = _CLOSING[char] + closes
        elif closes and char == closes[0]:
            closes = closes[1:]
        elif char == "," and not closes:
            yield text[start:at]
            start = at + 1
        at += 1
    yield text[start:]


def _end_of_quoted(text: str, at: int) -> int:
    # A quotation mark starts a quoted part only where a value may start; elsewhere it is a letter, as in it's.
    if at and text[:at].rstrip()[-1:] not in ("", ",", "[", "(", "{", ":"):
        return 0
    quoted = re.compile(rf"{text[at]}(?:\\.|(?!{text[at]}).)*{text[at]}").match(text, at)
    return quoted.end() - 1 if quoted else 0
