"""Run directories made by hand: the settings of a run, and a summary with the numbers wanted."""

import json

from omegaconf import OmegaConf

from tmqc.report.compare.records import DETECTION
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
        "verification": {"accuracy": 0.9, "loss": 0.2, "fpr": 0.1, "fnr": 0.1},
        "test": None if test is None else {"accuracy": test, "auroc": test, "sensitivity": test, "specificity": test},
        "ledger": {"n_flagged": 3, "n_eliminated": 2, "n_undecided": 1} if pipeline == "qc" else None,
        "detection": None if detection is None else dict.fromkeys(DETECTION) | detection,
        **{"n_verifications": 10, "train_s": 1.0, "verify_s": 2.0},
        **numbers,
    }
    if finished:
        (directory / "summary.json").write_text(json.dumps(summary))
    return directory
