"""The package declares all libraries that it imports, instead of relying on transitive dependencies."""

from __future__ import annotations

import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from test_architecture import MODULES, imports_of

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))["project"]
OPTIONAL = {"jax", "nvflare", "optuna", "psutil", "ray"}  # in modules that are imported only on demand


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
