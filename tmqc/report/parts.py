"""What a run's page is put together from: sections of figures and tables, all of it text and bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tmqc.report.metrics import read_rows


@dataclass(frozen=True)
class Figure:
    """A picture as SVG; `alt` says in words what it shows."""

    svg: bytes
    alt: str


@dataclass(frozen=True)
class Table:
    """A table of text, sorted by any column when its head is pressed. `title` may be empty."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: bool = False

    @property
    def numeric(self) -> list[bool]:
        """Of each column, whether it holds nothing but numbers and dashes."""
        return [all(_is_number(row[i]) for row in self.rows) for i in range(len(self.head))]


@dataclass(frozen=True)
class Section:
    """Part of the page. `planted`: known only because the truth is, and to be set apart."""

    anchor: str
    title: str
    lead: str
    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    planted: bool = False


def read_table(path: Path, title: str) -> Table:
    """A CSV of a run as a table; fractions to three digits, what does not exist as a dash."""
    rows = read_rows(path)
    head = tuple(rows[0]) if rows else ()
    cells = [tuple(_round(cell) for cell in row.values()) for row in rows]
    return make_table(title, tuple(name.replace("_", " ") for name in head), cells)


def make_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]], *, folded: bool = False) -> Table:
    """A table of any rows. `folded`: opened by a press, and on paper."""
    return Table(title, tuple(head), tuple(tuple(row) for row in rows), folded)


def _round(cell: str) -> str:
    return f"{float(cell):.3f}" if _is_number(cell) and "." in cell else cell or "-"


def say_number(value: float | None) -> str:
    """Three digits, a whole number without any, a dash for None."""
    return "-" if value is None else f"{value:.3f}" if value % 1 else f"{value:g}"


def say(value: object) -> str:
    """Anything in few letters, a dash for None."""
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _is_number(text: str) -> bool:
    if text in ("-", ""):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True
