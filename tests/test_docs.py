"""README and docs/ refer only to existing links, commands, settings, options, make targets and scripts."""

from __future__ import annotations

import re
import shlex
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from scripts_of import load_script
from tiny import compose_config

from tmqc.settings.schema import Config, flatten
from tmqc.sweep.command_line import read_command_line

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = ("csv", "html", "json", "jsonl", "log", "md", "npz", "py", "yaml")
GROUPS = "|".join(field.name for field in fields(Config))


def text_of(path):
    return path.read_text("utf-8")


def anchors(text):
    """Anchors of all headings, in GitHub's format."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(text):
    """The words of each command in the console and bash blocks, continued lines joined, comments dropped."""
    found = []
    for kind, block in re.findall(r"^ *```(console|bash)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            prompt = line.strip().startswith("$ ")
            if prompt or kind == "bash":
                found += [shlex.split(line.strip().removeprefix("$ "), comments=True)]
    return [words for words in found if words]


@pytest.fixture(params=PAGES, ids=lambda path: path.name)
def page(request):
    return request.param


def test_links_have_existing_targets(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        to = (page.parent / path).resolve() if path else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(text_of(to)), target


def test_names_in_a_page_exist(page):
    text = text_of(page)
    settings = set(re.findall(rf"(?<![\w./-])((?:{GROUPS})\.[a-z_]+(?:\.[a-z_]+)*)(?=[\s=`,;:)]|$)", text))
    assert {name for name in settings if not name.endswith(FILES)} <= set(flatten(Config()))
    for experiment in set(re.findall(r"experiment=(\w+)", text)):
        assert (ROOT / "conf" / "experiment" / f"{experiment}.yaml").is_file(), experiment
    for path in re.findall(r"\bscripts/\w+\.py|\bdocs/[\w-]+\.md|\btests/[\w/]+\.py|\bconf/[\w/]+\.yaml", text):
        assert (ROOT / path).is_file(), path
    targets = set(re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)) <= targets
    extras = tomllib.loads(text_of(ROOT / "pyproject.toml"))["project"]["optional-dependencies"]
    assert {name for listed in re.findall(r"'\.\[([\w,]+)\]'", text) for name in listed.split(",")} <= set(extras)


def test_tmqc_commands_compose(page):
    """Every `tmqc` command composes to complete settings; for sweeps, the first value is used."""
    for words in commands(text_of(page)):
        if "tmqc" in words and words[0] != "python":  # alone, or after sbatch and its options
            of_ours = words[words.index("tmqc") :]
            given = [word for word in of_ours if "=" in word and not word.startswith("hydra")]
            compose_config(*map(first_value, read_command_line(["-m", *given])[1:]))


def first_value(word):
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    if override.is_interval_sweep():
        return f"{override.key_or_group}={override.value().start}"
    return f"{override.key_or_group}={next(iter(override.sweep_string_iterator()))}"


def test_options_of_scripts_exist(page):
    for words in commands(text_of(page)):
        script = next((word for word in words[:4] if word.startswith("scripts/")), None)
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        text = "" if script is None else text_of(ROOT / script)
        spelt = {option: (option, option[2:].replace("-", "_")) for option in options}
        assert not text or all(any(f'"{each}"' in text for each in spelt[option]) for option in options), words


def test_every_page_is_in_the_index():
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", text_of(ROOT / "docs" / "index.md")))
    assert listed == {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}


def test_settings_reference_is_up_to_date():
    """`make docs` updates it."""
    assert load_script("settings_reference").reference() == text_of(ROOT / "docs" / "settings.md")
