"""What the package imports is what it says it needs: nothing is there only because another library brings it."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from test_architecture import MODULES, imports_of

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = {"jax", "nvflare", "optuna", "psutil", "ray"}  # in modules that are imported only if they are asked for


def names_of(requirements):
    return {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in requirements}


def test_every_import_is_a_declared_dependency():
    roots = {module.split(".")[0] for path in MODULES for module in imports_of(path)}
    foreign = roots - sys.stdlib_module_names - {"tmqc"}
    installed = packages_distributions()
    needed = names_of(PROJECT["dependencies"])
    extra = names_of(each for group in PROJECT["optional-dependencies"].values() for each in group)
    for root in sorted(foreign):
        names = {name.lower() for name in installed.get(root, [root])}
        assert names & (extra if root in OPTIONAL else needed), f"{root} ({', '.join(names)}) is not in pyproject.toml"
