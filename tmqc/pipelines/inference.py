"""Inference: scores saved models of a run on the test split."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tmqc.core.platt import Line
from tmqc.data.cache import open_cache
from tmqc.data.copies import refuse_copies
from tmqc.errors import RunError
from tmqc.model.sfcn import build_learner
from tmqc.pipelines.context import RunContext, open_run
from tmqc.pipelines.prepare import Inputs, find_cohort, load, load_into
from tmqc.pipelines.training import line_of, predict_test
from tmqc.report.closing import illustrate, print_inference
from tmqc.report.metrics import METRIC_NAMES, subgroup_metrics
from tmqc.report.past_run import verified_on_test
from tmqc.report.summary import show
from tmqc.runs.checkpoint import checkpoint_path, load_checkpoint, saved_cycles
from tmqc.runs.cycles import read_rows
from tmqc.runs.directory import CONFIG, CYCLES, METRICS, PREDICTIONS, REPORT, RESULTS, write_text
from tmqc.settings.schema import Config, InferenceConfig, ModelConfig, flatten

log = logging.getLogger("tmqc")

_LOGGED = ("accuracy", "calibrated_accuracy", "auroc")


def run_inference(config: Config, directory: Path) -> None:
    """Score the chosen cycles of a run on the test split; write metrics, predictions and figures.

    The model is built from the scored run's `config.yaml`; this run's `model` group is ignored.

    Raises:
        InputError: the input cannot be used; nothing was written.
    """
    run, cycles = _find_cycles(config.inference)
    config = _with_model_of(run, config)
    inputs = _prepare(config)
    load_into(inputs.learner, load_checkpoint(checkpoint_path(run, cycles[0])), run)
    with open_run(config, directory, inputs) as context:
        log.info("%s", inputs.volumes.describe())
        rows, predictions = _score(context, run, cycles)
        write_text(directory / METRICS, rows.to_csv(index=False))
        write_text(directory / PREDICTIONS, predictions.to_csv(index=False))
        context.log_files(*RESULTS)
        illustrate(directory)
        context.log_files(REPORT)
        print_inference(rows, note=inputs.note, directory=directory)


def _prepare(config: Config) -> Inputs:
    cohort, note = find_cohort(config.cohort, Path(config.run.outputs), splits=("test",))
    volumes = load(config.cohort, list(cohort.test), open_cache(config.cache, Path(config.run.outputs)))
    refuse_copies(cohort.test, volumes.read)
    learner, device = build_learner(config)
    return Inputs(cohort, note, volumes, learner, device, warnings=(*_find_warnings(config), *volumes.warnings))


def _score(context: RunContext, run: Path, cycles: Sequence[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute metrics and predictions of the models that `run` saved after `cycles`."""
    inputs, settings = context.inputs, context.config
    rows, predictions = [], []
    lines = _find_lines(run)
    for cycle in cycles:
        load_into(inputs.learner, load_checkpoint(checkpoint_path(run, cycle)), run)
        found = predict_test(context, cycle=cycle)
        assert found is not None  # without a test split the settings are refused
        predictions.append(found)
        rows.append(subgroup_metrics(predictions[-1], lines.get(cycle), age_bins=settings.inference.age_bins))
        overall = rows[-1].iloc[0]  # of all scans
        context.tracker.metrics({f"test/{name}": overall[name] for name in METRIC_NAMES}, step=cycle)
        numbers = ", ".join(f"{name.replace('_', ' ')} {show(overall[name])}" for name in _LOGGED)
        log.info("cycle %d, test split: %s", cycle, numbers)
    return pd.concat(rows), pd.concat(predictions)


def _find_cycles(settings: InferenceConfig) -> tuple[Path, list[int]]:
    run = Path(str(settings.run))
    if not run.is_dir():
        raise RunError(f"inference.run={run}: no such directory")
    saved = saved_cycles(run)
    chosen = select_cycles(settings.cycles, saved)
    if not chosen:
        has = f"it holds cycles {saved[0]} to {saved[-1]}" if saved else "it holds no checkpoint"
        raise RunError(f"inference.run={run}, inference.cycles={settings.cycles}: no such cycle, {has}")
    return run, chosen


def select_cycles(choice: str, saved: list[int]) -> list[int]:
    """Select cycles of `saved`: all, last, one cycle (29) or a range with both ends (10-29)."""
    if choice == "all":
        return list(saved)
    if choice == "last":
        return saved[-1:]
    first, _, last = choice.partition("-")
    return [cycle for cycle in saved if int(first) <= cycle <= int(last or first)]


def _find_lines(run: Path) -> dict[int, Line]:
    """Return cycle -> calibration line of its model's logits, as fitted in the run's own verifications."""
    if not (run / CYCLES).is_file():  # an imported model
        return {}
    found = {row.cycle: row.numbers for row in read_rows(run / CYCLES)}
    lines = {cycle: line_of(of.get("verify/slope"), of.get("verify/offset")) for cycle, of in found.items()}
    return {cycle: line for cycle, line in lines.items() if line is not None}


def _find_warnings(config: Config) -> tuple[str, ...]:
    if not verified_on_test(flatten(config)):
        return ()
    fault = f"inference.run={config.inference.run} was verified on the scans of {config.cohort.test_csv}"
    return (f"{fault}: reported numbers are optimistic. Set cohort.test_csv to a separate split.",)


def _with_model_of(run: Path, config: Config) -> Config:
    path = run / CONFIG
    try:
        saved = OmegaConf.load(path)
        model = OmegaConf.select(saved, "model", throw_on_missing=True)
        settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ModelConfig), model))
    except (OSError, TypeError, ValueError, OmegaConfBaseException) as error:
        raise RunError(f"{path}: not the config.yaml of a run ({error})") from error
    assert isinstance(settings, ModelConfig)
    schedule = replace(config.schedule, ema=OmegaConf.select(saved, "schedule.ema"))
    return replace(config, model=settings, schedule=schedule)
