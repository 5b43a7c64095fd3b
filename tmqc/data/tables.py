"""Reading and writing of text tables (CSV, TSV) as text cells, with line numbers for reports of faults.

Cells are not interpreted as numbers or missing values: 007, 1e5, NA and null are kept as text.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmqc.errors import CohortError
from tmqc.settings.text import normalize_name

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class Table:
    """A text table, without rows whose number of cells differs from the header's.

    Attributes:
        columns: the header.
        rows: line number in the file, from 1 -> column -> cell without surrounding blanks.
        faults: one line per fault of the file; the caller checks the cells.
    """

    path: Path
    columns: tuple[str, ...]
    rows: dict[int, dict[str, str]]
    faults: tuple[str, ...]


def is_name(text: str) -> bool:
    """Whether the text is a name: not blank and without control characters."""
    return bool(text) and not _CONTROL.search(text)


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV atomically: None as an empty cell, floats in full precision."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(rows)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_table(path: Path, required: Sequence[str], *, known: Sequence[str] = (), delimiter: str = ",") -> Table:
    """Read a table in UTF-8, with or without a byte-order mark; blank rows are left out.

    Args:
        path: of the file.
        required: columns that must occur exactly once.
        known: further columns that may occur once.
        delimiter: between cells.
    """
    try:
        lines = _read_lines(path, delimiter)
    except CohortError as error:
        return Table(path, (), {}, tuple(error.faults))
    if not lines:
        return Table(path, (), {}, (f"{path}: is empty, expected a header with {', '.join(required)}",))
    header = tuple(normalize_name(name) for name in lines.pop(min(lines)))
    n = len(header)
    faults = [f"{path}: column {name} occurs twice" for name in (*required, *known) if header.count(name) > 1]
    if missing := [name for name in required if name not in header]:
        separator = {",": "commas", "\t": "tabs"}[delimiter]
        hint = f"; cells are to be separated by {separator}" if n == 1 else ""
        faults.append(f"{path}: no column {', '.join(missing)}; the header has {', '.join(header)}{hint}")
    faults += [
        f"{path}, row {line}: {len(cells)} values, but the header has {n} columns"
        for line, cells in lines.items()
        if len(cells) != n
    ]
    rows = {line: dict(zip(header, cells, strict=True)) for line, cells in lines.items() if len(cells) == n}
    return Table(path, header, rows, tuple(faults))


def _read_lines(path: Path, delimiter: str) -> dict[int, list[str]]:
    """Map line numbers to the cells of rows that are not blank. Raises CohortError."""
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")
    except OSError as error:  # missing, a directory or no permission
        raise CohortError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        where = f"{path}, row {raw.count(10, 0, error.start) + 1}"
        raise CohortError(f"{where}: not UTF-8 text: not a CSV, or needs to be saved as 'CSV UTF-8'") from None
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=True)
    lines: dict[int, list[str]] = {}
    line = 1  # quoted cells may contain line breaks, so a row starts on the line after the end of the last one
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                lines[line] = stripped
            line = reader.line_num + 1
    except csv.Error as error:
        raise CohortError(f"{path}, row {line}: not a CSV ({error})") from None
    return lines
