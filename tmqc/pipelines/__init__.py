"""The pipelines, which only connect the parts; computations are in `core/`, `training/`, `rivals/` and `report/`."""

from collections.abc import Callable
from pathlib import Path

from tmqc.pipelines.inference import run_inference
from tmqc.pipelines.qc import run_qc
from tmqc.pipelines.rivals import run_rivals
from tmqc.pipelines.training import run_baseline
from tmqc.settings.schema import Config

PIPELINES: dict[str, Callable[[Config, Path], None]] = {
    "clean": run_baseline,
    "dirty": run_baseline,
    "qc": run_qc,
    "inference": run_inference,
    "rivals": run_rivals,
}
