"""What the pages in docs/ name exists: settings, experiments, scripts, pictures."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tmqc.settings.schema import Config, flatten

ROOT = Path(__file__).parents[1]
PAGES = sorted(path.name for path in (ROOT / "docs").glob("*.md"))
FILES = ("csv", "html", "json", "jsonl", "log", "md", "npz", "py", "yaml")
GROUPS = "|".join(field.name for field in fields(Config))


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name):
    text = (ROOT / "docs" / name).read_text("utf-8")
    settings = set(re.findall(rf"(?<![\w./-])((?:{GROUPS})\.[a-z_]+(?:\.[a-z_]+)*)(?=[\s=`,;:)]|$)", text))
    assert {name for name in settings if not name.endswith(FILES)} <= set(flatten(Config()))
    for experiment in set(re.findall(r"experiment=(\w+)", text)):
        assert (ROOT / "conf" / "experiment" / f"{experiment}.yaml").is_file(), experiment
    pictures = {f"docs/{path}" for path in re.findall(r"\]\(([\w/-]+\.png)\)", text)}
    for path in pictures | set(re.findall(r"\bscripts/\w+\.py", text)):
        assert (ROOT / path).is_file(), path
