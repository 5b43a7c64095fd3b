"""Order of imports between subpackages, allowed libraries, and no access from control to the ground truth."""

from __future__ import annotations

import ast
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tmqc"
# Subpackages and root modules in order; a module may import from its own and from earlier ones.
ROOMS = ["errors", "settings", "core", "data", "phantom", "harm", "model", "rivals", "training", "runs", "federation"]
ROOMS += ["tracking", "report", "pipelines", "sweep", "cli", "__main__"]
HYDRAS = {f"tmqc.sweep.{name}" for name in ("multirun", "compose", "plan", "command_line", "search")}
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports_of(path):
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(module):
    return module.split(".")[1] if "." in module else None  # None for the package itself, which has only its version


def test_modules_import_only_from_their_own_and_earlier_subpackages():
    upward = []
    for path in MODULES:
        ours = {module for module in imports_of(path) if module.split(".")[0] == "tmqc" and room_of(module) in ROOMS}
        if (room := room_of(name_of(path))) is not None:
            upward += [(name_of(path), m) for m in ours if ROOMS.index(room_of(m)) > ROOMS.index(room)]
    assert not upward, "imports from a room above"


def test_there_are_no_circular_imports():
    """Includes imports within functions, but not imports under TYPE_CHECKING."""
    known = {name_of(path): path for path in MODULES}
    graph = {name: (imports_of(path) - hints_of(path)) & known.keys() for name, path in known.items()}
    packages = {name for name, path in known.items() if path.name == "__init__.py"}
    TopologicalSorter({name: ours - packages for name, ours in graph.items()}).prepare()  # raises CycleError


def hints_of(path):
    """Modules imported under `if TYPE_CHECKING`."""
    blocks = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.If)]
    within = [n for b in blocks if ast.unparse(b.test) == "TYPE_CHECKING" for n in b.body]
    return {node.module for node in within if isinstance(node, ast.ImportFrom)}


def test_package_root_has_only_the_expected_modules():
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py", "errors.py"}


def test_core_imports_only_standard_library_numpy_and_scipy():
    allowed = sys.stdlib_module_names - {"random", "time", "logging", "pathlib", "os", "io", "datetime"}
    allowed |= {"numpy", "scipy"}
    others = [
        (name_of(path), module)
        for path in (PACKAGE / "core").glob("*.py")
        for module in imports_of(path)
        if module.split(".")[0] not in allowed and not module.startswith(("tmqc.core", "tmqc.settings.schema"))
    ]
    assert not others


@pytest.mark.parametrize(
    ("library", "modules"),
    [
        ("mlflow", {"tmqc.tracking"}),
        ("hydra", {"tmqc.cli", *HYDRAS}),
        ("optuna", {"tmqc.sweep.search"}),
        ("ray", {"tmqc.sweep.ray_launcher", "tmqc.training.on_ray"}),
        ("tensorflow", {"tmqc.model.backend"}),
        ("jax", {"tmqc.model.backend"}),
        ("nvflare", {"tmqc.federation.flare_job", "tmqc.federation.flare_kit", "tmqc.federation.flare_system"}),
    ],
)
def test_each_library_is_imported_only_by_its_modules(library, modules):
    users = {name_of(path) for path in MODULES if any(m.split(".")[0] == library for m in imports_of(path))}
    assert all(any(user == m or user.startswith(m + ".") for m in modules) for user in users), users


def test_control_modules_do_not_import_the_ground_truth():
    """Follows all imports of the modules that train, verify, decide or score."""
    paths = {name_of(path): path for path in MODULES}
    seen, queue = set(), [m for m in paths if m.startswith(("tmqc.core", "tmqc.rivals", "tmqc.training"))]
    queue += [
        "tmqc.model.learner",
        "tmqc.runs.trace",
        "tmqc.runs.checkpoint",
        "tmqc.pipelines.rules",
        *(f"tmqc.federation.{name}" for name in ("messages", "site", "replies", "caller", "remote", "transport")),
    ]
    assert set(queue) <= set(paths)
    while queue:
        module = queue.pop()
        if module in seen or module not in paths:
            continue
        seen.add(module)
        queue += [m for m in imports_of(paths[module]) if m.split(".")[0] == "tmqc"]
    assert "tmqc.data.truth" not in seen
    assert not any(module.startswith("tmqc.harm") for module in seen)


def test_no_module_imports_pyplot():
    """Its state belongs to the process, which may draw in several threads or have a display of its own."""
    assert not [name_of(path) for path in MODULES if "matplotlib.pyplot" in imports_of(path)]
