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
    if qc.chance is not None:
        if not 0 < qc.chance < 1:
            faults.append(f"qc.chance={qc.chance}: must be null or a level between 0 and 1, as 0.05")
        if qc.signal == "loss":
            faults.append("qc.chance is about flipped predictions and qc.signal=loss counts none: use rates or both")
    if qc.early_stop != "off" and qc.control != "steps":
        faults.append(
            f"qc.early_stop ends verifications that reject a step, and qc.control={qc.control} has none: leave it off"
        )
    if qc.calibrate:
        faults += _check_calibrate(qc)
    if qc.batchnorm == "frozen" and config.schedule.start == 0 and config.pipeline.name == "qc":
        faults.append("qc.batchnorm=frozen: a run from random weights has no statistics to keep; start from init.from")
    if qc.control != "steps" and qc.measured.method != "none":
        faults.append(f"qc.measured.method={qc.measured.method}: qc.control={qc.control} verifies no steps; use none")
    if qc.early_stop == "confident" and qc.reference == "best":
        faults.append(
            "qc.early_stop=confident does not score all scans of an accepted step, so that the best one is not known: "
            "use qc.reference=last, or qc.early_stop=certain"
        )
    if qc.control == "evidence" and qc.strikes != 1:
        faults.append(f"qc.strikes={qc.strikes}: qc.control=evidence promises its rate by looks instead; use 1")
    highest = {"quantile": 1.0, "z": 1e6}.get(qc.measured.method)
    if highest is not None and not 0 < qc.measured.level <= highest:
        faults.append(
            f"qc.measured.level={qc.measured.level}: must be above 0 and at most {highest:g} "
            f"for qc.measured.method={qc.measured.method}"
        )
    return faults


def _check_calibrate(qc: QcConfig) -> list[str]:
    faults = []
    if qc.control != "steps":
        faults.append(
            f"qc.calibrate=true is about verified steps, and qc.control={qc.control} has none: set it to false"
        )
    if qc.early_stop != "off":
        faults.append("qc.calibrate=true fits a line to all verification scans at once: set qc.early_stop=off")
    if qc.chance is not None:
        faults.append(
            f"qc.chance={qc.chance}: flipped predictions are counted at 0.5, and qc.calibrate=true judges at another "
            "threshold: set one of them to null or false"
        )
    return faults


def _check_visits(config: Config) -> list[str]:
    qc, faults = config.qc, []
    if qc.control != "steps":
        faults.append(
            f"qc.verify=visit is about steps that are verified, and qc.control={qc.control} has none: use batch"
        )
    elif qc.measured.method != "none":
        faults.append(
            f"qc.measured.method={qc.measured.method}: tolerances are measured for steps of one scan and of a full "
            "batch, and a visit may have any number of scans: use qc.verify=batch, or qc.measured.method=none"
        )
    return faults
