"""Inference takes settings from the run that it scores."""

from __future__ import annotations

from omegaconf import OmegaConf

from tmqc.runs.directory import CONFIG, RUN, write_json
from tmqc.settings.schema import Config
from tmqc.sweep.compose import take_from_scored_run


def test_relative_csvs_of_the_scored_run_refer_to_its_folder(tmp_path, monkeypatch):
    typed_in, run = tmp_path / "typed in", tmp_path / "run"
    for folder in (typed_in, run, tmp_path / "elsewhere"):
        folder.mkdir()
        (folder / "test.csv").touch()  # a file of this name in each of them
    there = Config()
    there.cohort.train_csv, there.cohort.test_csv = "gone.csv", "test.csv"
    (run / CONFIG).write_text(OmegaConf.to_yaml(OmegaConf.structured(there)))
    write_json(run / RUN, {"run_id": None, "folder": str(typed_in)})
    monkeypatch.chdir(tmp_path / "elsewhere")

    def take(given=()):
        config = Config()
        config.pipeline.name, config.inference.run = "inference", str(run)
        config.harmful.kind = {"noise": 0.5, "blank": 0.5}  # given, though without effect
        return take_from_scored_run(config, Config(), given).cohort

    assert (take().test_csv, take().train_csv) == (str(typed_in / "test.csv"), "gone.csv")
    assert take(["cohort.test_csv"]).test_csv is None
    (run / RUN).unlink()
    assert take().test_csv == "test.csv"
