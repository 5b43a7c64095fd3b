"""`pipeline=rivals` end to end on NIfTI files: its results, and independence of the ground truth."""

from __future__ import annotations

import csv
import shutil

import pandas as pd
import pytest
from tiny import CENTERS, compose_config, tiny_overrides

from tmqc.cli import run
from tmqc.errors import RunError
from tmqc.report.past_run import read_run
from tmqc.rivals import RIVALS

N_TRAIN, N_VERIFICATION = sum(CENTERS.values()), 4 * len(CENTERS)


def run_pipeline(outputs, csvs, *overrides, name):
    config = compose_config(*tiny_overrides(csvs, outputs), f"run.name={name}", *overrides)
    directory = outputs / config.pipeline.name / name
    run(config, directory)
    return directory


def rivals(outputs, *more):
    start = ("pipeline=rivals", "schedule.start=4", f"init.from={outputs}/clean/c", "rivals.neighbors=3")
    return (*start, *more)


HARM = ("harmful=samples", "harmful.count=4", "harmful.kind=[noise,flipped_label]", "harmful.severity=9")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cohort_csvs, empty_database):
    outputs = tmp_path_factory.mktemp("outputs")
    shutil.copy(empty_database, outputs / "mlflow.db")
    run_pipeline(outputs, cohort_csvs, "pipeline=clean", "schedule.cycles=4", "tracking=none", name="c")
    return {"outputs": outputs, "rivals": run_pipeline(outputs, cohort_csvs, *rivals(outputs, *HARM), name="r")}


def test_every_rival_scores_every_training_scan(runs, cohort_csvs):
    scores = pd.read_csv(runs["rivals"] / "scores.csv")
    assert list(scores.columns) == ["Subject", "Study", *RIVALS]
    assert list(scores["Subject"]) == list(pd.read_csv(cohort_csvs["train"])["Subject"])
    assert scores.notna().all().all()


def test_ranking_agrees_with_the_manifest(runs):
    scores, ranking = (pd.read_csv(runs["rivals"] / f"{name}.csv") for name in ("scores", "rivals"))
    with (runs["rivals"] / "truth.csv").open() as file:
        kinds = {row["Subject"]: row["Kind"] for row in csv.DictReader(file)}
    harmful = scores["Subject"].isin(kinds)
    assert harmful.sum() == 4
    assert set(ranking["n"]) == {N_TRAIN}
    for row in ranking.itertuples():
        bad, good = (scores.loc[rows, row.rival].to_numpy() for rows in (harmful, ~harmful))
        pairs = (bad[:, None] > good).mean() + 0.5 * (bad[:, None] == good).mean()
        assert row.auroc == pytest.approx(pairs), row.rival
    cost = ranking.set_index("rival").loc["tracin"]
    assert cost["forward_passes"] == cost["backward_passes"] == N_TRAIN + N_VERIFICATION
    by_kind = pd.read_csv(runs["rivals"] / "rivals_by_kind.csv")
    assert set(zip(by_kind["kind"], by_kind["n_harmful"], strict=True)) == {("noise", 2), ("flipped_label", 2)}
    assert len(by_kind) == 2 * len(ranking)
    assert (runs["rivals"] / "figures" / "rivals.png").stat().st_size > 5000


def test_ranking_is_logged_to_mlflow(runs):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs['outputs']}/mlflow.db")
    [found] = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert (found.info.run_name, found.info.status) == ("rivals/r", "FINISHED")
    ranking = pd.read_csv(runs["rivals"] / "rivals.csv").set_index("rival")
    assert found.data.metrics["rivals/tracin_auroc"] == ranking.loc["tracin", "auroc"]
    kept = {f.path for f in client.list_artifacts(found.info.run_id)}
    assert {"config.yaml", "scores.csv", "rivals.csv", "rivals_by_kind.csv", "truth.csv", "figures"} <= kept


def test_scores_do_not_depend_on_the_ground_truth(runs, cohort_csvs):
    """The same harmful scans as an ordinary cohort without a manifest give the same scores."""
    csvs = cohort_csvs | {"train": runs["rivals"] / "harmful" / "train.csv"}
    blind = run_pipeline(runs["outputs"], csvs, *rivals(runs["outputs"], "tracking=none"), name="blind")
    one, other = (pd.read_csv(r / "scores.csv") for r in (runs["rivals"], blind))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert not [name for name in ("rivals_by_kind.csv", "truth.csv") if (blind / name).exists()]
    assert pd.read_csv(blind / "rivals.csv")[["n_harmful", "auroc", "n_found"]].isna().all(axis=None)
    assert read_run(blind).status == "FINISHED"


def test_extra_copies_are_scored_in_addition_to_their_originals(runs, cohort_csvs):
    more = (*HARM, "harmful.placement=extra", "rivals.names=[template]", "tracking=none")
    extra = run_pipeline(runs["outputs"], cohort_csvs, *rivals(runs["outputs"], *more), name="extra")
    assert len(pd.read_csv(extra / "scores.csv")) == N_TRAIN + 4


def test_too_many_neighbors_are_refused_before_writing(runs, cohort_csvs):
    with pytest.raises(RunError, match=rf"rivals.neighbors={N_TRAIN}: must be less than the training scans, {N_TRAIN}"):
        run_pipeline(runs["outputs"], cohort_csvs, *rivals(runs["outputs"], f"rivals.neighbors={N_TRAIN}"), name="bad")
    assert not (runs["outputs"] / "rivals" / "bad").exists()
    with pytest.raises(RunError, match=r"already holds a run .*scores\.csv"):
        run_pipeline(runs["outputs"], cohort_csvs, *rivals(runs["outputs"]), name="r")
