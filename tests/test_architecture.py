"""Imports point down only, `core` is pure, and the truth is out of the control side's reach."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tmqc"
# From the ground to the roof; a module may import from its own floor and those below it.
FLOORS = [
    {"tmqc", "tmqc.errors", "tmqc.config", "tmqc.provenance"},
    {"tmqc.core"},
    {"tmqc.truth", "tmqc.models", "tmqc.backend", "tmqc.checkpoint", "tmqc.rundir", "tmqc.explain", "tmqc.signals"}
    | {"tmqc.cycle_choice", "tmqc.federation.rules"},
    {
        "tmqc.data",
        "tmqc.sameness",
        "tmqc.learner",
        "tmqc.scorer",
        "tmqc.travel",
        "tmqc.control",
        "tmqc.screening",
        "tmqc.journal",
        "tmqc.trace",
        "tmqc.federation.site_settings",  # with the tables of tokens, which the report of a simulation reads
    },
    {
        "tmqc.centers",
        "tmqc.tracking",
        "tmqc.report",
        "tmqc.progress",
        "tmqc.rivals",
        "tmqc.validate",
        "tmqc.validate_qc",
        "tmqc.batch_size",
        "tmqc.verifiers",
        "tmqc.lookahead",
    },
    {"tmqc.pipelines", "tmqc.study", "tmqc.bench", "tmqc.federation"},
    {"tmqc.jobs", "tmqc.pretrain", "tmqc.sweep"},
    {"tmqc.cli", "tmqc.multirun", "tmqc.spelling"},
    {"tmqc.__main__"},
]
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def floor_of(module):
    while module not in {name for floor in FLOORS for name in floor}:
        module = module.rpartition(".")[0]
        assert module, "a module that stands on no floor"
    return next(i for i, floor in enumerate(FLOORS) if module in floor)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path):
    floor = floor_of(name_of(path))
    for module in imports_of(path):
        if module.split(".")[0] == "tmqc":
            assert floor_of(module) <= floor, f"{name_of(path)} imports {module}, which stands above it"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=name_of)
def test_core_is_standard_library_and_numpy(path):
    allowed = sys.stdlib_module_names - {"random", "time", "logging", "pathlib", "os", "io", "datetime"}
    for module in imports_of(path):
        root = module.split(".")[0]
        assert root in allowed | {"numpy"} or module.startswith("tmqc.core"), f"{name_of(path)} imports {module}"


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("mlflow", {"tmqc.tracking"}),
        ("hydra", {"tmqc.cli", "tmqc.multirun", "tmqc.spelling"}),
        ("tensorflow", {"tmqc.backend"}),
        ("jax", {"tmqc.backend"}),
        ("cleanlab", {"tmqc.rivals.model"}),
        ("nvflare", {"tmqc.federation.flare_job", "tmqc.federation.flare_kit", "tmqc.federation.flare_system"}),
    ],
)
def test_each_library_has_one_room(library, modules):
    users = {name_of(path) for path in MODULES if any(m.split(".")[0] == library for m in imports_of(path))}
    assert all(any(user == m or user.startswith(m + ".") for m in modules) for user in users), users


def test_the_control_side_cannot_reach_the_truth():
    """Follow imports from everything that trains, verifies, decides or scores: the truth is never among them."""
    paths = {name_of(path): path for path in MODULES}
    seen, queue = set(), [m for m in paths if m.startswith(("tmqc.core", "tmqc.rivals", "tmqc.verifiers"))]
    queue += [
        "tmqc.travel",
        "tmqc.control",
        "tmqc.screening",
        "tmqc.lookahead",
        "tmqc.centers",
        "tmqc.learner",
        "tmqc.scorer",
        "tmqc.journal",
        "tmqc.trace",
        "tmqc.checkpoint",
        "tmqc.pipelines.rules",
        "tmqc.pipelines.likeness",
        *(f"tmqc.federation.{name}" for name in ("messages", "site", "replies", "caller", "remote", "transport")),
    ]
    assert set(queue) <= set(paths)
    while queue:
        module = queue.pop()
        if module in seen or module not in paths:
            continue
        seen.add(module)
        queue += [m for m in imports_of(paths[module]) if m.split(".")[0] == "tmqc"]
    assert "tmqc.truth" not in seen
    assert "tmqc.data.harmful" not in seen
