"""Writes docs/settings.md, the table of all settings, from `tmqc/settings/schema.py`; `make docs` calls it.

Defaults and allowed values are the schema's own; what a setting does is the comment beside its field.
"""

from __future__ import annotations

import ast
import inspect
import io
import tokenize
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from tmqc.settings import schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "settings.md"
INTRODUCTION = """\
# Settings

Made by `make docs` from `tmqc/settings/schema.py`; do not edit.

Override a setting as `group.setting=value`, choose a file of a group in `conf/` as `group=option`: it may set other
defaults than the ones listed here, which are the schema's. `tmqc --help` lists groups and settings, and
`tmqc ... --cfg job --resolve` shows the settings of a command without running it. `eval "$(tmqc -sc install=bash)"`
completes them in the shell. Settings that are misspelled, given twice or out of range are refused before anything runs.
"""
WORDS = {"bool": "true or false", "int": "a whole number", "float": "a number", "str": "text", "Any": ""}


def reference() -> str:
    """The whole page as Markdown: a section per group, a row per setting."""
    comments = read_comments(inspect.getsource(schema))
    parts = [INTRODUCTION]
    for group in fields(schema.Config):
        value = default_of(group)
        rows = rows_of(value, group.name, comments) if is_dataclass(value) else rows_of_dict(value, group.name)
        summary = (
            inspect.getdoc(type(value)) if is_dataclass(value) else "The pre-trained model that a run starts from."
        )
        parts.append(
            f"## {group.name}\n\n{(summary or '').splitlines()[0]}\n\n"
            "| setting | default | allowed | what |\n|---|---|---|---|\n" + "".join(rows)
        )
    return "\n".join(parts)


def read_comments(source: str) -> dict[tuple[str, str], str]:
    """(class, field) -> the comment on the field's last line, of all dataclasses of a module."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    by_line = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return {
        (group.name, each.target.id): by_line.get(each.end_lineno or each.lineno, "")
        for group in ast.parse(source).body
        if isinstance(group, ast.ClassDef)
        for each in group.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name)
    }


def rows_of(group: Any, prefix: str, comments: dict[tuple[str, str], str]) -> list[str]:
    """A row per setting of a group, those of nested groups among them."""
    rows = []
    for each in fields(group):
        value, name = default_of(each), f"{prefix}.{each.name}"
        if is_dataclass(value):
            rows += rows_of(value, name, comments)
        else:
            rows.append(row(name, value, allowed_of(each), comments[type(group).__name__, each.name]))
    return rows


def rows_of_dict(group: dict[str, Any], prefix: str) -> list[str]:
    """`init`, which is no dataclass because of `init.from`: what it says stands beside its keys in conf/config.yaml."""
    lines = (PAGE.parents[1] / "conf" / "config.yaml").read_text("utf-8").splitlines()
    lines = lines[lines.index(f"{prefix}:") + 1 :]
    says = {line.split(":")[0].strip(): line.partition("#")[2].strip() for line in lines[: len(group)]}
    return [row(f"{prefix}.{key}", value, "", says[key]) for key, value in group.items()]


def default_of(each: Field[Any]) -> Any:
    """A field's default."""
    if each.default is not MISSING:
        return each.default
    return each.default_factory() if each.default_factory is not MISSING else None


def allowed_of(each: Field[Any]) -> str:
    """The values that a setting may take, in words."""
    kind, _, optional = str(each.type).partition(" | ")
    if words := each.metadata.get("one_of"):
        said = ", ".join(words)
    elif span := each.metadata.get("within"):
        said = " to ".join(str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in span)
    else:
        said = "a list" if "list" in kind else WORDS[kind]
    return f"{said}; or null" if optional else said


def row(name: str, default: Any, allowed: str, what: str) -> str:
    """One row of the table; the bars of Markdown in a text are escaped."""
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{name}`", f"`{text}`", allowed, what)) + " |\n"


if __name__ == "__main__":
    PAGE.write_text(reference(), "utf-8")
