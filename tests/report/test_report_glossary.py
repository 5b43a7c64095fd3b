"""Every number that is logged is explained, and nothing else is."""

from __future__ import annotations

import re

from paper_run import make_reports

from tmqc.report.glossary import GROUPS, TERMS, glossary
from tmqc.report.metrics import METRIC_NAMES
from tmqc.report.scores import DETECTION_COLUMNS
from tmqc.tracking.cycle import cycle_metrics


def test_every_number_logged_has_its_unit_and_direction():
    logged = set(cycle_metrics(make_reports()[0])) | {f"test/{name}" for name in METRIC_NAMES}
    logged |= {f"detect/{name.removeprefix('n_')}" for name in DETECTION_COLUMNS if name != "cycle"}
    assert set(TERMS) == logged
    assert {term.better for term in TERMS.values()} == {"higher", "lower", "-"}
    assert all(name.startswith(tuple(GROUPS)) for name in TERMS)


def test_the_tracker_shows_all_of_it():
    text = glossary()
    assert set(re.findall(r"\| `(.+?)` \|", text)) == set(TERMS)
    assert all(f"**{group}**" in text for group in GROUPS) and len(text) < 5000
