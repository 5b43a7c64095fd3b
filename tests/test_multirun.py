"""Composition with Hydra: clean runs derived from a job's settings, plans of sweeps, launchers."""

from __future__ import annotations

import importlib.util

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf, open_dict

from tmqc.cli import store_schema
from tmqc.errors import RunError, SettingsError
from tmqc.runs.directory import write_json, write_text
from tmqc.settings.defaults import conf_dir
from tmqc.settings.fingerprint import settings_digest
from tmqc.sweep.compose import make, to_config
from tmqc.sweep.job import carry_out
from tmqc.sweep.multirun import skip
from tmqc.sweep.plan import plan_sweep
from tmqc.sweep.state import KILLED, Job, ThisProcess, read_outcome

CLEAN = ["pipeline=clean", "cohort=phantom", "model=sfcn_small", "tracking=none"]
TABLES = ["cohort.train_csv=train.csv", "cohort.verification_csv=verification.csv"]


@pytest.fixture
def hydra_composition():
    store_schema()
    before = HydraConfig.instance().cfg
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = before


def compose_job(*overrides):
    whole = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(whole)
    with open_dict(whole):
        del whole["hydra"]
    return make(whole)


def test_clean_run_has_the_jobs_settings_without_harm(hydra_composition):
    config, clean = compose_job("experiment=demo_qc", "init.pretrain=true", "run.seed=3", "qc.error=0.5", "qc=screen")
    assert (clean.pipeline.name, clean.harmful.scenario) == ("clean", "none")
    assert (clean.schedule.start, clean.schedule.cycles) == (0, 20)
    assert clean.init == {"from": None, "cycle": None, "pretrain": False}
    assert (clean.run.seed, clean.cohort, clean.model) == (3, config.cohort, config.model)
    assert config.init["from"] == f"outputs/clean/{clean.run.name}"


def test_clean_run_of_demo_qc_equals_demo_clean_except_its_length(hydra_composition):
    _, clean = compose_job("experiment=demo_qc", "init.pretrain=true")
    demo = to_config(compose("config", ["experiment=demo_clean", "schedule.cycles=20"]))
    assert settings_digest(clean) == settings_digest(demo)


def test_clean_run_of_a_paper_experiment_has_the_seed_of_paper_clean(hydra_composition):
    _, clean = compose_job("experiment=paper_qc_centers_noise", *TABLES, "init.pretrain=true", "init.cycle=4")
    paper = to_config(compose("config", ["experiment=paper_clean", *TABLES, "schedule.cycles=5"]))
    assert (clean.schedule.seed, clean.schedule.decay_start) == (40, 0)
    assert settings_digest(clean) == settings_digest(paper)


def test_jobs_that_differ_only_in_qc_and_harm_share_a_clean_run(hydra_composition):
    places = {
        compose_job("experiment=demo_qc", "init.pretrain=true", *more)[0].init["from"]
        for more in (["qc.error=0.1"], ["qc.revisit=5"], ["harmful.severity=3"], ["pipeline=dirty"])
    }
    assert len(places) == 1


def plan_of(*overrides, hydra=()):
    whole = compose("config", ["hydra.mode=MULTIRUN", *hydra], return_hydra_config=True)
    with open_dict(whole):
        whole.hydra.overrides.task, whole.hydra.overrides.hydra = list(overrides), list(hydra)
        whole.hydra.job.config_name = "config"
    return plan_sweep(whole)


def test_plan_counts_its_jobs(hydra_composition):
    plan = plan_of(*TABLES, "pipeline=clean", "run.seed=0,1,2", "run.name='1.10',x")
    assert (plan.n_jobs, dict(plan.swept)) == (6, {"run.seed": "0,1,2", "run.name": "'1.10',x"})
    assert plan_of("run.seed=0,1", hydra=["hydra.sweep.subdir=${hydra.job.num}"]).n_jobs == 2


@pytest.mark.parametrize(
    ("swept", "hydra"),
    [("run.seed=0,0", []), ("run.name='a',a", []), ("run.seed=0,1", ["hydra.sweep.subdir=all"])],
)
def test_two_jobs_with_the_same_directory_are_refused(hydra_composition, swept, hydra):
    with pytest.raises(SettingsError, match="would both use the directory"):
        plan_of(*TABLES, "pipeline=clean", swept, hydra=hydra)


@pytest.fixture
def scored(hydra_composition, tmp_path):
    run = to_config(compose("config", ["experiment=demo_qc", "model.dropout=0.4", "tracking.experiment=mine"]))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(run)))
    return run, ["pipeline=inference", f"inference.run={tmp_path}"]


def test_inference_uses_cohort_model_and_store_of_the_run(scored):
    run, command = scored
    config, _ = compose_job(*command)
    assert (config.cohort, config.model, config.tracking) == (run.cohort, run.model, run.tracking)
    assert (config.pipeline.name, config.harmful.scenario) == ("inference", "none")


def test_command_line_overrides_settings_of_the_scored_run(scored):
    run, command = scored
    config, _ = compose_job(*command, "cohort.test_csv=mine.csv", "tracking=none", "model.dropout=0.2")
    assert (config.cohort.source, config.cohort.test_csv) == ("csv", "mine.csv")
    assert (config.cohort.shape, config.model.filters) == (run.cohort.shape, run.model.filters)
    assert (config.tracking.name, config.model.dropout) == ("none", 0.2)
    config, _ = compose_job(*command, "cohort=phantom83")
    assert (config.cohort.shape, config.cohort.phantom.centers) == ([160, 192, 160], "real83")


def test_inference_of_a_missing_run_is_refused(hydra_composition, tmp_path):
    with pytest.raises(RunError, match="no such directory"):
        compose_job("pipeline=inference", f"inference.run={tmp_path}/none")
    with pytest.raises(RunError, match=r"not the config.yaml of a run"):
        compose_job("pipeline=inference", f"inference.run={tmp_path}")


def test_finished_job_is_skipped_before_its_start(hydra_composition, tmp_path):
    sweep = ["hydra.mode=MULTIRUN", f"hydra.sweep.dir={tmp_path}"]
    first, other = (compose("config", [*CLEAN, *sweep, f"run.seed={n}"], return_hydra_config=True) for n in (0, 1))
    write_text(
        tmp_path / "a" / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(compose_job(*CLEAN, "run.seed=0")[0]))
    )
    assert not skip(first, tmp_path / "a")
    write_json(tmp_path / "a" / "summary.json", {"test/auroc": 0.5})
    assert not skip(other, tmp_path / "a")
    assert skip(first, tmp_path / "a")
    assert read_outcome(tmp_path, "a").numbers == {"test/auroc": 0.5}


def test_no_clean_run_without_pretrain(hydra_composition):
    config, clean = compose_job("experiment=demo_qc")
    assert clean is None
    assert config.init["from"] == "outputs/clean/demo"


@pytest.mark.parametrize("group", ["launcher=ray", "sweeper=search"])
def test_tmqc_plugins_are_registered_with_hydra(hydra_composition, group):
    composed = compose("config", [f"hydra/{group}"], return_hydra_config=True)
    assert composed.hydra[group.partition("=")[0]]["_target_"] in Plugins.instance().class_name_to_class


def test_search_without_an_objective_is_refused(hydra_composition):
    search = ["hydra/sweeper=search", "hydra.sweeper.n_jobs=0"]
    with pytest.raises(SettingsError) as refused:
        plan_of(*TABLES, "pipeline=clean", "qc.error=interval(0,1)", hydra=search)
    assert "hydra.sweeper.n_jobs=0: must be a whole number from 1" in str(refused.value)
    assert "a search needs sweep.objective" in str(refused.value)


@pytest.mark.parametrize(
    ("choice", "plugin"),
    [
        ("hydra/launcher=parallel", "hydra_joblib_launcher"),
    ],
)
def test_launchers_compose_if_their_plugin_is_installed(hydra_composition, choice, plugin):
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    composed = compose("config", [choice], return_hydra_config=True)
    assert plugin in composed.hydra.launcher["_target_"]


def test_unexpected_error_of_a_job_is_raised_and_no_further_job_starts(monkeypatch, tmp_path):
    monkeypatch.setattr("tmqc.sweep.job.process", process := ThisProcess())
    job = Job(tmp_path, "launch", tmp_path / "a")

    def fail():
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        carry_out(job, fail)
    assert read_outcome(tmp_path, "a").status == KILLED
    assert process.asked is None  # no signal was received: the sweep has failed with an error
    assert carry_out(Job(tmp_path, "launch", tmp_path / "b"), fail) is None
