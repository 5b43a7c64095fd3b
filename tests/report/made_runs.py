"""Artificial run directories: the settings of a run, and a summary with given numbers."""

import json

from omegaconf import OmegaConf

from tmqc.report.compare.runs import TEST
from tmqc.settings.schema import Config

HARM = ("harmful.scenario=centers", "harmful.kind=noise")


def make_run(outputs, pipeline, name, *settings, test=0.9, detection=None, finished=True, folder=None, **numbers):
    """Write `config.yaml`, two cycles of `cycles.csv` (their first column) and, if finished, `summary.json`."""
    directory = (folder or outputs / pipeline) / name
    directory.mkdir(parents=True)
    given = [f"pipeline.name={pipeline}", f"run.name={name}", f"run.outputs={outputs}", "schedule.cycles=4", *settings]
    config = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.from_dotlist(given))
    (directory / "config.yaml").write_text(OmegaConf.to_yaml(config))
    (directory / "cycles.csv").write_text("cycle\n0\n1\n")
    summary = {
        **{"pipeline": pipeline, "first_cycle": 0, "last_cycle": 3, "n_cycles": 4},
        **{"verify/accuracy": 0.9, "verify/loss": 0.2, "verify/fpr": 0.1, "verify/fnr": 0.1},
        **({} if test is None else dict.fromkeys(TEST, test)),
        **({"qc/flagged_total": 3, "qc/eliminated_total": 2, "qc/waiting": 1} if pipeline == "qc" else {}),
        **{f"detect/{name}": value for name, value in (detection or {}).items()},
        **{"verify/verifications_total": 10, "train/seconds_total": 1.0, "verify/seconds_total": 2.0},
        **numbers,
    }
    if finished:
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory
