"""The digest of settings: which ones distinguish runs and which do not."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from omegaconf import OmegaConf

from tmqc.errors import RunError
from tmqc.runs.resume import check_place
from tmqc.settings import fingerprint
from tmqc.settings.fingerprint import pretrained_name, settings_digest
from tmqc.settings.schema import Config
from tmqc.sweep.compose import name_clean


def digest_with(centers):
    config = Config()
    config.cohort.phantom.centers = str(centers)
    return settings_digest(config)


def test_digest_depends_on_the_content_of_a_center_table(tmp_path):
    table = tmp_path / "my.csv"
    table.write_text("center,train_hc\na,1\n")
    first = digest_with(table)
    assert digest_with(table) == first
    table.write_text("center,train_hc\na,2\n")
    assert digest_with(table) != first


def test_digest_ignores_a_local_file_named_like_a_packaged_table(tmp_path, monkeypatch):
    before = settings_digest(Config())
    (tmp_path / Config().cohort.phantom.centers).write_text("another table")
    monkeypatch.chdir(tmp_path)
    assert settings_digest(Config()) == before


def test_age_groups_count_for_qc_and_inference_only():
    """`good_lost.csv` of a QC run has a row for each of them."""
    for pipeline, counts in {"clean": False, "dirty": False, "qc": True, "inference": True}.items():
        one, other = Config(), Config()
        one.pipeline.name = other.pipeline.name = pipeline
        other.inference.age_bins = [0.0, 100.0]
        assert (settings_digest(one) != settings_digest(other)) == counts


def pretrained_in(outputs, *, seed=0):
    config, clean = Config(), Config()
    config.run.outputs = clean.run.outputs = str(outputs)
    clean.run.seed = seed
    config.init = {"from": str(name_clean(clean)), "cycle": None, "pretrain": True}
    return config


def test_digest_ignores_the_location_of_a_pretrained_model(tmp_path):
    relative, moved = pretrained_in("outputs"), pretrained_in(tmp_path)
    assert relative.init["from"] != moved.init["from"]
    assert settings_digest(relative) == settings_digest(moved)
    assert settings_digest(relative) != settings_digest(pretrained_in("outputs", seed=1))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(asdict(relative))))
    assert check_place(moved, tmp_path)
    with pytest.raises(RunError, match=r"init\.from"):
        check_place(pretrained_in(tmp_path, seed=1), tmp_path)


def test_digest_depends_on_the_location_of_other_models(tmp_path):
    one, other = Config(), Config()
    one.init["from"], other.init["from"] = "outputs/clean/mine", "elsewhere/clean/mine"
    assert settings_digest(one) != settings_digest(other)


def test_digest_depends_on_the_version_of_the_computation(monkeypatch):
    """So sweeps do not skip jobs, and runs do not start from clean models, based on results of older code."""
    config = Config()
    before = settings_digest(config), pretrained_name(config)
    monkeypatch.setattr(fingerprint, "COMPUTATION", fingerprint.COMPUTATION + 1)
    assert settings_digest(config) != before[0]
    assert pretrained_name(config) != before[1]
