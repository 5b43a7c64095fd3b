"""Provenance of results: code revision, device and library versions."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tmqc import __version__

_LIBRARIES = ("tensorflow", "keras", "jax", "numpy", "nibabel", "pandas", "scikit-learn", "mlflow", "hydra-core")


def git_revision() -> str | None:
    """Return the commit of the package, with `+changes` if the tree differs; None outside a clone or without git."""
    package = Path(__file__).resolve().parents[1]
    if not (package.parent / ".git").exists():
        return None
    try:
        git = ["git", "-C", str(package.parent)]
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if changes.stdout.strip() else "")


def versions() -> dict[str, str]:
    """Return the versions of tmqc, Python and the installed libraries."""
    found = {"tmqc": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


_FACTS = ("device", "backend", "platform", "git_revision")


def environment(*, device: str, backend: str) -> dict[str, str]:
    """Describe the environment of a run: device, operating system, code revision if known, versions."""
    revision = git_revision()
    facts = {"device": device, "backend": backend, "platform": platform.platform()}
    return {**facts, **({"git_revision": revision} if revision else {}), **versions()}


def environment_tags(found: Mapping[str, str]) -> dict[str, str]:
    """Convert the result of `environment` to tags of the tracker, with versions as `version.keras`."""
    return {name if name in _FACTS else f"version.{name}": value for name, value in found.items()}
