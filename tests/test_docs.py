"""What the pages in docs/ name exists: settings, experiments, scripts, pictures."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from tmqc.config import Config, flatten

ROOT = Path(__file__).parents[1]
PAGES = ("published-scripts.md", "tutorial.md")
GROUPS = "|".join(field.name for field in fields(Config))


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_exists(name):
    text = (ROOT / "docs" / name).read_text("utf-8")
    settings = set(re.findall(rf"(?<![\w./-])((?:{GROUPS})\.[a-z_]+(?:\.[a-z_]+)*)(?=[\s=`,;:)]|$)", text))
    assert settings - set(flatten(Config())) - {f"run.{suffix}" for suffix in ("py", "log", "json")} == set()
    for experiment in set(re.findall(r"experiment=(\w+)", text)):
        assert (ROOT / "conf" / "experiment" / f"{experiment}.yaml").is_file(), experiment
    for path in {
        *re.findall(r"\bscripts/\w+\.py", text),
        *(f"docs/{p}" for p in re.findall(r"\]\(([\w/-]+\.png)\)", text)),
    }:
        assert (ROOT / path).is_file(), path
