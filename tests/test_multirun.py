"""What Hydra is told and asked: clean runs made of a job's settings, launchers that compose."""

from __future__ import annotations

import importlib.util

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import open_dict

from tmqc.cli import conf_dir
from tmqc.settings.fingerprint import settings_digest
from tmqc.settings.schema import Config
from tmqc.sweep.multirun import make, to_config

TABLES = ["cohort.train_csv=train.csv", "cohort.verification_csv=verification.csv"]


@pytest.fixture
def composing():
    ConfigStore.instance().store(name="schema", node=Config)
    before = HydraConfig.instance().cfg
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        yield
    HydraConfig.instance().cfg = before


def made(*overrides):
    whole = compose("config", list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(whole)
    with open_dict(whole):
        del whole["hydra"]
    return make(whole)


def test_the_clean_run_is_the_jobs_own_without_harm_up_to_its_start(composing):
    config, clean = made("experiment=demo_qc", "init.pretrain=true", "run.seed=3", "qc.error=0.5", "qc=screen")
    assert (clean.pipeline.name, clean.harmful.scenario) == ("clean", "none")
    assert (clean.schedule.start, clean.schedule.cycles) == (0, 20)
    assert clean.init == {"from": None, "cycle": None, "pretrain": False}
    assert (clean.run.seed, clean.cohort, clean.model) == (3, config.cohort, config.model)
    assert config.init["from"] == f"outputs/clean/{clean.run.name}"


def test_it_is_the_demos_clean_run_but_for_its_length(composing):
    _, clean = made("experiment=demo_qc", "init.pretrain=true")
    demo = to_config(compose("config", ["experiment=demo_clean", "schedule.cycles=20"]))
    assert settings_digest(clean) == settings_digest(demo)


def test_published_seed_and_rate_follow_the_pipeline(composing):
    _, clean = made("experiment=paper_qc_centers_noise", *TABLES, "init.pretrain=true", "init.cycle=4")
    paper = to_config(compose("config", ["experiment=paper_clean", *TABLES, "schedule.cycles=5"]))
    assert (clean.schedule.seed, clean.schedule.decay_start) == (40, 0)
    assert settings_digest(clean) == settings_digest(paper)


def test_what_differs_in_qc_alone_shares_a_clean_run(composing):
    places = {
        made("experiment=demo_qc", "init.pretrain=true", *more)[0].init["from"]
        for more in (["qc.error=0.1"], ["qc.revisit=5"], ["harmful.severity=3"], ["pipeline=dirty"])
    }
    assert len(places) == 1


def test_without_pretrain_there_is_none(composing):
    config, clean = made("experiment=demo_qc")
    assert clean is None
    assert config.init["from"] == "outputs/clean/demo"


@pytest.mark.parametrize(
    ("choice", "plugin"),
    [
        ("hydra/launcher=parallel", "hydra_joblib_launcher"),
        ("hydra/launcher=slurm", "hydra_submitit_launcher"),
        ("hydra/launcher=ray_cluster", "hydra_ray_launcher"),
        ("hydra/sweeper=search", "hydra_optuna_sweeper"),
    ],
)
def test_launchers_compose_where_their_plugin_is_installed(composing, choice, plugin):
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(f"hydra_plugins.{plugin}") is None:
        pytest.skip(f"{plugin} is not installed")
    composed = compose("config", [choice], return_hydra_config=True)
    group = "launcher" if "launcher" in choice else "sweeper"
    assert plugin in composed.hydra[group]["_target_"]
