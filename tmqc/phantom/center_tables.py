"""How many scans of each class a phantom's centers hold: the packaged tables, or a CSV of the same columns."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from tmqc.errors import CohortError

TABLES = {"demo": "centers_demo.csv", "real83": "centers_83.csv"}
SPLITS = ("train", "verification", "test")
GROUPS = tuple(f"{split}_{group}" for split in SPLITS for group in ("hc", "pd"))
COUNTS = (*GROUPS, "male", "female", "scanner_types")
N_SCANNER_TYPES = 23  # as many as the published cohort has


def read_centers(source: str) -> dict[str, dict[str, int]]:
    """Read a center table: `demo`, `real83` or a CSV's path. Returns the COUNTS by center, in its order.

    Raises:
        CohortError: no such table, or a malformed one; names every fault's row and column at once.
    """
    try:
        if source in TABLES:
            text = (resources.files("tmqc") / "phantom" / "tables" / TABLES[source]).read_text(encoding="utf-8")
        else:
            text = Path(source).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(TABLES)
        raise CohortError(f"center table '{source}': {known} or the path of a CSV is allowed ({error})") from None
    reader = csv.DictReader(text.splitlines())
    rows = list(reader)
    missing = [name for name in ("center", *COUNTS) if name not in (reader.fieldnames or [])]
    faults = [f"column {name} is missing" for name in missing]
    if not missing:
        faults = [f"row {n}, column {fault}" for n, row in enumerate(rows, start=2) for fault in _row_faults(row)]
        names = [row["center"] for row in rows]
        faults += [f"column center: '{name}' is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        if not faults and not any(int(row["train_hc"]) + int(row["train_pd"]) for row in rows):
            faults.append("columns train_hc and train_pd: no center has a training scan")
    if faults:
        raise CohortError([f"center table '{source}': {fault}" for fault in faults])
    return {row["center"]: {name: int(row[name]) for name in COUNTS} for row in rows}


def _row_faults(row: Mapping[str, str | None]) -> list[str]:
    faults = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", row["center"] or ""):
        faults.append(f"center: {row['center']!r}; letters, digits, - and _ are allowed")
    faults += [
        f"{name}: {row[name]!r} is not a whole number of 0 or more"
        for name in COUNTS
        if not re.fullmatch(r"[0-9]{1,6}", row[name] or "")
    ]
    if not faults and not 1 <= int(row["scanner_types"] or 0) <= N_SCANNER_TYPES:
        faults.append(f"scanner_types: {row['scanner_types']}; 1..{N_SCANNER_TYPES} is allowed")
    if not faults and int(row["male"] or 0) + int(row["female"] or 0) == 0:
        faults.append("male, female: both are 0, which is no share")
    return faults
