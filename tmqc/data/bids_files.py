"""The files of a BIDS dataset: scans by the entities in their names, and the metadata in their JSON sidecars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmqc.errors import CohortError

NONE = "none"  # as an entity's value: the entity is not there


@dataclass(frozen=True)
class BidsFile:
    """One file and the entities in its name, such as {sub: 01, ses: 02}."""

    path: Path
    entities: Mapping[str, str]


def parse_name(path: Path) -> BidsFile:
    """Split `sub-01_ses-02_T1w.nii.gz` into its entities; the suffix and what follows it are left out."""
    parts = (part.split("-", 1) for part in path.name.split(".")[0].split("_"))
    return BidsFile(path, {pair[0]: pair[1] for pair in parts if len(pair) == 2})


def find_files(root: Path, suffix: str, entities: Mapping[str, str]) -> dict[str, list[BidsFile]]:
    """The NIfTI files `root`/sub-*/[ses-*/]anat/*_`suffix` whose entities are these, by person (sub-01)."""
    files: dict[str, list[BidsFile]] = {}
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for path in sorted(root.glob(f"{pattern}/*_{suffix}.nii*")):
            file = parse_name(path)
            found = {name: file.entities.get(name, NONE) for name in entities}
            if path.name.endswith((".nii", ".nii.gz")) and found == dict(entities):
                files.setdefault(f"sub-{file.entities.get('sub', '')}", []).append(file)
    return files


def describe_difference(files: Sequence[BidsFile]) -> str:
    """How files of one scan differ, and what to do."""
    values = {name: {file.entities.get(name, NONE) for file in files} for file in files for name in file.entities}
    differing = {name: sorted(found) for name, found in values.items() if len(found) > 1}
    if not differing:
        return f"{', '.join(str(file.path) for file in files)}: remove all but one"
    name, first = next(iter(differing.items()))
    found = "; ".join(f"{entity}: {', '.join(labels)}" for entity, labels in differing.items())
    return f"they differ in {found}; choose one (--entities {name}={first[0]}) or take all (--every {name})"


def read_sidecars(file: BidsFile, root: Path, suffix: str, *, raw: Path) -> dict[str, Any]:
    """Metadata of a scan from its sidecars: the nearer one wins (inheritance principle), derivatives' over raw data's.

    Args:
        file: of the scan.
        root: of the dataset, or of the derivatives, in which it lies.
        suffix: of the sidecars.
        raw: of the dataset that the derivatives were made of.

    Raises:
        CohortError: one is not a JSON object.
    """
    facts: dict[str, Any] = {}
    folder = file.path.parent.relative_to(root)
    for base in dict.fromkeys((raw, root)):
        for part in reversed((folder, *folder.parents)):
            for path in sorted((base / part).glob(f"*{suffix}.json")):
                is_suffix = path.name == f"{suffix}.json" or path.name.endswith(f"_{suffix}.json")
                if is_suffix and parse_name(path).entities.items() <= file.entities.items():
                    facts |= _read_json(path)
    return facts


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise CohortError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(facts, dict):
        raise CohortError(f"{path}: is not a JSON object")
    return facts
