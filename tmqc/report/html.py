"""Pages: templates filled in, tables of data frames, pictures inlined. A page loads nothing and runs one script, ours.

Ids, centers' names and all else that comes from a table are untrusted text: pandas and the templates escape them.
"""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files
from typing import Any

import pandas as pd
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

_TEMPLATES = files("tmqc.report") / "templates"


def render(template: str, **values: Any) -> str:
    """Fill in a template of the package; `style`, `script` and the script's hash are given to all of them."""
    environment = Environment(
        loader=FunctionLoader(_load), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"uri": _to_uri, "table": to_table}
    script = _load("tables.js")
    return environment.get_template(template).render(
        style=Markup(_load("report.css")),  # part of the package, not user text
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        **values,
    )


def to_table(frame: pd.DataFrame) -> Markup:
    """A data frame as a sortable table; cells as `show` writes them."""
    cells = frame.astype(object).map(show)
    with pd.option_context("display.max_colwidth", None):
        return Markup(cells.to_html(index=False, border=0, classes="sortable"))  # pandas has escaped the text


def show(value: object) -> str:
    """A cell: three digits of a fraction, none of a whole number, a dash for what does not exist."""
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value % 1 else f"{value:g}"
    return str(value)


def _load(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _to_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
