"""Ground truth: the manifest of corrupted scans with kind, parameters and seed, for evaluation only.

Neither training nor control may import this module; a test enforces it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tmqc.data.tables import is_name, read_table, write_table
from tmqc.errors import InputError
from tmqc.settings.text import normalize_name

COLUMNS = ("Subject", "Study", "Kind", "Parameters", "Seed")

Value = bool | int | float | str


@dataclass(frozen=True)
class Harm:
    """One corrupted scan: `parameters` of its kind, sorted by name; `seed` of this scan."""

    subject: str
    study: str
    kind: str
    parameters: tuple[tuple[str, Value], ...]
    seed: int

    @property
    def source(self) -> str:
        """The subject whose scan was corrupted: `subject` itself, unless this is an extra copy."""
        return str(dict(self.parameters).get("source", self.subject))


@dataclass(frozen=True)
class Truth:
    """All corrupted scans of a cohort, each subject once."""

    harms: tuple[Harm, ...]

    @cached_property
    def subjects(self) -> frozenset[str]:
        """Subjects with a corrupted scan."""
        return frozenset(self.kinds)

    @cached_property
    def centers(self) -> frozenset[str]:
        """Centers with at least one corrupted scan."""
        return frozenset(harm.study for harm in self.harms)

    @cached_property
    def kinds(self) -> Mapping[str, str]:
        """Map subjects to the kinds of their corruptions."""
        return {harm.subject: harm.kind for harm in self.harms}

    def renamed(self, names: Mapping[str, str]) -> Truth:
        """The same truth with subjects renamed; subjects that are not in `names` are left out."""
        known = [harm for harm in self.harms if harm.subject in names]
        return Truth(tuple(replace(harm, subject=names[harm.subject]) for harm in known))


def write_truth(path: Path, truth: Truth) -> None:
    """Write the manifest atomically as a CSV that `read_truth` reads back unchanged."""
    write_table(
        path,
        COLUMNS,
        (
            (harm.subject, harm.study, harm.kind, json.dumps(dict(harm.parameters), sort_keys=True), harm.seed)
            for harm in truth.harms
        ),
    )


def read_truth(path: Path) -> Truth:
    """Read a manifest; columns other than COLUMNS are ignored. Without rows, no scan is corrupted.

    Raises:
        InputError: lists every fault of the file by row and column.
    """
    table = read_table(path, COLUMNS)
    if not set(COLUMNS) <= set(table.columns):
        raise InputError([f"{fault}; expected is a manifest of harmful scans" for fault in table.faults])
    faults = [*table.faults]
    harms: dict[str, Harm] = {}
    for line, row in table.rows.items():
        harm, wrong = _parse_row(row)
        if harm is not None and harms.setdefault(harm.subject, harm) is not harm:
            wrong.append(f"column Subject: {harm.subject!r} occurs twice, allowed is each subject once")
        faults += [f"{path}, row {line}, {what}" for what in wrong]
    if faults:
        raise InputError(faults)
    return Truth(tuple(harms.values()))


def _parse_row(row: Mapping[str, str]) -> tuple[Harm | None, list[str]]:
    """Harm of a row, or None and the faults of the row."""
    names = {column: normalize_name(row[column]) for column in COLUMNS[:3]}
    wrong = [
        f"column {column}: is {name!r}, expected a name" if name else f"column {column}: is blank, expected a name"
        for column, name in names.items()
        if not is_name(name)
    ]
    values = _parse_object(row["Parameters"])
    if values is None:
        wrong.append(
            f"column Parameters: is {row['Parameters']!r}, expected a JSON object of plain values such as {{}}"
        )
    if not re.fullmatch("[0-9]{1,20}", row["Seed"]):
        wrong.append(f"column Seed: is {row['Seed']!r}, expected a whole number from 0")
    if wrong or values is None:
        return None, wrong
    subject, study, kind = names.values()
    return Harm(subject, study, kind, values, int(row["Seed"])), []


def _parse_object(text: str) -> tuple[tuple[str, Value], ...] | None:
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, dict) or not all(isinstance(v, bool | int | float | str) for v in values.values()):
        return None
    return tuple(sorted(values.items()))
