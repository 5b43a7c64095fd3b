"""Takes the defaults of the settings from `conf/`, where each stands once, beside its description."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar, dataclass_transform

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc.errors import SettingsError

T = TypeVar("T")


def conf_dir() -> Path:
    """Folder of the YAML config groups: the copy in an installed package, else the clone's `conf/`."""
    package = Path(__file__).resolve().parents[1]
    return conf if (conf := package / "conf").is_dir() else package.parent / "conf"


@dataclass_transform()
def defaults_from(file: str, *parts: str) -> Callable[[type[T]], type[T]]:
    """Make a class of settings a dataclass whose defaults are those of a YAML file.

    A field that has a default already keeps it. `metadata["conf"]` of every field gives the file and the parts.

    Args:
        file: in `conf/`, without its ending, such as "qc/default".
        parts: keys that lead to the class's settings within the file, such as "screen".

    Raises:
        SettingsError: the file cannot be read or lacks a setting.
    """

    def make(kind: type[T]) -> type[T]:
        for name, each in vars(kind).items():
            if not isinstance(each, Field):
                continue
            each.metadata = MappingProxyType({**each.metadata, "conf": (file, *parts)})
            if each.default is MISSING and each.default_factory is MISSING:
                value = read_default(file, *parts, name)
                if isinstance(value, list):
                    each.default_factory = partial(list, value)
                else:
                    each.default = value
        return dataclass(kind)

    return make


def read_default(file: str, *keys: str) -> Any:
    """Read a setting, or all settings of a part, from a YAML file in `conf/`.

    Raises:
        SettingsError: the file cannot be read or lacks it.
    """
    path = conf_dir() / f"{file}.yaml"
    value = _read(path)
    for key in keys:
        if not isinstance(value, dict) or key not in value:
            raise SettingsError(f"{path}: {'.'.join(keys)} is missing; its default stands there")
        value = value[key]
    return value


@cache
def _read(path: Path) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise SettingsError(f"{path}: {' '.join(str(error).split())}") from None
