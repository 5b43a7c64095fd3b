"""Conversion of a BIDS dataset to a cohort, from `participants.tsv`, the scans' entities and their JSON sidecars.

Scans are not opened: whether they share a grid is checked when a run loads them. BIDS:
https://bids-specification.readthedocs.io, version 1.10.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tmqc.data.bids_files import BidsFile, describe_difference, find_files, read_sidecars
from tmqc.data.cohort import MAX_AGE, Subject, is_subject
from tmqc.data.tables import read_table
from tmqc.errors import CohortError
from tmqc.settings.text import normalize_name

CENTER_COLUMNS = ("site", "center", "centre", "study", "site_id")
GROUP_COLUMNS = ("group", "diagnosis", "dx", "participant_group")
PD_WORDS = ("pd", "parkinson", "parkinsons", "parkinson's disease", "parkinson disease")
HC_WORDS = ("hc", "control", "controls", "healthy", "healthy control", "healthy controls", "nc")
_SEXES = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "", "other": "", "n/a": "", "": ""}
_CAPPED = re.compile(r"(?:>=?\s*)?([0-9]+)\s*\+|>=?\s*([0-9]+)")
_SCANNER = ("Manufacturer", "ManufacturersModelName", "MagneticFieldStrength")


@dataclass(frozen=True)
class BidsOptions:
    """Selection and interpretation of a dataset.

    Attributes:
        dataset: directory of the dataset, with `participants.tsv`.
        derivatives: directory of the scans, within `dataset`/derivatives or any other; None: `dataset`.
        suffix: of the scans, such as T1w.
        entities: entity -> value that a scan must have; `none`: it must not have the entity.
        every: entities (ses, run) of which every value is a separate scan; otherwise a person must have one scan.
        center: column of `participants.tsv` or else field of the sidecars; None: the first of CENTER_COLUMNS.
        one_center: name of the only center, instead of `center`.
        group: column of the diagnosis; None: the first of GROUP_COLUMNS.
        pd: further words for PD.
        hc: further words for HC.
        other_groups: words for people to leave out.
        capped_ages: meaning of an age such as 90+: None: an error; `bound`: 90; `blank`: unknown.
        leave_out_incomplete: whether people without a scan, a group or a center are left out instead of an error.
    """

    dataset: Path
    derivatives: str | None = None
    suffix: str = "T1w"
    entities: Mapping[str, str] = field(default_factory=dict)
    every: tuple[str, ...] = ()
    center: str | None = None
    one_center: str | None = None
    group: str | None = None
    pd: tuple[str, ...] = ()
    hc: tuple[str, ...] = ()
    other_groups: tuple[str, ...] = ()
    capped_ages: str | None = None
    leave_out_incomplete: bool = False


def read_bids(options: BidsOptions) -> tuple[dict[str, list[Subject]], list[str]]:
    """Read participants and find their scans.

    Returns:
        The scans of every person, by `participant_id`; the people left out, with reasons, one line each.

    Raises:
        CohortError: lists every fault of the table, the files and their sidecars.
    """
    table = read_table(options.dataset / "participants.tsv", ("participant_id",), delimiter="\t")
    root = _find_root(options)
    missing = _find_missing_columns(table.columns, options) if table.columns else []
    if faults := [*table.faults, *missing, *([] if root.is_dir() else [f"{root}: there is no such directory"])]:
        raise CohortError(faults)
    pd, hc = _group_words(options)
    if both := sorted(pd & hc):
        raise CohortError(f"{', '.join(both)}: cannot be both PD and HC")
    files = find_files(root, options.suffix, options.entities)
    people: dict[str, list[Subject]] = {}
    left_out: list[str] = []
    first: dict[str, int] = {}
    for line, row in table.rows.items():
        person, where = "sub-" + normalize_name(row["participant_id"]).removeprefix("sub-"), f"{table.path}, row {line}"
        if first.setdefault(person, line) != line:
            faults.append(f"{where}: {person} is already in row {first[person]}")
            continue
        found = files.pop(person, [])
        if _word(row.get(_pick(table.columns, options.group, GROUP_COLUMNS), "")) in map(_word, options.other_groups):
            left_out.append(f"{where}: {person} belongs to a group that is left out")
            continue
        scans, wrong, lacking = _read_person(person, where, row, files=found, root=root, options=options)
        if lacking and options.leave_out_incomplete:
            left_out += lacking
        elif wrong or lacking:
            faults += [*wrong, *lacking]
        else:
            people[person] = scans
    strangers = [f"{found[0].path}: {person} is not in {table.path}" for person, found in files.items()]
    (left_out if options.leave_out_incomplete else faults).extend(strangers)
    if not faults and not people:
        faults.append(f"{root}: no person has both a group and a {options.suffix} scan that matches the entities")
    if faults:
        raise CohortError(faults)
    return people, left_out


def _find_root(options: BidsOptions) -> Path:
    if options.derivatives is None:
        return options.dataset
    within = options.dataset / "derivatives" / options.derivatives
    return within if within.is_dir() else Path(options.derivatives)


def _find_missing_columns(columns: Sequence[str], options: BidsOptions) -> list[str]:
    has, path = f"the header has {', '.join(columns)}", options.dataset / "participants.tsv"
    faults = []
    if options.one_center is None and options.center is None and not set(CENTER_COLUMNS) & set(columns):
        faults.append(
            f"{path}: no column {', '.join(CENTER_COLUMNS)}; {has}; name the center's column or the sidecars' field "
            "(such as InstitutionName) by --center, or the only center by --one-center"
        )
    if not set(GROUP_COLUMNS if options.group is None else (options.group,)) & set(columns):
        wanted = options.group or ", ".join(GROUP_COLUMNS)
        faults.append(f"{path}: no column {wanted}; {has}; name the column of the diagnosis by --group")
    return faults


def _pick(columns: Collection[str], given: str | None, usual: Sequence[str]) -> str:
    """The given column, else the first of the usual ones that exists; empty if none does."""
    return given or next((name for name in usual if name in columns), "")


def _word(text: str) -> str:
    return normalize_name(text).casefold().replace("\u2019", "'")


def _group_words(options: BidsOptions) -> tuple[set[str], set[str]]:
    """The words for PD and the words for HC."""
    return {_word(word) for word in (*PD_WORDS, *options.pd)}, {_word(word) for word in (*HC_WORDS, *options.hc)}


def _read_person(
    person: str,
    where: str,
    row: Mapping[str, str],
    *,
    files: Sequence[BidsFile],
    root: Path,
    options: BidsOptions,
) -> tuple[list[Subject], list[str], list[str]]:
    """Scans of a person, faults of the row and files, and required items that are missing."""
    group, age, sex, faults, lacking = _parse_row(where, row, options)
    if not files:
        lacking.append(f"{where}: {person} has no matching {options.suffix} scan in {root}")
    scans: dict[str, BidsFile] = {}
    for name, alike in _group_files(person, files, options.every).items():
        scans[name] = alike[0]
        if len(alike) > 1:
            faults.append(f"{where}: {name} has {len(alike)} matching scans, {describe_difference(alike)}")
    subjects = []
    for name, file in scans.items():
        if not file.path.is_file():
            faults.append(f"{file.path}: is a link to a missing file; in a DataLad dataset, run datalad get on it")
        try:
            facts = read_sidecars(file, root, options.suffix, raw=options.dataset)
        except CohortError as error:
            faults += error.faults
            continue
        column = _pick(row, options.center, CENTER_COLUMNS)
        center = normalize_name(options.one_center or row.get(column) or str(facts.get(column) or ""))
        if _word(center) in ("", "n/a"):
            lacking.append(f"{where}, column {column}: {name} has no center")
        if not is_subject(name):
            faults.append(f"{where}: {name!r} is not a valid id, allowed are letters and digits after sub-")
        scanner = normalize_name(" ".join(str(facts[key]) for key in _SCANNER if facts.get(key))) or None
        subjects.append(Subject(name, file.path.absolute(), center, group, sex, age, scanner, where))
    return subjects, faults, lacking


def _parse_row(
    where: str, row: Mapping[str, str], options: BidsOptions
) -> tuple[int, float | None, str | None, list[str], list[str]]:
    """Group, age and sex of a person, faults of the row, and required items that are missing."""
    faults, lacking = [], []
    column = _pick(row, options.group, GROUP_COLUMNS)
    pd, hc = _group_words(options)
    word = _word(row.get(column, ""))
    if word in ("", "n/a"):
        lacking.append(f"{where}, column {column}: has no group")
    elif word not in pd | hc:
        faults.append(
            f"{where}, column {column}: is {row[column]!r}, known are {', '.join(sorted(hc))} (HC) and "
            f"{', '.join(sorted(pd))} (PD); assign it by --hc, --pd or --other-groups"
        )
    text = row.get("age", "")
    age, wrong = _parse_age(text, options.capped_ages)
    faults += [f"{where}, column age: is {text!r}, {wrong}"] * bool(wrong)
    if (sex := _word(row.get("sex", ""))) not in _SEXES:
        faults.append(f"{where}, column sex: is {row['sex']!r}, allowed are m, male, f, female, o, other and n/a")
    return int(word in pd), age, _SEXES.get(sex) or None, faults, lacking


def _parse_age(text: str, capped: str | None) -> tuple[float | None, str]:
    """Age in years, None if unknown, and the fault of the cell, empty if there is none."""
    if text.casefold() in ("", "n/a"):
        return None, ""
    if match := _CAPPED.fullmatch(text):
        if capped is None:
            return None, "a capped age (that many years or more): give --capped-ages bound or blank"
        text = match[1] or match[2]
        if capped == "blank":
            return None, ""
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", text) and 0 <= float(text) <= MAX_AGE:
        return float(text), ""
    return None, f"allowed are years from 0 to {MAX_AGE:g}, with a decimal point, and n/a"


def _group_files(person: str, files: Sequence[BidsFile], every: Sequence[str]) -> dict[str, list[BidsFile]]:
    """Group files by the id of their scan; a group of more than one file is a fault."""
    groups: dict[str, list[BidsFile]] = {}
    for file in files:
        labels = [f"{entity}-{file.entities[entity]}" for entity in every if entity in file.entities]
        groups.setdefault("_".join([person, *labels]), []).append(file)
    return groups
