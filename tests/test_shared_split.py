"""A run that is verified on its test split has a warning in its log, page and inference."""

import pytest
from tiny import compose_config, tiny_overrides

from tmqc.cli import run
from tmqc.pipelines.inference import select_cycles

OPTIMISTIC = "reported numbers are optimistic"


@pytest.fixture(scope="module")
def run_pipeline(tmp_path_factory, cohort_csvs):
    outputs = tmp_path_factory.mktemp("shared")

    def run_pipeline(name, *overrides, splits=("train", "test")):
        csvs = {split: cohort_csvs[split] for split in splits}
        config = compose_config(*tiny_overrides(csvs, outputs), f"run.name={name}", "tracking=none", *overrides)
        run(config, outputs / name)
        warned = [line for line in (outputs / name / "run.log").read_text().splitlines() if " WARNING " in line]
        return outputs / name, warned

    return run_pipeline


@pytest.fixture(scope="module")
def trained_run(run_pipeline):
    return run_pipeline("trained", "pipeline=clean", "schedule.cycles=1")


def test_warning_of_a_shared_split_is_in_the_log_and_on_the_page(trained_run):
    directory, [shared] = trained_run
    assert OPTIMISTIC in shared
    assert OPTIMISTIC in (directory / "report.html").read_text("utf-8")


def test_inference_warns_if_the_run_was_verified_on_its_scans(run_pipeline, trained_run, cohort_csvs):
    scored = ("pipeline=inference", f"inference.run={trained_run[0]}")
    directory, [warning] = run_pipeline("same", *scored, splits=("test",))
    assert OPTIMISTIC in warning and str(cohort_csvs["test"]) in warning
    page = (directory / "report.html").read_text("utf-8")
    assert "is also the verification split" in page and "decides nothing" not in page
    other, warned = run_pipeline("other", *scored, f"cohort.test_csv={cohort_csvs['verification']}", splits=())
    assert warned == [] and "decides nothing in a run" in (other / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("choice", "cycles"),
    [("all", [0, 1, 2, 5]), ("last", [5]), ("2", [2]), ("1-2", [1, 2]), ("2-9", [2, 5]), ("3-4", []), ("7", [])],
)
def test_selection_of_cycles_to_score(choice, cycles):
    assert select_cycles(choice, [0, 1, 2, 5]) == cycles
