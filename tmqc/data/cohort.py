"""A cohort's CSVs -> validated rows. Every fault of every split is reported at once, by file, row and column.

Everything is read as text first, so that an id such as 007 keeps its zeros. Volumes are not looked at here
(`volumes.load_volumes` does that).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from tmqc.errors import CohortError

REQUIRED = ("Subject", "Path", "Study", "Group_bin", "Sex", "Age")
COLUMNS = (*REQUIRED, "Scanner")
RESERVED = ("n/a", "batch")  # what the trace writes in place of a subject (METHOD section 10)
MAX_AGE = 120.0

# A CSV that passed through pandas with a gap in it holds 1.0 where 1 was meant.
_GROUPS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER = re.compile(r"[0-9]+(\.[0-9]*)?")
_NOTHING = pd.Series(dtype=object)


@dataclass(frozen=True)
class Subject:
    """One scan: `path` absolute, `group` 1 (PD) or 0 (HC), `sex` M or F, `age` in years; None: not known."""

    subject: str
    path: Path
    study: str
    group: int
    sex: str | None
    age: float | None
    scanner: str | None


@dataclass(frozen=True)
class Cohort:
    """The three splits, each in its CSV's order; empty where no CSV was given."""

    train: tuple[Subject, ...]
    verification: tuple[Subject, ...]
    test: tuple[Subject, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Table:
    # Text; index = line number as an editor shows it, columns = those of COLUMNS that are there.
    path: Path
    frame: pd.DataFrame


def read_cohort(
    *, train_csv: Path | None, verification_csv: Path | None, test_csv: Path | None, is_part: bool = False
) -> Cohort:
    """Read and check the CSVs of up to three splits.

    Without a verification CSV, or with the test CSV in its place, a cohort to train on is verified on its
    test split, as the published scripts do, and a warning says so. `is_part`: these are some centers of a cohort
    only, which may lack a class or a verification split.

    Raises CohortError with every fault found in any of the files. Source: METHOD section 2.
    """
    alone = train_csv is not None and verification_csv is None and not is_part
    shared = _same_file(verification_csv, test_csv) or alone
    paths = {"train": train_csv, "verification": None if shared else verification_csv, "test": test_csv}
    read = {split: _read_table(Path(path)) for split, path in paths.items() if path is not None}
    tables = {split: table for split, (table, _) in read.items() if table is not None}
    faults = list(dict.fromkeys(fault for _, found in read.values() for fault in found))
    faults += _find_overlaps(tables)
    faults += [] if is_part else _find_missing_class(tables.get("test" if shared else "verification"))
    if faults:
        raise CohortError(faults)
    splits = {split: _to_subjects(tables[split]) if split in tables else () for split in paths}
    verification = splits["test"] if shared else splits["verification"]
    warning = (
        f"verification and test are the same scans ({test_csv}): reported numbers are optimistic. "
        "Give cohort.verification_csv a split of its own."
    )
    warn = shared and bool(splits["train"] and splits["test"])
    return Cohort(splits["train"], verification, splits["test"], (warning,) if warn else ())


def digest(subjects: Iterable[Subject]) -> str:
    """SHA-256 (hex) of the rows in order: subject, study, group, sex, age. Not of the paths: files move."""
    sha = hashlib.sha256()
    for row in subjects:
        line = json.dumps([row.subject, row.study, row.group, row.sex, row.age])
        sha.update(line.encode() + b"\n")
    return sha.hexdigest()


def _is_name(text: str) -> bool:
    return bool(text) and not _CONTROL.search(text)


def _is_subject(text: str) -> bool:
    # The trace joins ids by |, and a subject names the file of its corrupted copy.
    return _is_name(text) and text not in RESERVED and not set(text) & set("|/\\")


def _is_age(text: str) -> bool:
    return not text or (bool(_NUMBER.fullmatch(text)) and 0 <= float(text) <= MAX_AGE)


def _column(is_valid: Callable[[str], bool], allowed: str, *, unique: bool = False) -> pa.Column:
    check = pa.Check(is_valid, element_wise=True, error=allowed)
    return pa.Column(checks=check, unique=unique, report_duplicates="exclude_first")


_SCHEMA = pa.DataFrameSchema(
    {
        "Subject": _column(_is_subject, "a name without | / \\, and not n/a or batch", unique=True),
        "Path": _column(_is_name, "the path of a NIfTI file, absolute or relative to the CSV"),
        "Study": _column(_is_name, "the center's name"),
        "Group_bin": _column(lambda text: text in _GROUPS, "1 (PD) or 0 (HC)"),
        "Sex": _column(lambda text: text in ("M", "F", ""), "M, F or blank"),
        "Age": _column(_is_age, f"years from 0 to {MAX_AGE:g}, or blank"),
    }
)


def _read_text(path: Path) -> str:
    """Read the CSV's text without its byte-order mark. Raises CohortError."""
    try:
        raw = path.read_bytes()
    except OSError as error:  # missing, a directory, no permission: the system's own words say which
        raise CohortError(f"{path}: cannot be read as a CSV: {error.strerror}") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"{path}, row {raw.count(10, 0, error.start) + 1}"
        raise CohortError(f"{where}: not UTF-8 text: not a CSV, or to be saved as 'CSV UTF-8'") from None


def _split_rows(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, stripped cells) of every row that is not blank, header first. Raises CohortError."""
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True, skipinitialspace=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1  # a quoted cell may hold line breaks: a row starts on the line after the last one's end
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                rows.append((line, stripped))
            line = reader.line_num + 1
    except csv.Error as error:
        raise CohortError(f"{path}, row {line}: not a CSV ({error})") from None
    if not rows:
        raise CohortError(f"{path}: is empty, expected a header with {', '.join(REQUIRED)}")
    return rows


def _read_table(path: Path) -> tuple[_Table | None, list[str]]:
    """Return the CSV as text and its faults; None where the faults leave no table."""
    try:
        (_, header), *rows = _split_rows(path)
    except CohortError as error:
        return None, error.faults
    faults = [f"{path}: column {name} is there twice" for name in COLUMNS if header.count(name) > 1]
    missing = [name for name in REQUIRED if name not in header]
    if missing:
        hint = "; cells are to be separated by commas" if len(header) == 1 else ""
        faults.append(f"{path}: no column {', '.join(missing)}; the header has {', '.join(header)}{hint}")
    if not rows:
        faults.append(f"{path}: has a header and no subjects")
    n = len(header)
    ragged = [(line, len(cells)) for line, cells in rows if len(cells) != n]
    faults += [f"{path}, row {line}: {k} values, but the header has {n} columns" for line, k in ragged]
    whole = {line: cells for line, cells in rows if len(cells) == n}
    present = [name for name in COLUMNS if name in header]
    columns = {name: [cells[header.index(name)] for cells in whole.values()] for name in present}
    table = _Table(path, pd.DataFrame(columns, index=list(whole), dtype=object))
    return table, faults + _find_bad_cells(table)


def _find_bad_cells(table: _Table) -> list[str]:
    """One line per cell that the schema refuses, in the order of the rows."""
    present = [name for name in REQUIRED if name in table.frame]
    try:
        _SCHEMA.select_columns(present).validate(table.frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        found = zip(cases["index"], cases["column"], cases["check"], cases["failure_case"], strict=True)
    else:
        return []
    lines: list[tuple[int, int, str]] = []
    for row, column, check, value in found:
        what = f"is {value!r}, allowed is {check}" if value else f"is blank, expected {check}"
        if check == "field_uniqueness":
            if not value:  # blank ids are not the same id twice
                continue
            what = f"{value!r} is already in row {table.frame.index[table.frame['Subject'] == value][0]}"
        lines.append((row, REQUIRED.index(column), f"{table.path}, row {row}, column {column}: {what}"))
    return [text for *_, text in sorted(lines)]


def _find_overlaps(tables: Mapping[str, _Table]) -> list[str]:
    """One line per subject or scan that two splits hold, or per file that is two splits."""
    faults = []
    for (split, table), (other, others) in combinations(tables.items(), 2):
        if _same_file(table.path, others.path):
            faults.append(f"{table.path}: is both the {split} and the {other} split")
            continue
        told: set[Hashable] = set()  # a row that is in both splits is one fault
        for column, identify in (("Subject", _subjects_of), ("Path", _scans_of)):
            rows = {each: row for row, each in identify(table).items()}
            shared = {row: each for row, each in identify(others).items() if each in rows and row not in told}
            told |= set(shared)
            typed = dict(others.frame.get(column, _NOTHING).items())
            faults += [
                f"{others.path}, row {row}, column {column}: {typed[row]!r} is in the {other} split "
                f"and in the {split} split ({table.path}, row {rows[each]}), allowed is one split"
                for row, each in shared.items()
            ]
    return faults


def _subjects_of(table: _Table) -> dict[Hashable, str]:
    """Row -> subject, where there is one."""
    return {row: subject for row, subject in table.frame.get("Subject", _NOTHING).items() if subject}


def _scans_of(table: _Table) -> dict[Hashable, str]:
    """Row -> the file that its path leads to, links and all."""
    folder = table.path.absolute().parent
    paths = table.frame.get("Path", _NOTHING).items()
    return {row: os.path.realpath(folder / path) for row, path in paths if _is_name(path)}


def _find_missing_class(table: _Table | None) -> list[str]:
    found = {_GROUPS.get(text) for text in table.frame.get("Group_bin", ())} if table else set()
    if table is None or found not in ({0}, {1}):  # a bad label has its own line already
        return []
    lacking, rate = ("HC (0)", "false positive") if found == {1} else ("PD (1)", "false negative")
    return [f"{table.path}: the verification split has no {lacking}, so it has no {rate} rate: add some"]


def _to_subjects(table: _Table) -> tuple[Subject, ...]:
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
        )
        for row in table.frame.to_dict("records")
    )


def _same_file(one: Path | None, other: Path | None) -> bool:
    return one is not None and other is not None and os.path.realpath(one) == os.path.realpath(other)
