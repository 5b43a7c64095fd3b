"""The ground truth combines drawn harm and harm listed in a manifest; duplicates and unknown scans are refused."""

from dataclasses import replace

import pytest
from tiny import compose_config, tiny_overrides

from tmqc.data.cohort import read_cohort, write_split
from tmqc.data.truth import Harm, Truth, write_truth
from tmqc.errors import CohortError, RunError
from tmqc.harm.ground_truth import draw_truth, find_truth
from tmqc.pipelines.prepare import prepare


@pytest.fixture
def find(cohort_csvs, tmp_path):
    """Returns a function that gives the ground truth for a manifest with `subjects`."""

    def find(*subjects, overrides=()):
        harms = tuple(Harm(subject, "Alpha", "inverted", (), 0) for subject in subjects)
        write_truth(tmp_path / "manifest.csv", Truth(harms))
        manifest = f"cohort.truth_csv={tmp_path}/manifest.csv"
        config = compose_config(*tiny_overrides(cohort_csvs, tmp_path), manifest, *overrides)
        cohort = read_cohort(**{f"{split}_csv": path for split, path in cohort_csvs.items()})
        return find_truth(config.cohort, cohort, draw_truth(config.harmful, cohort))

    return find


def harm_overrides(*ids, **more):
    settings = {"ids": f"[{','.join(ids)}]", "kind": "noise"} | more
    return ["harmful=samples", *(f"harmful.{name}={value}" for name, value in settings.items())]


def test_drawn_harm_is_added_to_known_harm(find):
    known = find("Alpha-train-1", "Beta-train-0", overrides=harm_overrides("Alpha-train-3"))
    assert known.kinds == {"Alpha-train-1": "inverted", "Alpha-train-3": "noise", "Beta-train-0": "inverted"}
    assert find("Alpha-train-1").subjects == {"Alpha-train-1"}
    assert find() == Truth(())


@pytest.mark.parametrize("placement", ["in_place", "extra"])
def test_corrupting_a_scan_listed_as_harmful_is_refused(find, placement):
    with pytest.raises(RunError, match=r"manifest\.csv already lists Alpha-train-1 as harmful.*harmful\.ids"):
        find("Alpha-train-1", overrides=harm_overrides("Alpha-train-1", "Alpha-train-3", placement=placement))


@pytest.mark.parametrize("federation", ["none", "local"])
def test_manifest_with_unknown_subjects_is_refused(find, cohort_csvs, federation):
    with pytest.raises(RunError) as caught:
        find("Alpha-train-1", "7", "Alpha-test-0", overrides=[f"federation.name={federation}"])
    [fault] = caught.value.faults
    assert "/manifest.csv lists 7, Alpha-test-0, not in the training split" in fault
    assert str(cohort_csvs["train"]) in fault
    with pytest.raises(RunError, match=r"lists 0, 1, 2, 3, 4 and 3 more, not in"):
        find(*map(str, range(8)))


def test_copy_with_a_flipped_label_is_accepted_if_the_manifest_lists_it(cohort_csvs, tmp_path):
    train = read_cohort(train_csv=cohort_csvs["train"], verification_csv=None, test_csv=None).train
    row = next(row for row in train if row.subject == "Beta-train-1")
    table, manifest = tmp_path / "train.csv", tmp_path / "truth.csv"
    write_split(table, [*train, replace(row, subject="again", group=1 - row.group)])
    settings = [*tiny_overrides(cohort_csvs | {"train": table}, tmp_path), "cache.enabled=false"]
    with pytest.raises(CohortError) as caught:
        prepare(compose_config(*settings))
    [fault] = caught.value.faults
    assert fault.startswith(f"{table}, row {len(train) + 2}: subject again ") and "Beta-train-1" in fault
    harm = Harm("again", row.study, "flipped_label", (("source", row.subject),), 0)
    write_truth(manifest, Truth((harm,)))
    assert prepare(compose_config(*settings, f"cohort.truth_csv={manifest}")).truth == Truth((harm,))
