"""Translates errors of Hydra and OmegaConf into the setting at fault, its value and the allowed values."""

from __future__ import annotations

import re
from dataclasses import fields
from difflib import get_close_matches

from tmqc.settings.schema import Config, flatten

_UNKNOWN = re.compile(r"Could not override '([^']+)'")
_GROUP = re.compile(
    r"Could not find '([^/']+)/([^']+)'\s+Available options in '[^']+':\s+((?:\t?\s*\S+\n?)+)", re.DOTALL
)
_MERGE = re.compile(r"Error merging override (\S+?)(?:=(.*))?$", re.DOTALL)
_IN_FILE = re.compile(r"In '(.+?)': \w+ raised while composing config:.*full_key: (\S+)", re.DOTALL)
_SEVERAL = re.compile(r"Ambiguous value for argument '([^']+)'")
NO_OPTION = "Config group override must be"  # start of a ValueError of Hydra's, for example for qc=1.5
_NOT_NAMED = "a group, such as qc or experiment, needs the name of an option, not a number or null"
_INTERPOLATED = re.compile(r"(Interpolation key '[^']+' not found|Unsupported interpolation type \S+)")
_TYPES = {"to Float": "a number", "to Integer": "a whole number", "valid bool": "true or false"}


def explain(error: BaseException) -> list[str]:
    """Return one line per fault of an error that was raised while composing the settings."""
    message, cause = str(error), str(error.__cause__ or "")
    if match := _UNKNOWN.search(message):
        return [_explain_unknown(match.group(1))]
    if match := _GROUP.search(message):
        group, option, listed = match.groups()
        allowed = re.split(r"\s+Config search path", listed)[0].split()
        close = "".join(f"did you mean {name}? It " for name in get_close_matches(option, allowed, n=1))
        return [f"{group}={option}: {close}must be one of {', '.join(allowed)}"]
    if match := _IN_FILE.search(message) or _MERGE.search(message):
        is_file, (name, rest) = match.re is _IN_FILE, match.groups(default="")
        return [_explain_file(f"{name}.yaml", rest, message) if is_file else _explain_override(name, rest, cause)]
    if match := _SEVERAL.search(message):
        return [f"{match[1]}: several values need a sweep (tmqc -m ...); write a list as [1,2], quote text with commas"]
    if match := _INTERPOLATED.search(message):
        return [f"{match[1][0].lower()}{match[1][1:]}: ${{...}} refers to another setting; a name cannot contain it"]
    texts = (_NOT_NAMED,) if message.startswith(NO_OPTION) else (message, cause)
    return [" ".join(text.split()) for text in dict.fromkeys(texts) if text.strip()]


def _explain_file(file: str, name: str, message: str) -> str:
    if "not in '" not in message:
        return f"{file}: {name}: must be {_allowed(message)}"
    if name == "experiment":
        return f"{file}: its first line must be `# @package _global_`"
    return f"{file}: {_explain_unknown(name)}"


def _explain_override(name: str, value: str, cause: str) -> str:
    name = name.lstrip("+~")
    if "does not support deletion" in cause:
        return f"{name}: a setting cannot be removed"
    return f"{name}={value.strip()}: must be {_allowed(cause)}"


def _explain_unknown(name: str) -> str:
    known = [*flatten(Config()), *(f.name for f in fields(Config))]
    # A setting of this name in another group is closer than one that is spelled similarly.
    close = [each for each in known if each.rpartition(".")[2] == name] or get_close_matches(name, known, n=1)
    group = name.rpartition(".")[0]
    inside = [each.removeprefix(f"{group}.") for each in known if group and each.startswith(f"{group}.")]
    siblings = list(dict.fromkeys(each.split(".")[0] for each in inside))
    hints = [f"did you mean {close[0]}?"] if close else []
    hints += [f"{group} has {', '.join(siblings)}"] if siblings else []
    return f"{name}: there is no such setting; {'; '.join(hints) or '--help lists all of them'}".replace("?; ", "? ")


def _allowed(cause: str) -> str:
    for kind, words in _TYPES.items():
        if kind in cause:
            return words
    if "is not Optional" in cause:
        return "a value, not null"
    if "is not a ListConfig" in cause:
        return "a list, as [1,2,3]"
    return "of the right type: " + " ".join(cause.split()) if cause else "of the right type"
