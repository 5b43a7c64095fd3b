"""Renders HTML pages from templates, data frames and pictures. A page loads no other files and runs only our script.

Ids, names of centers and other text from tables are untrusted: pandas and the templates escape them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from tmqc.report.style import to_svg
from tmqc.report.summary import show

_TEMPLATES = files("tmqc.report") / "templates"


Tables = Sequence[tuple[str, pd.DataFrame]]  # title, rows


@dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
        lead: introductory text.
        figures: with captions.
        tables, folded: tables shown, and tables expanded on demand.
        needs_truth: whether the section depends on the truth, which is highlighted.
    """

    anchor: str
    title: str
    lead: str
    figures: Sequence[tuple[Figure, str]] = ()
    tables: Tables = ()
    folded: Tables = ()
    needs_truth: bool = False


def render_page(title: str, sections: Sequence[Section], **values: Any) -> str:
    """Render a page.

    Args:
        title: title of the page.
        sections: in order.
        values: `notes`, shown at the top; `facts`, label -> text; `gallery` of a run, and its `marks`.
    """
    environment = Environment(
        loader=FunctionLoader(_load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"svg": to_svg, "uri": _to_uri, "table": to_table}
    script = _load("page.js")
    values = {"notes": (), "facts": {}, "gallery": None} | values
    return environment.get_template("page.html.jinja").render(
        title=title,
        sections=sections,
        style=Markup(_load("page.css")),  # part of the package, not user text
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def to_table(frame: pd.DataFrame) -> Markup:
    """Convert a data frame to a sortable table, with cells formatted by `show`."""
    cells = frame.astype(object).map(show)
    with pd.option_context("display.max_colwidth", None):
        return Markup(cells.to_html(index=False, border=0, classes="sortable"))  # pandas has escaped the text


def _load(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _to_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
