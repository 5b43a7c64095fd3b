"""Harmful scans in memory: in place of the good scans, or in addition to them."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import CENTERS, compose_config, tiny_overrides

from tmqc.data.cohort import read_cohort
from tmqc.data.truth import read_truth
from tmqc.errors import RunError
from tmqc.harm.ground_truth import draw_truth
from tmqc.pipelines.prepare import Inputs, corrupt, load
from tmqc.pipelines.setup import make_centers, make_plan

N_TRAIN = sum(CENTERS.values())


class Learner:
    """Stub that records the last training batch."""

    snapshot = restore = pack = unpack = None  # not used here

    def hold(self, volumes):
        return volumes

    def train_batch(self, volumes, labels, learning_rate):
        self.seen = volumes, labels
        return 0.0, 0


AS_GIVEN = ["run.verify_batch_size=8"]  # because the stub has no model to derive a size from


@pytest.fixture
def prepare_tiny(cohort_csvs, tmp_path):
    def prepare(*overrides, rename=None):
        config = compose_config(*tiny_overrides(cohort_csvs, tmp_path), "harmful=samples", *AS_GIVEN, *overrides)
        csvs = {f"{split}_csv": path for split, path in cohort_csvs.items()}
        if rename is not None:
            csvs["test_csv"] = tmp_path / "test.csv"
            text = cohort_csvs["test"].read_text().replace(",scans/", f",{cohort_csvs['test'].parent}/scans/")
            csvs["test_csv"].write_text(text.replace("Alpha-test-0,", f"{rename},"))
        cohort = read_cohort(**csvs)
        drawn = draw_truth(config.harmful, cohort)
        volumes = load(config.cohort, [*cohort.verification, *cohort.test, *cohort.train])
        return config, Inputs(cohort, None, volumes, Learner(), None, truth=drawn, drawn=drawn)

    return prepare


def test_flipped_label_changes_training_labels_but_not_voxels(prepare_tiny, tmp_path):
    _, prepared = prepare_tiny("harmful.ids=[Alpha-train-0]", "harmful.kind=flipped_label")
    subjects = [row.subject for row in prepared.cohort.train]
    before = prepared.volumes.batch(subjects)
    rows = corrupt(prepared, tmp_path)
    np.testing.assert_array_equal(prepared.volumes.batch(subjects), before)
    old = {row.subject: row.group for row in prepared.cohort.train}
    assert [row.subject for row in rows if row.group != old[row.subject]] == ["Alpha-train-0"]
    centers = make_centers(prepared, rows, batch_size=2)
    centers.train("Alpha", ("Alpha-train-0", "Alpha-train-1"), learning_rate=0.1)
    assert list(prepared.learner.seen[1]) == [1, 1]


def test_extra_copy_is_held_in_addition_to_the_good_scan(prepare_tiny, tmp_path):
    config, prepared = prepare_tiny(
        "harmful.ids=[Alpha-train-0,Gamma-train-0]", "harmful.kind=inverted", "harmful.placement=extra"
    )
    subjects = [row.subject for row in prepared.cohort.train]
    before = prepared.volumes.batch(subjects)
    rows = corrupt(prepared, tmp_path)
    assert len(rows) == N_TRAIN + 2 == len(prepared.volumes) - 2 * 4 * len(CENTERS)
    np.testing.assert_array_equal(prepared.volumes.batch(subjects), before)
    for subject in ("Alpha-train-0", "Gamma-train-0"):
        good, bad = prepared.volumes.batch([subject, f"{subject}_2"])
        np.testing.assert_array_equal(bad, good.max() + good.min() - good)
    plan = make_plan(config, rows)
    assert plan.subjects["Gamma"] == ("Gamma-train-0", "Gamma-train-0_2")
    make_centers(prepared, rows, batch_size=2).train("Gamma", plan.subjects["Gamma"], learning_rate=0.1)
    assert prepared.learner.seen[0].shape[0] == 2


def test_extra_copy_with_the_id_of_a_test_scan_is_refused(prepare_tiny, tmp_path):
    with pytest.raises(RunError, match="Beta-train-1_2 would occur twice"):
        prepare_tiny("harmful.ids=[Beta-train-1]", "harmful.placement=extra", rename="Beta-train-1_2")
    assert not (tmp_path / "harmful").exists()


def test_known_harm_is_written_to_truth_csv_without_corruption(prepare_tiny, tmp_path):
    _, prepared = prepare_tiny("harmful.ids=[Alpha-train-0]")
    prepared = replace(prepared, drawn=None)
    assert corrupt(prepared, tmp_path / "run") == prepared.cohort.train
    assert read_truth(tmp_path / "run" / "truth.csv") == prepared.truth
    assert not (tmp_path / "run" / "harmful").exists()
