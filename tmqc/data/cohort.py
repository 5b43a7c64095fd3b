"""Reading and validation of a cohort's CSVs. All faults of all splits are reported at once, by file, row and column.

Cells are read as text, so that an id such as 007 keeps its zeros. `volumes.load_volumes` reads the volumes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations
from pathlib import Path

from tmqc.data.tables import Table, is_name, read_table, write_table
from tmqc.errors import CohortError
from tmqc.settings.text import normalize_name

REQUIRED = ("Subject", "Path", "Study", "Group_bin", "Sex", "Age")
COLUMNS = (*REQUIRED, "Scanner")
RESERVED = ("n/a", "batch")  # written in the trace instead of a subject
MAX_AGE = 120.0

# pandas writes 1 as 1.0 if the column has a missing value.
_GROUPS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")


@dataclass(frozen=True)
class Subject:
    """One scan: `path` absolute, `group` 1 (PD) or 0 (HC), `sex` M or F, `age` in years; None if unknown.

    `where`: row and table of the scan.
    """

    subject: str
    path: Path
    study: str
    group: int
    sex: str | None
    age: float | None
    scanner: str | None
    where: str = field(default="", compare=False)


@dataclass(frozen=True)
class Cohort:
    """The three splits, each in the order of its CSV; empty without a CSV."""

    train: tuple[Subject, ...]
    verification: tuple[Subject, ...]
    test: tuple[Subject, ...]
    warnings: tuple[str, ...]


def read_cohort(
    *, train_csv: Path | None, verification_csv: Path | None, test_csv: Path | None, is_part: bool = False
) -> Cohort:
    """Read and check the CSVs of up to three splits.

    Names of subjects and centers are normalized, so that names that look the same are the same. Without a verification
    CSV, or if it is the test CSV, the test split is used for verification, as in the published scripts, with a warning.
    `is_part`: the CSVs hold only some centers of a cohort, which may lack a class or a verification split.

    Raises CohortError with all faults of all files.
    """
    alone = train_csv is not None and verification_csv is None and not is_part
    shared = _same_file(verification_csv, test_csv) or alone
    paths = {"train": train_csv, "verification": None if shared else verification_csv, "test": test_csv}
    tables = {split: _read_split(Path(path)) for split, path in paths.items() if path is not None}
    faults = [fault for table in tables.values() for fault in (*table.faults, *_find_bad_cells(table))]
    faults = list(dict.fromkeys(faults)) + _find_overlaps(tables)
    faults += [] if is_part else _find_missing_class(tables.get("test" if shared else "verification"))
    if faults:
        raise CohortError(faults)
    splits = {split: _to_subjects(tables[split]) if split in tables else () for split in paths}
    verification = splits["test"] if shared else splits["verification"]
    warnings = [_warn_of_case({row.study for row in chain(*splits.values())})]
    if not is_part and len({row.group for row in splits["train"]}) == 1:
        warnings.append(f"{train_csv}: all training scans are of one class, so a model learns nothing from them.")
    if shared and splits["train"] and splits["test"]:
        warnings.append(
            f"verification and test are the same scans ({test_csv}): reported numbers are optimistic. "
            "Set cohort.verification_csv to a separate split."
        )
    return Cohort(splits["train"], verification, splits["test"], tuple(filter(None, warnings)))


def write_split(path: Path, subjects: Iterable[Subject]) -> None:
    """Write a split as a CSV from which `read_cohort` reads the same rows."""
    write_table(path, COLUMNS, ((s.subject, s.path, s.study, s.group, s.sex, s.age, s.scanner) for s in subjects))


def digest(subjects: Iterable[Subject]) -> str:
    """SHA-256 (hex) of the rows in order: subject, study, group, sex, age, scanner. Without paths: files may move."""
    sha = hashlib.sha256()
    for row in subjects:
        line = json.dumps([row.subject, row.study, row.group, row.sex, row.age, row.scanner])
        sha.update(line.encode() + b"\n")
    return sha.hexdigest()


def profile(subjects: Sequence[Subject]) -> dict[str, int]:
    """Counts of a split, without names or paths: `n_subjects`, `n_pd`, `n_hc`, `n_centers`."""
    n_pd = sum(row.group for row in subjects)
    n_centers = len({row.study for row in subjects})
    return {"n_subjects": len(subjects), "n_pd": n_pd, "n_hc": len(subjects) - n_pd, "n_centers": n_centers}


def _read_split(path: Path) -> Table:
    """Read one CSV and normalize its names, but not its paths, which must match the file system byte for byte."""
    table = read_table(path, REQUIRED, known=COLUMNS[len(REQUIRED) :])
    for row in table.rows.values():
        row.update({name: normalize_name(row[name]) for name in ("Subject", "Study", "Scanner") if name in row})
    is_bare = not table.rows and not table.faults
    return Table(path, table.columns, table.rows, (*table.faults, *[f"{path}: has a header and no subjects"] * is_bare))


def is_subject(text: str) -> bool:
    """Whether an id is valid: the trace joins ids by |, and a corrupted copy is a file named after its subject."""
    return is_name(text) and text not in RESERVED and not set(text) & set("|/\\")


def _is_age(text: str) -> bool:
    return not text or (bool(_NUMBER.fullmatch(text)) and 0 <= float(text) <= MAX_AGE)


_CHECKS: dict[str, tuple[Callable[[str], bool], str]] = {
    "Subject": (is_subject, "a name without | / \\, and not n/a or batch"),
    "Path": (is_name, "the path of a NIfTI file, absolute or relative to the CSV"),
    "Study": (is_name, "the center's name"),
    "Group_bin": (_GROUPS.__contains__, "1 (PD) or 0 (HC)"),
    "Sex": (("M", "F", "").__contains__, "M, F or blank"),
    "Age": (_is_age, f"years from 0 to {MAX_AGE:g}, or blank"),
}


def _find_bad_cells(table: Table) -> list[str]:
    """List invalid cells, one line each, in the order of the rows."""
    faults, first = [], dict[str, int]()
    for line, row in table.rows.items():
        for column, (is_valid, allowed) in _CHECKS.items():
            value = row.get(column)  # None: the column is missing, which is reported separately
            where = f"{table.path}, row {line}, column {column}"
            if value is not None and not is_valid(value):
                what = f"is {value!r}, allowed is" if value else "is blank, expected"
                faults.append(f"{where}: {what} {allowed}")
            elif column == "Subject" and value and first.setdefault(value, line) != line:
                faults.append(f"{where}: {value!r} is already in row {first[value]}")
    return faults


def _find_overlaps(tables: Mapping[str, Table]) -> list[str]:
    """List subjects and scans that are in two splits, and files that are two splits, one line each."""
    faults = []
    for (split, table), (other, others) in combinations(tables.items(), 2):
        if _same_file(table.path, others.path):
            faults.append(f"{table.path}: is both the {split} and the {other} split")
            continue
        reported: set[int] = set()  # report a row once even if both its subject and its scan are shared
        for column, identify in (("Subject", _subjects_of), ("Path", _scans_of)):
            rows = {each: line for line, each in identify(table).items()}
            shared = {k: each for k, each in identify(others).items() if each in rows and k not in reported}
            reported |= set(shared)
            faults += [
                f"{others.path}, row {line}, column {column}: {others.rows[line][column]!r} is in the {other} split "
                f"and in the {split} split ({table.path}, row {rows[each]}), allowed is one split"
                for line, each in shared.items()
            ]
    return faults


def _subjects_of(table: Table) -> dict[int, str]:
    """Map rows to subjects, without rows that have none."""
    return {line: row["Subject"] for line, row in table.rows.items() if row.get("Subject")}


def _scans_of(table: Table) -> dict[int, str]:
    """Map rows to the files that their paths resolve to."""
    folder = table.path.absolute().parent
    return {
        line: os.path.realpath(folder / path)
        for line, row in table.rows.items()
        if is_name(path := row.get("Path", ""))
    }


def _find_missing_class(table: Table | None) -> list[str]:
    found = {_GROUPS.get(row.get("Group_bin", "")) for row in table.rows.values()} if table else set()
    if table is None or found not in ({0}, {1}):  # invalid labels are reported separately
        return []
    lacking, rate = ("HC (0)", "false positive") if found == {1} else ("PD (1)", "false negative")
    return [f"{table.path}: the verification split has no {lacking}, so it has no {rate} rate: add some"]


def _warn_of_case(centers: Iterable[str]) -> str:
    """Warning about centers whose names differ only by case or character width; empty if there are none."""
    alike: dict[str, list[str]] = {}
    for center in sorted(centers):
        alike.setdefault(unicodedata.normalize("NFKC", center).casefold(), []).append(center)
    groups = [" and ".join(map(repr, names)) for names in alike.values() if len(names) > 1]
    found = "; ".join(groups)
    return f"center names that differ only by case: {found}. They count as several centers." if groups else ""


def _to_subjects(table: Table) -> tuple[Subject, ...]:
    folder = table.path.absolute().parent
    return tuple(
        Subject(
            subject=row["Subject"],
            path=folder / row["Path"],
            study=row["Study"],
            group=_GROUPS[row["Group_bin"]],
            sex=row["Sex"] or None,
            age=float(row["Age"]) if row["Age"] else None,
            scanner=row.get("Scanner") or None,
            where=f"{table.path}, row {line}",
        )
        for line, row in table.rows.items()
    )


def _same_file(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)
