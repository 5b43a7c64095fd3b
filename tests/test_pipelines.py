"""The pipelines clean, dirty, qc and inference end to end on NIfTI files, and their results."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scripts_of import load_script
from tiny import CENTERS, compose_config, tiny_overrides, without_pictures

from tmqc.cli import run
from tmqc.core.robust import shortest_half
from tmqc.errors import InputError, RunError, StoppedError
from tmqc.report.metrics import METRIC_NAMES
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint, saved_cycles
from tmqc.runs.trace import COLUMNS, FURTHER_COLUMNS

CLEAN, START, CYCLES = 8, 8, 12


def run_pipeline(outputs, csvs, *overrides, name, pictures=False):
    """Run a tiny pipeline in this process; figures and page take as long as the run and are optional."""
    config = compose_config(*tiny_overrides(csvs, outputs), f"run.name={name}", *overrides)
    directory = outputs / config.pipeline.name / name
    with nullcontext() if pictures else without_pictures():
        run(config, directory)
    return directory


def harm_overrides(outputs, **more):
    settings = {"ids": "[Delta]", "kind": "noise", "sigma": 80, "replace": "true"} | more
    return [
        *("harmful=centers", f"schedule.start={START}", f"schedule.cycles={CYCLES}"),
        *(f"init.from={outputs}/clean/c", "schedule.learning_rate=3e-3"),
        *(f"harmful.{k}={v}" for k, v in settings.items()),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, cohort_csvs, empty_database):
    outputs = tmp_path_factory.mktemp("outputs")
    shutil.copy(empty_database, outputs / "mlflow.db")
    clean = run_pipeline(outputs, cohort_csvs, "pipeline=clean", f"schedule.cycles={CYCLES}", name="c")
    dirty = run_pipeline(outputs, cohort_csvs, "pipeline=dirty", *harm_overrides(outputs), "tracking=none", name="d")
    qc = run_pipeline(outputs, cohort_csvs, "pipeline=qc", *harm_overrides(outputs), name="q", pictures=True)
    inference = ("pipeline=inference", f"inference.run={qc}", "tracking=none")
    scored = run_pipeline(outputs, cohort_csvs, *inference, name="i", pictures=True)
    return {"outputs": outputs, "clean": clean, "dirty": dirty, "qc": qc, "inference": scored}


def test_training_loss_of_the_clean_run_decreases(runs):
    cycles = pd.read_csv(runs["clean"] / "cycles.csv")
    assert list(cycles["cycle"]) == list(range(CYCLES))
    assert cycles["verify/accuracy"].iloc[-1] >= 0.9
    assert cycles["train/loss"].iloc[-1] < 0.5 * cycles["train/loss"].iloc[0]


def test_every_cycle_has_a_checkpoint_with_all_training_state(runs):
    assert saved_cycles(runs["clean"]) == list(range(CYCLES))
    assert saved_cycles(runs["qc"]) == list(range(START, CYCLES))
    state = load_checkpoint(checkpoint_path(runs["qc"], CYCLES - 1)).state
    for part in ("norm1/moving_variance", "seed_generator", "adam/iteration", "momentum", "velocity", "conv3/kernel"):
        assert any(part in name for name in state), part


def test_qc_run_starts_from_the_clean_model(runs, cohort_csvs):
    """The first row of the trace is the verification of the clean model after START cycles."""
    first = pd.read_csv(runs["qc"] / "trace.csv", keep_default_na=False).iloc[0]
    clean = pd.read_csv(runs["clean"] / "cycles.csv").iloc[START - 1]
    assert first["Phase"] == "baseline"
    assert (first["FP"], first["FN"]) == (clean["verify/fp"], clean["verify/fn"])
    assert first["VerifyLoss"] == pytest.approx(clean["verify/loss"], rel=1e-5)


def test_trace_ledger_and_detection_scores_agree(runs):
    trace = pd.read_csv(runs["qc"] / "trace.csv", keep_default_na=False)
    assert tuple(trace.columns) == COLUMNS
    ledger = json.loads((runs["qc"] / "ledger.json").read_text())
    out = trace[(trace["Phase"] == "revisit") & (trace["Ignored"] == 1)]
    assert ledger["eliminated"] == list(out["Subject"])
    flagged = trace[(trace["Phase"] == "retry") & (trace["Ignored"] == 1)]
    assert sorted(s for due in ledger["revisit"].values() for s in due) == sorted(flagged["Subject"])
    assert set(trace["Scored"]) == {4 * len(CENTERS)}
    detection = pd.read_csv(runs["qc"] / "detection.csv")
    assert list(detection["cycle"]) == list(range(START, CYCLES))
    harmful = {f"Delta-train-{i}" for i in range(CENTERS["Delta"])}
    named = set(ledger["eliminated"])
    last = detection.iloc[-1]
    if named:
        assert last["detect/precision"] == pytest.approx(len(named & harmful) / len(named))
    assert last["detect/recall"] == pytest.approx(len(named & harmful) / len(harmful))


def test_finished_training_runs_have_a_summary(runs):
    for name in ("clean", "dirty", "qc"):
        summary = json.loads((runs[name] / "summary.json").read_text())
        last = pd.read_csv(runs[name] / "cycles.csv").iloc[-1]
        assert (summary["pipeline"], summary["last_cycle"]) == (name, CYCLES - 1)
        assert {rate: summary[rate] for rate in ("train/loss", "verify/fpr", "verify/fnr")} == pytest.approx(
            {rate: last[rate] for rate in ("train/loss", "verify/fpr", "verify/fnr")}
        )
        of_test = {f"test/{metric}" for metric in METRIC_NAMES}
        assert {number for number in summary if number.startswith("test/")} == of_test
        assert ("qc/waiting" in summary) == ("detect/recall" in summary) == (name == "qc")
    assert summary["verify/verifications_total"] == len(pd.read_csv(runs["qc"] / "trace.csv"))
    assert not (runs["inference"] / "summary.json").exists()


def test_manifest_lists_the_corrupted_scans(runs):
    with (runs["qc"] / "truth.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [r["Subject"] for r in rows] == [f"Delta-train-{i}" for i in range(CENTERS["Delta"])]
    assert {r["Kind"] for r in rows} == {"noise"}
    assert (runs["qc"] / "harmful" / "volumes" / "Delta-train-0.nii.gz").is_file()


def test_control_does_not_depend_on_the_ground_truth(runs, cohort_csvs):
    """The same harmful scans as an ordinary cohort without a manifest give the same trace."""
    csvs = cohort_csvs | {"train": runs["qc"] / "harmful" / "train.csv"}
    settings = [s for s in harm_overrides(runs["outputs"]) if not s.startswith("harmful")]
    blind = run_pipeline(runs["outputs"], csvs, "pipeline=qc", *settings, "tracking=none", name="blind")
    one, other = (pd.read_csv(r / "trace.csv").drop(columns="Seconds") for r in (runs["qc"], blind))
    pd.testing.assert_frame_equal(one, other, check_exact=True)
    assert not any((blind / name).exists() for name in ("detection.csv", "good_lost.csv", "detection_by_kind.csv"))
    assert not [name for name in json.loads((blind / "summary.json").read_text()) if name.startswith("detect/")]
    assert not (blind / "truth.csv").exists()


@pytest.mark.parametrize(("settings", "name"), [("cache.enabled=false", "uncached"), ("cache.enabled=true", "mapped")])
def test_results_do_not_depend_on_the_cache(runs, cohort_csvs, caplog, *, settings, name):
    """Decoding again or mapping from the cache gives the same trace, model and scores."""
    caplog.set_level("INFO", "tmqc")
    one, more = runs["qc"], ("tracking=none", settings)
    other = run_pipeline(
        runs["outputs"], cohort_csvs, "pipeline=qc", *harm_overrides(runs["outputs"]), *more, name=name
    )
    traces = [pd.read_csv(run / "trace.csv").drop(columns="Seconds") for run in (one, other)]
    pd.testing.assert_frame_equal(*traces, check_exact=True)
    states = [load_checkpoint(checkpoint_path(run, CYCLES - 1)).state for run in (one, other)]
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    for file in ("ledger.json", "truth.csv", "harmful/volumes/Delta-train-0.nii.gz"):
        assert (one / file).read_bytes() == (other / file).read_bytes()
    n_held = sum(CENTERS.values()) + 2 * 4 * len(CENTERS)
    n = n_held + CENTERS["Delta"]  # these are read twice: good, then harmful
    line = next(line for line in caplog.messages if " scans from " in line)
    if name == "uncached":
        assert line.startswith(f"0 of {n} scans from no cache, ")
    else:
        held = f"0.3 MB as uint8 ({n_held})"
        copied = "3 of 3 corrupted copies from the cache"
        assert line == f"{n} of {n} scans from {runs['outputs']}/cache, {held}, {copied}"
    assert line in (other / "run.log").read_text()


def rederive_strengths(rows, directory, change):
    """Strengths of the screen's evidence from trace and settings alone; compared with the rows."""
    limits = OmegaConf.load(directory / "config.yaml").qc.screen
    loss_z, margin_z, contradiction, image_z, strength = (
        rows[name].astype(float) for name in ("LossZ", "MarginZ", "Contradiction", "ImageZ", "Strength")
    )
    limit = np.where(margin_z < -limits["margin_z"], limits["unusual_loss_z"], limits["loss_z"])
    harm = np.where(change > 0, loss_z, np.minimum(loss_z, 0))
    of_loss = harm / np.where(image_z > limits["image_z"], limits["image_loss_z"], limit)
    of_label = contradiction / limits["contradiction"]
    of_image = image_z / limits["image_alone_z"]
    np.testing.assert_allclose(strength, np.maximum(np.maximum(of_loss, of_label), of_image), rtol=1e-12)
    return strength


@pytest.mark.parametrize("gate", ["screen", "loss", "calibrated"])
def test_verdicts_of_other_gates_agree_with_the_trace(runs, cohort_csvs, gate):
    """Rederives verdicts from the trace alone, and checks that screening steps are recorded."""
    directory = run_pipeline(
        runs["outputs"],
        cohort_csvs,
        "pipeline=qc",
        f"qc={gate}",
        *harm_overrides(runs["outputs"]),
        "tracking=none",
        name=gate,
    )
    trace = pd.read_csv(directory / "trace.csv", keep_default_na=False)
    assert tuple(trace.columns) == (*COLUMNS, *FURTHER_COLUMNS)
    phases = trace["Phase"].value_counts()
    n_train = sum(CENTERS.values())
    if gate == "screen":
        assert phases["baseline"] == 2
        assert phases["screen"] >= n_train
        assert set(trace["Phase"]) == {"baseline", "screen"}
        first = trace[(trace["Phase"] == "screen") & (trace["Cycle"] == START)]
        assert len(first) == n_train
        change = first["VerifyLoss"] - trace["VerifyLoss"].iloc[0]
        center, sd = shortest_half(change)
        z = (change - center) / max(sd, 1e-4)
        np.testing.assert_allclose(first["LossZ"].astype(float), z, rtol=1e-9)
        assert list(first["Ignored"]) == list((rederive_strengths(first, directory, change) > 1).astype(int))
    elif gate == "calibrated":
        assert (trace["Slope"] != "").all() and (trace["BrokenHC"] == "").all()
        summary = json.loads((directory / "summary.json").read_text())
        assert {"qc/fpr_drift", "test/calibrated_accuracy", "verify/slope"} <= {
            k for k, v in summary.items() if v is not None
        }
    ledger = json.loads((directory / "ledger.json").read_text())
    assert ledger["eliminated"] == list(trace[trace["Outcome"] == "eliminated"]["Subject"])


def test_evidence_finds_only_the_flipped_center(runs, cohort_csvs):
    """Alpha, 9 scans: T1 and T2 can reach p = .008 and .003; the tiny model has learned the right labels."""
    harmful = [*harm_overrides(runs["outputs"], ids="[Alpha]", kind="flipped_label"), "tracking=none"]
    control = ["qc=evidence", "qc.evidence.every=1", "qc.revisit=1", "qc.fdr=0.4", "qc.evidence.compare=within"]
    settings = ("pipeline=qc", *control, *harmful)
    directory = run_pipeline(runs["outputs"], cohort_csvs, *settings, name="evidence", pictures=True)
    alpha = {f"Alpha-train-{i}" for i in range(CENTERS["Alpha"])}
    trace = pd.read_csv(directory / "trace.csv", keep_default_na=False)
    assert tuple(trace.columns) == (*COLUMNS, *FURTHER_COLUMNS)
    by_center = trace[trace["Reasons"].str.contains("center")]
    assert set(by_center["Subject"]) == alpha
    ledger = json.loads((directory / "ledger.json").read_text())
    assert alpha <= set(ledger["eliminated"]) | set(ledger["undecided"])
    centers = pd.read_csv(directory / "centers.csv")
    for row in by_center.to_dict("records"):
        [one] = centers[(centers["cycle"] == row["Cycle"]) & (centers["center"] == row["Study"])].to_dict("records")
        assert float(row["CenterP"]) == one["p"] <= one["limit"] == float(row["CenterLimit"])
    review = pd.read_csv(directory / "review.csv")
    assert list(review["rank"]) == list(range(1, len(review) + 1))
    assert (directory / "power.csv").is_file()
    assert pd.read_csv(directory / "cycles.csv")["verify/auroc"].notna().all()
    assert (directory / "figures" / "qc.png").stat().st_size > 5000
    averaged = run_pipeline(runs["outputs"], cohort_csvs, *settings, "schedule.ema=0.9", name="evidence_averaged")
    for name in ("centers.csv", "review.csv", "ledger.json"):  # averaged weights change no verdict
        assert (averaged / name).read_bytes() == (directory / name).read_bytes()


def test_runaway_action_stop_ends_the_run_and_keeps_its_files(runs, cohort_csvs):
    settings = ["qc.runaway.action=stop", "qc.runaway.window=4", "qc.runaway.rejected=0"]
    # The loss rises in some step for any model; rates stop changing once all predictions are of one class.
    settings += ["qc=loss", "qc.loss_error=0"]
    harsh = [*harm_overrides(runs["outputs"]), "schedule.learning_rate=1e-1", "tracking=none"]
    with pytest.raises(StoppedError, match=r"runaway guard is triggered: .* batches were rejected") as caught:
        run_pipeline(runs["outputs"], cohort_csvs, "pipeline=qc", *harsh, *settings, name="stopped")
    assert "qc.runaway.rejected=0" in str(caught.value)
    assert (runs["outputs"] / "qc" / "stopped" / "ledger.json").is_file()
    assert saved_cycles(runs["outputs"] / "qc" / "stopped")


def test_inference_scores_every_saved_cycle(runs, cohort_csvs):
    metrics = pd.read_csv(runs["inference"] / "metrics.csv")
    assert list(metrics.columns) == [
        *("cycle", "subgroup", "n", "accuracy", "sensitivity", "specificity", "f1", "auroc"),
        *("calibrated_accuracy", "calibrated_loss"),
    ]
    assert sorted(metrics["cycle"].unique()) == list(range(START, CYCLES))
    assert {"all", "sex=F", "sex=M", "center=Alpha"} <= set(metrics["subgroup"])
    predictions = pd.read_csv(runs["inference"] / "predictions.csv")
    assert len(predictions) == (CYCLES - START) * 4 * len(CENTERS)
    last = predictions[predictions["cycle"] == CYCLES - 1]
    right = ((last["probability"] >= 0.5) == last["Group_bin"]).mean()
    overall = metrics[(metrics["subgroup"] == "all") & (metrics["cycle"] == CYCLES - 1)]
    assert overall["accuracy"].item() == pytest.approx(right)
    for figure in ("cycles.png", "roc.png"):
        assert (runs["inference"] / "figures" / figure).stat().st_size > 5000


def test_every_cycle_is_logged_to_mlflow(runs):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{runs['outputs']}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "tmqc"]
    found = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert set(found) == {"clean/c", "qc/q"}
    qc = found["qc/q"]
    assert qc.info.status == "FINISHED"
    assert qc.data.params["qc.error"] == "0.02"
    assert qc.data.tags["pipeline"] == "qc"
    assert qc.data.tags["scenario"] == "centers"
    cycles = pd.read_csv(runs["qc"] / "cycles.csv")
    history = client.get_metric_history(qc.info.run_id, "verify/fpr")
    assert [(m.step, m.value) for m in history] == list(zip(cycles["cycle"], cycles["verify/fpr"], strict=True))
    assert {"test/auroc", "detect/recall", "train/loss", "qc/waiting"} <= set(qc.data.metrics)
    kept = {f.path for f in client.list_artifacts(qc.info.run_id)}
    assert {"config.yaml", "trace.csv", "ledger.json", "detection.csv", "figures"} <= kept
    assert {"good_lost.csv", "detection_by_kind.csv"} <= kept


def test_failing_figures_give_a_warning_and_keep_the_results(
    tmp_path, cohort_csvs, empty_database, monkeypatch, caplog
):
    from mlflow import MlflowClient

    shutil.copy(empty_database, tmp_path / "mlflow.db")

    def fail(*args, **kwargs):
        raise RuntimeError("latex could not be found")

    with monkeypatch.context() as broken:
        broken.setattr("matplotlib.figure.Figure.savefig", fail)
        run = run_pipeline(tmp_path, cohort_csvs, "pipeline=clean", "schedule.cycles=1", name="plain", pictures=True)
        inference = ("pipeline=inference", f"inference.run={run}")
        scored = run_pipeline(tmp_path, cohort_csvs, *inference, name="scored", pictures=True)
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING" and "latex" in r.getMessage()]
    assert len(warnings) == 2 and f"scripts/report.py {run}`" in warnings[0]
    for there in (run / "summary.json", run / "predictions.csv", scored / "metrics.csv", scored / "predictions.csv"):
        assert there.stat().st_size > 0
    assert not (run / "report.html").exists()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [e for e in client.search_experiments() if e.name == "tmqc"]
    assert {r.info.status for r in client.search_runs([experiment.experiment_id])} == {"FINISHED"}
    assert load_script("report").main([str(run), str(scored)]) == 0
    drawn = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")}
    assert drawn == {
        *("clean/plain/figures/cycles.png", "inference/scored/figures/cycles.png", "inference/scored/figures/roc.png")
    }


def test_run_is_overwritten_only_with_overwrite(runs, cohort_csvs):
    before = (runs["clean"] / "cycles.csv").read_bytes()
    short = ["pipeline=clean", "schedule.cycles=1", "tracking=none"]
    with pytest.raises(RunError, match=r"already holds a run .*run\.overwrite=true"):
        run_pipeline(runs["outputs"], cohort_csvs, *short, name="c")
    assert (runs["clean"] / "cycles.csv").read_bytes() == before
    once = run_pipeline(runs["outputs"], cohort_csvs, *short, name="twice")
    (once / "notes.txt").write_text("mine")
    run_pipeline(runs["outputs"], cohort_csvs, *short, "run.overwrite=true", name="twice")
    assert len(pd.read_csv(once / "cycles.csv")) == 1
    assert (once / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["init.from=nowhere"], "init.from=nowhere: no such run directory"),
        (["schedule.start=50", "schedule.cycles=60"], "no checkpoint of cycle 49, it holds cycles 0 to 11"),
        (["model.filters=[4,8,16]"], "belongs to another model"),
        (["harmful.ids=[Omega]"], "Omega"),
        (["cohort.shape=[16,20,18]"], "16 x 20 x 16 voxels, expected 16 x 20 x 18"),
        (["cohort.train_csv=missing.csv"], "missing.csv"),
    ],
)
def test_invalid_input_is_refused_before_writing(runs, cohort_csvs, overrides, message):
    with pytest.raises(InputError, match=".") as caught:
        run_pipeline(
            runs["outputs"], cohort_csvs, "pipeline=qc", *harm_overrides(runs["outputs"]), *overrides, name="bad"
        )
    assert message in str(caught.value)
    assert not (runs["outputs"] / "qc" / "bad").exists()


def test_inference_of_missing_run_or_cycle_is_refused(runs, cohort_csvs):
    base = ["pipeline=inference", "tracking=none"]
    with pytest.raises(RunError, match="no such directory"):
        run_pipeline(runs["outputs"], cohort_csvs, *base, "inference.run=nowhere", name="x")
    with pytest.raises(RunError, match="holds cycles 8 to 11"):
        run_pipeline(
            runs["outputs"], cohort_csvs, *base, f"inference.run={runs['qc']}", "inference.cycles='3'", name="x"
        )


def test_averaged_model_is_used_for_evaluation(tmp_path, cohort_csvs):
    """Test predictions of the run, and of an inference on its checkpoint, are those of the averaged weights."""
    settings = ["pipeline=clean", "schedule.cycles=2", "schedule.learning_rate=1e-2", "tracking=none"]
    plain = run_pipeline(tmp_path, cohort_csvs, *settings, name="plain")
    run_ = run_pipeline(tmp_path, cohort_csvs, *settings, "schedule.ema=0.9", name="averaged")
    inference = ("pipeline=inference", f"inference.run={run_}", "inference.cycles=last", "tracking=none")
    scored = run_pipeline(tmp_path, cohort_csvs, *inference, name="scored")
    p = {d.name: pd.read_csv(d / "predictions.csv")["probability"].to_numpy() for d in (plain, run_, scored)}
    assert np.array_equal(p["averaged"], p["scored"]) and not np.allclose(p["averaged"], p["plain"], atol=1e-3)
    first, second = (load_checkpoint(checkpoint_path(d, 1)).state for d in (plain, run_))
    assert all(np.array_equal(array, second[name]) for name, array in first.items())  # training is the same
    numbers = [json.loads((d / "summary.json").read_text()) for d in (plain, run_)]
    assert numbers[0]["train/loss"] == numbers[1]["train/loss"]
    assert numbers[0]["verify/loss"] != numbers[1]["verify/loss"]
