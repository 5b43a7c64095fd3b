"""The glossary explains exactly the numbers that are logged."""

from __future__ import annotations

import ast
import re
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from paper_run import make_reports

import tmqc
from tmqc.core.glossary import GROUPS, TERMS, glossary
from tmqc.core.numbers import EXPECTED, TOTALS, cycle_numbers
from tmqc.pipelines.traffic import TRAFFIC_METRICS
from tmqc.report.detection import score_detection
from tmqc.report.metrics import METRIC_NAMES
from tmqc.report.ranking import RANKING_COLUMNS, ranking_metrics
from tmqc.rivals import RIVALS
from tmqc.tracking.system import PREFIX  # of MLflow's system metrics

PACKAGE = Path(tmqc.__file__).parent
# Files that pass numbers to trackers: count of calls; their names have to be covered by `all_logged`.
GIVEN = {
    "pipelines/inference.py": 1,  # test/...
    "pipelines/rivals.py": 1,  # ranking_metrics
    "pipelines/training.py": 1,  # closing_numbers
    "report/replay.py": 1,  # same numbers, read from files
}
NAMED = ("pipelines", "report", "tracking")  # subpackages where a string of the form group/name is a number's name


def all_logged():
    """Every name that can be logged, from the functions that make names."""
    logged = (
        set(cycle_numbers(make_reports()[0])) | set(TOTALS) | set(EXPECTED) | {f"test/{name}" for name in METRIC_NAMES}
    )
    logged |= set(score_detection([], start=0, center_of={}, harmful=())) | set(TRAFFIC_METRICS)
    for rival in RIVALS:
        logged |= set(ranking_metrics(dict.fromkeys(RANKING_COLUMNS) | {"rival": rival}))
    return logged


def test_glossary_has_exactly_the_numbers_that_are_logged():
    logged = all_logged()
    assert [name for name in logged if not any(fnmatchcase(name, known) for known in TERMS)] == []
    assert [known for known in TERMS if not any(fnmatchcase(name, known) for name in logged)] == []
    assert {term.better for term in TERMS.values()} == {"higher", "lower", "-"}
    assert {name.partition("/")[0] + "/" for name in TERMS} == set(GROUPS)


def nodes_of(room, kind):
    for path in sorted((PACKAGE / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, kind):
                yield path.relative_to(PACKAGE).as_posix(), node


def test_numbers_are_logged_only_in_known_files():
    """New logging calls have to be added to `GIVEN`, and their names to `all_logged` and the glossary."""
    calls = nodes_of(".", ast.Call)
    at = [path for path, call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "metrics"]
    assert Counter(at) == GIVEN


@pytest.mark.parametrize("room", NAMED)
def test_every_number_name_in_the_code_is_in_the_glossary(room):
    """Whole names, and prefixes in f-strings."""
    texts = [(path, node.value) for path, node in nodes_of(room, ast.Constant) if isinstance(node.value, str)]
    names = [(path, text) for path, text in texts if re.fullmatch(r"[a-z_]+/[a-z_*]*", text)]
    assert names
    assert [(path, name) for path, name in names if name not in {*TERMS, *GROUPS, PREFIX}] == []


def test_glossary_text_contains_every_term():
    text = glossary()
    shown = {
        group: re.findall(r"\|`(.+?)`\|", text.partition(f"**{group}**")[2].partition("**")[0]) for group in GROUPS
    }
    assert {group + name for group, names in shown.items() for name in names} == set(TERMS)
    assert len(text) < 5000
