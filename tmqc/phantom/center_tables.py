"""Tables of the numbers of scans per center and class in a phantom cohort: packaged ones, or a CSV."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from tmqc.data.splits import SPLITS
from tmqc.data.tables import read_table
from tmqc.errors import CohortError

TABLES = {"demo": "centers_demo.csv", "real83": "centers_83.csv"}
GROUPS = tuple(f"{split}_{group}" for split in SPLITS for group in ("hc", "pd"))
COUNTS = (*GROUPS, "male", "female", "scanner_types")
N_SCANNER_TYPES = 23  # as in the published cohort


def read_centers(source: str) -> dict[str, dict[str, int]]:
    """Read a center table: `demo`, `real83` or the path of a CSV. Returns center -> COUNTS, in the table's order.

    Raises:
        CohortError: the table does not exist or is invalid; lists all faults by row and column.
    """
    packaged = resources.files("tmqc") / "phantom" / "tables" / TABLES.get(source, "")
    with resources.as_file(packaged) as path:
        table = read_table(path if source in TABLES else Path(source).expanduser(), ("center", *COUNTS))
    faults = list(table.faults)
    if {"center", *COUNTS} <= set(table.columns):
        faults += [f"row {line}, column {fault}" for line, row in table.rows.items() for fault in _row_faults(row)]
        times = Counter(row["center"] for row in table.rows.values())
        faults += [f"column center: '{name}' occurs twice" for name, n in times.items() if n > 1]
        if not faults and not any(int(row["train_hc"]) + int(row["train_pd"]) for row in table.rows.values()):
            faults.append("columns train_hc and train_pd: no center has a training scan")
    if faults:
        known = f"; allowed are {', '.join(TABLES)} and the path of a CSV" * (not table.columns)
        raise CohortError([f"center table '{source}': {fault}{known}" for fault in faults])
    return {row["center"]: {name: int(row[name]) for name in COUNTS} for row in table.rows.values()}


def _row_faults(row: Mapping[str, str]) -> list[str]:
    faults = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", row["center"]):
        faults.append(f"center: {row['center']!r}; letters, digits, - and _ are allowed")
    faults += [
        f"{name}: {row[name]!r} is not a whole number of 0 or more"
        for name in COUNTS
        if not re.fullmatch(r"[0-9]{1,6}", row[name])
    ]
    if not faults and not 1 <= int(row["scanner_types"]) <= N_SCANNER_TYPES:
        faults.append(f"scanner_types: {row['scanner_types']}; 1..{N_SCANNER_TYPES} is allowed")
    if not faults and int(row["male"]) + int(row["female"]) == 0:
        faults.append("male, female: both are 0, at least one must be above 0")
    return faults
