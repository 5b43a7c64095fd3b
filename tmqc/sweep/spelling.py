"""Names as they were typed: Hydra takes 10_2 for the number 102, and 1.10 for 1.1, which may be another's name."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from tmqc.errors import SettingsError
from tmqc.settings.schema import Config

NAMES = ("harmful.ids", "qc.calibrated.centers", "federation.sites")  # settings that are lists of names
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")


def keep_names(config: Config, lines: Iterable[str]) -> None:
    """Make text of numbers among the names in `config`, where what was typed is sure to have been just that.

    Args:
        config: as composed; its lists of names are changed.
        lines: overrides as they were typed, sweeps among them.

    Raises:
        SettingsError: a name that was read as something else, on the command line or in a YAML file.
    """
    overrides = OverridesParser.create().parse_overrides(list(lines))
    faults = []
    for setting, group, name in (
        (NAMES[0], config.harmful, "ids"),
        (NAMES[1], config.qc.calibrated, "centers"),
        (NAMES[2], config.federation, "sites"),
    ):
        read = [(text, _read(text)) for each in overrides if _is_about(each, setting) for text in _split(each)]
        faults += [_fault(setting, text, value) for text, value in read if _is_changed(text, value)]
        typed = {text for text, value in read if not isinstance(value, str)}
        names = [
            each if isinstance(each, str) or str(each) not in typed else str(each) for each in getattr(group, name)
        ]
        # A number of a YAML file: it may stand there as 10_2 or 007, nobody can tell.
        faults += [] if faults else [_fault(setting, None, each) for each in names if not isinstance(each, str)]
        setattr(group, name, names)
    if faults:
        raise SettingsError(list(dict.fromkeys(faults)))


def _is_about(override: Override, setting: str) -> bool:
    key = override.key_or_group
    return key == setting or setting.startswith(f"{key}.") or key.startswith(f"{setting}.")


def _split(override: Override) -> list[str]:
    """The values inside of an override's lists that were typed without quotes."""
    text = _QUOTED.sub("", str(override.input_line).partition("=")[2])
    return [part.strip() for part in re.split(r"[\[\](){},]", text) if part.strip()]


def _read(text: str) -> Any:
    try:
        return OverridesParser.create().parse_override(f"name={text}").value()
    except HydraException:
        return text  # no value by itself, such as a part of an interpolation


def _is_changed(text: str, value: Any) -> bool:
    return isinstance(value, bool | int | float) and str(value) != text


def _fault(setting: str, text: str | None, value: Any) -> str:
    told = f"{setting} has {text}, which is read as {value!r}" if text else f"{setting} has {value!r}, which is no text"
    return f"{told}: put names in quotes, as \"{setting}=['{text or '10_2'}']\""
