"""Checks the settings of the `qc` group in combination."""

from __future__ import annotations

from tmqc.settings.schema import Config, QcConfig


def check_qc(config: Config) -> list[str]:
    """Settings of quality control that are invalid or contradict each other, one line per fault."""
    qc, faults = config.qc, _check_gate(config)
    if qc.early_stop == "confident" and config.run.verify_workers:
        faults.append(
            f"run.verify_workers={config.run.verify_workers}: workers hold whole batches, and qc.early_stop=confident "
            "scores single scans: set run.verify_workers=0, or qc.early_stop=certain"
        )
    return faults + (_check_visits(config) if qc.verify == "visit" and config.pipeline.name == "qc" else [])


def _check_gate(config: Config) -> list[str]:
    qc, faults = config.qc, list[str]()
    if qc.early_stop != "off" and qc.control != "steps":
        faults.append(
            f"qc.early_stop ends verifications that reject a step, and qc.control={qc.control} has none: leave it off"
        )
    if qc.calibrate:
        faults += _check_calibrate(qc)
    if qc.batchnorm == "frozen" and config.schedule.start == 0 and config.pipeline.name == "qc":
        faults.append("qc.batchnorm=frozen: a run from random weights has no statistics to keep; start from init.from")
    if qc.control == "evidence" and qc.strikes != 1:
        faults.append(f"qc.strikes={qc.strikes}: qc.control=evidence promises its rate by looks instead; use 1")
    return faults


def _check_calibrate(qc: QcConfig) -> list[str]:
    faults = []
    if qc.control != "steps":
        faults.append(
            f"qc.calibrate=true is about verified steps, and qc.control={qc.control} has none: set it to false"
        )
    if qc.early_stop != "off":
        faults.append("qc.calibrate=true fits a line to all verification scans at once: set qc.early_stop=off")
    return faults


def _check_visits(config: Config) -> list[str]:
    qc, faults = config.qc, []
    if qc.control != "steps":
        faults.append(
            f"qc.verify=visit is about steps that are verified, and qc.control={qc.control} has none: use batch"
        )
    return faults
