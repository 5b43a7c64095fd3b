"""A run that is verified on its test split says so wherever its numbers stand: log, page, inference."""

import pytest
from tiny import compose_config, tiny_overrides

from tmqc.cli import run
from tmqc.pipelines.inference import select_cycles

OPTIMISTIC = "reported numbers are optimistic"


@pytest.fixture(scope="module")
def go(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("shared")

    def go(name, *overrides, splits=("train", "test")):
        csvs = {split: cohort_csvs[split] for split in splits}
        config = compose_config(*tiny_overrides(csvs, outputs), f"run.name={name}", "tracking=none", *overrides)
        run(config, outputs / name)
        warned = [line for line in (outputs / name / "run.log").read_text().splitlines() if " WARNING " in line]
        return outputs / name, warned

    return go


@pytest.fixture(scope="module")
def trained(go):
    return go("trained", "pipeline=clean", "schedule.cycles=1")


def test_warnings_of_the_input_are_in_the_log_and_on_the_page(trained):
    directory, [shared] = trained
    assert OPTIMISTIC in shared
    assert OPTIMISTIC in (directory / "report.html").read_text("utf-8")


def test_inference_warns_of_scans_that_the_run_was_verified_on(go, trained, cohort_csvs):
    scored = ("pipeline=inference", f"inference.run={trained[0]}")
    directory, [warning] = go("same", *scored, splits=("test",))
    assert OPTIMISTIC in warning and str(cohort_csvs["test"]) in warning
    page = (directory / "report.html").read_text("utf-8")
    assert "is also the verification split" in page and "decides nothing" not in page
    other, warned = go("other", *scored, f"cohort.test_csv={cohort_csvs['verification']}", splits=())
    assert warned == [] and "decides nothing in a run" in (other / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("choice", "cycles"),
    [("all", [0, 1, 2, 5]), ("last", [5]), ("2", [2]), ("1-2", [1, 2]), ("2-9", [2, 5]), ("3-4", []), ("7", [])],
)
def test_selection_of_cycles_to_score(choice, cycles):
    assert select_cycles(choice, [0, 1, 2, 5]) == cycles
