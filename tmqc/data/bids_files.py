"""Files of a BIDS dataset: scans found by the entities in their names, and metadata from their JSON sidecars."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmqc.errors import CohortError

NONE = "none"  # value of an absent entity


@dataclass(frozen=True)
class BidsFile:
    """One file and the entities in its name, such as {sub: 01, ses: 02}."""

    path: Path
    entities: Mapping[str, str]


def parse_name(path: Path) -> BidsFile:
    """Split a name such as `sub-01_ses-02_T1w.nii.gz` into its entities, without the suffix and extension."""
    parts = (part.split("-", 1) for part in path.name.split(".")[0].split("_"))
    return BidsFile(path, {pair[0]: pair[1] for pair in parts if len(pair) == 2})


def find_files(root: Path, suffix: str, entities: Mapping[str, str]) -> dict[str, list[BidsFile]]:
    """Find the NIfTI files `root`/sub-*/[ses-*/]anat/*_`suffix` with these entities, by person (sub-01)."""
    files: dict[str, list[BidsFile]] = {}
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        for path in sorted(root.glob(f"{pattern}/*_{suffix}.nii*")):
            file = parse_name(path)
            found = {name: file.entities.get(name, NONE) for name in entities}
            if path.name.endswith((".nii", ".nii.gz")) and found == dict(entities):
                files.setdefault(f"sub-{file.entities.get('sub', '')}", []).append(file)
    return files


def describe_difference(files: Sequence[BidsFile]) -> str:
    """Describe how several files of one scan differ, and what to do about it."""
    values = {name: {file.entities.get(name, NONE) for file in files} for file in files for name in file.entities}
    differing = {name: sorted(found) for name, found in values.items() if len(found) > 1}
    if not differing:
        return f"{', '.join(str(file.path) for file in files)}: remove all but one"
    name, first = next(iter(differing.items()))
    found = "; ".join(f"{entity}: {', '.join(labels)}" for entity, labels in differing.items())
    return f"they differ in {found}; choose one (--entities {name}={first[0]}) or take all (--every {name})"


def read_sidecars(file: BidsFile, root: Path, suffix: str, *, raw: Path) -> dict[str, Any]:
    """Read a scan's sidecars; nearer ones take precedence (inheritance principle), and derivatives over raw data.

    Args:
        file: the scan.
        root: directory of the dataset or derivatives that contain it.
        suffix: of the sidecars.
        raw: directory of the dataset that the derivatives were made from.

    Raises:
        CohortError: a sidecar is not a JSON object.
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
