"""Checks the settings of the `qc` group in combination."""

from __future__ import annotations

from tmqc.settings.schema import Config, QcConfig


def check_qc(config: Config) -> list[str]:
    """Settings of quality control that are invalid or contradict each other, one line per fault."""
    qc, is_qc = config.qc, config.pipeline.name == "qc"
    faults = _check_steps(qc) if qc.control != "steps" else []
    if qc.calibrate and qc.early_stop != "off":
        faults.append("qc.calibrate=true fits a line to all verification scans at once: set qc.early_stop=off")
    if qc.batchnorm == "frozen" and config.schedule.start == 0 and is_qc:
        faults.append("qc.batchnorm=frozen: a run from random weights has no statistics to keep; start from init.from")
    if qc.control == "evidence" and qc.strikes != 1:
        faults.append(f"qc.strikes={qc.strikes}: qc.control=evidence promises its rate by looks instead; use 1")
    if qc.early_stop == "confident" and config.run.verify_workers:
        faults.append(
            f"run.verify_workers={config.run.verify_workers}: workers hold whole batches, and qc.early_stop=confident "
            "scores single scans: set run.verify_workers=0, or qc.early_stop=certain"
        )
    return faults


def _check_steps(qc: QcConfig) -> list[str]:
    """Settings of steps that are verified, under a control that verifies none."""
    faults = []
    if qc.early_stop != "off":
        faults.append(
            f"qc.early_stop ends verifications that reject a step, and qc.control={qc.control} has none: leave it off"
        )
    if qc.calibrate:
        faults.append(
            f"qc.calibrate=true is about verified steps, and qc.control={qc.control} has none: set it to false"
        )
    if qc.verify == "visit":
        faults.append(
            f"qc.verify=visit is about steps that are verified, and qc.control={qc.control} has none: use batch"
        )
    return faults
