"""Makes the controlled tour from the settings of the `qc` group; warnings, and the rejections expected by chance."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tmqc.core.dissimilarity import dissimilarity, make_template
from tmqc.core.false_alarms import expect_false_alarms
from tmqc.core.first_order import Estimated
from tmqc.core.numbers import EXPECTED
from tmqc.core.rates import Rates
from tmqc.core.records import CycleReport
from tmqc.core.runaway import Alarm
from tmqc.core.schedule import make_visits, next_screening
from tmqc.data.volumes import Volumes
from tmqc.errors import RunError, StoppedError
from tmqc.settings.schema import QcConfig
from tmqc.training.centers import LocalCenters
from tmqc.training.control import ControlledTravel
from tmqc.training.evidence import EvidenceTravel
from tmqc.training.interfaces import Centers, Listener, Plan
from tmqc.training.screening import ScreenedTravel
from tmqc.training.tour import Travel

log = logging.getLogger("tmqc")

# The robust standard deviation of fewer values is so uncertain that normal values may exceed 6 of them.
_FEW_SCANS = 20
# Shares of verification predictions that harmless steps flip on the field cohort, equally likely: of a batch, of one
# scan, and the agreement of the flips' directions. At threshold 0.5, and calibrated (docs/step-gates.md).
_CHURN: dict[bool, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    False: ((0.0, 0.0, 0.007, 0.036, 0.083), (0.005, 0.024, 0.053, 0.067, 0.081), 0.9),
    True: ((0.014,), (0.008,), 0.0),
}


class RunawayError(StoppedError):
    """The runaway guard is triggered, and `qc.runaway.action=stop`."""

    heading = "quality control had to stop:"


def fits_published_columns(qc: QcConfig) -> bool:
    """Return whether all verdicts re-derive from the published columns of the trace."""
    exact = qc.early_stop != "confident" and not qc.calibrate
    return (qc.control, qc.signal) == ("steps", "rates") and exact and qc.strikes == 1 and not qc.runaway.pauses


def unit_of(qc: QcConfig) -> str:
    """Return the verified unit of the regular tour: `batches` or `visits`."""
    return {"batch": "batches", "visit": "visits"}[qc.verify]


def measure_dissimilarity(plan: Plan, volumes: Volumes) -> dict[str, float] | None:
    """Return each training scan's dissimilarity to the mean scan; None if control does not use it.

    The sums for the mean are computed center by center.
    """
    if plan.qc.control != "screen" or plan.qc.screen.image_z is None:
        return None

    def scans(subjects: Sequence[str]) -> Iterator[NDArray[np.float32]]:  # one by one: together they may take many GB
        return (volumes.batch([subject])[0] for subject in subjects)

    template = make_template(scans(of_center) for of_center in plan.subjects.values())
    everyone = list(plan.center_of)
    return {subject: dissimilarity(scan, template) for subject, scan in zip(everyone, scans(everyone), strict=True)}


def make_travel(
    plan: Plan, centers: Centers, *listeners: Listener, images: Mapping[str, float] | None = None
) -> Travel:
    """Make the tour under the control of the settings; `images`: result of `measure_dissimilarity`."""
    if plan.qc.control == "screen":
        assert plan.qc.screen.exact or isinstance(centers, LocalCenters)  # `validate_federation` refuses others
        return ScreenedTravel(plan, centers, *listeners, dissimilarity=images)
    if plan.qc.control == "evidence":
        return EvidenceTravel(plan, centers, *listeners)
    return ControlledTravel(plan, centers, *listeners)


def warn_or_stop(report: CycleReport, qc: QcConfig) -> None:
    """Warn if no scan could be judged in this cycle or the runaway guard is triggered; stop if so configured.

    In cycles without a training step the alarm is not repeated.

    Raises:
        RunawayError: `qc.runaway.action=stop`.
    """
    if report.refused:
        log.warning(
            "cycle %d: no scan was judged, because the model does not separate the classes of the verification scans "
            "better than chance (train the clean model for longer), or scores all scans of a class equally",
            report.cycle,
        )
    if (estimated := report.estimated) is not None:
        _log_estimated(report.cycle, estimated)
    if report.alarm is None or report.n_steps == 0:
        return
    message = explain_alarm(report.alarm, report.cycle, qc)
    if qc.runaway.action == "stop":
        raise RunawayError(f"{message}. The run is saved")
    held = "; eliminations are suspended" if qc.runaway.action == "pause" else ""
    log.warning("%s%s", message, held)


def _log_estimated(cycle: int, estimated: Estimated) -> None:
    n = estimated.n_estimated + estimated.n_verified
    if estimated.n_estimated == 0:
        log.info(
            "cycle %d: all %d screened scans were verified, because first-order estimates are too inaccurate "
            "(largest error %.2g of the limit)",
            *(cycle, n, estimated.error),
        )
        return
    log.info(
        "cycle %d: of %d screened scans %d were verified, the others estimated to first order (largest error %.2g of "
        "the limit)",
        *(cycle, n, estimated.n_verified, estimated.error),
    )


def explain_alarm(alarm: Alarm, cycle: int, qc: QcConfig) -> str:
    """Describe a triggered runaway guard: its figures and remedies."""
    what = []
    if alarm.by_rejections:
        what.append(
            f"{alarm.n_rejected} of the last {alarm.n_batches} {unit_of(qc)} were rejected "
            f"(qc.runaway.rejected={qc.runaway.rejected:g})"
        )
    if alarm.by_elimination:
        what.append(
            f"{alarm.n_condemned} of {alarm.n_subjects} training scans would be eliminated "
            f"(qc.runaway.eliminated={qc.runaway.eliminated:g})"
        )
    return (
        f"cycle {cycle}: the runaway guard is triggered: {' and '.join(what)}. The starting model or the threshold "
        "is a more likely cause than the data: train the clean model for longer, lower "
        f"schedule.learning_rate, or {_remedy(qc)}"
    )


def _remedy(qc: QcConfig) -> str:
    """Return which settings to change so that fewer scans are rejected."""
    if qc.control == "evidence":
        return "lower qc.fdr and inspect review.csv and centers.csv"
    if qc.control == "screen":
        return "raise the limits of qc.screen"
    return "raise " + {"rates": "qc.error", "loss": "qc.loss_error"}[qc.signal]


def warn_of_settings(plan: Plan, *, n_hc: int, n_pd: int) -> None:
    """Warn if good scans will be flagged by chance: few scans are compared, or one flipped prediction rejects a step.

    Args:
        n_hc, n_pd: numbers of verification scans.

    Raises:
        RunError: there are too few verification scans to compare centers.
    """
    qc, n_train = plan.qc, len(plan.center_of)
    if (qc.control, qc.evidence.compare) == ("evidence", "across") and min(n_hc, n_pd) < 2:
        raise RunError(
            f"qc.evidence.compare=across needs two verification scans of each class or more, and there are {n_hc} HC "
            f"and {n_pd} PD: add some, or set qc.evidence.compare=within"
        )
    first = next_screening(plan.schedule, qc.evidence.every, plan.schedule.start + qc.revisit)  # that may eliminate
    if qc.control == "evidence" and first >= plan.schedule.cycles:
        log.warning(
            "this run eliminates nothing: flagged scans wait for qc.revisit=%d cycles, and no screening follows; raise "
            "schedule.cycles to %d or more",
            *(qc.revisit, first + 1),
        )
    if qc.control == "screen" and n_train < _FEW_SCANS:
        log.warning(
            "qc.control=screen compares %d training scans with each other: with fewer than %d, a good scan may be "
            "flagged by chance; inspect the eliminated scans, or choose a gate of steps such as qc=loss",
            *(n_train, _FEW_SCANS),
        )
    worth = Rates(fpr=1 / n_hc, fnr=1 / n_pd)  # of one flipped prediction
    if (qc.control, qc.signal) == ("steps", "rates") and qc.error < max(worth.fpr, worth.fnr):
        log.warning(
            "qc.error=%g is less than the change of a rate by one scan (FPR %.4f, FNR %.4f with %d HC and %d PD "
            "verification scans): one flipped prediction rejects a single scan; expect good scans to be flagged",
            *(qc.error, worth.fpr, worth.fnr, n_hc, n_pd),
        )


def expect_by_chance(plan: Plan, *, n_hc: int, n_pd: int) -> dict[str, float]:
    """Compute and log what the published gate will reject by chance: `EXPECTED` per cycle without harm.

    The result is empty for gates without such a theory.

    Args:
        n_hc, n_pd: numbers of verification scans.
    """
    qc, schedule = plan.qc, plan.schedule
    is_known = (qc.control, qc.signal, qc.rates) == ("steps", "rates", "standard")
    if not is_known or qc.verify != "batch":
        return {}
    n_batches = sum(len(visit.batches) for visit in make_visits(schedule, schedule.start, plan.subjects))
    churn, single, together = _CHURN[qc.calibrate]
    found = expect_false_alarms(
        n_hc=n_hc,
        n_pd=n_pd,
        error=qc.error,
        batch_size=schedule.batch_size,
        n_batches=n_batches,
        churn=churn,
        churn_single=single,
        together=together,
    )
    log.info(
        "expected by chance alone: %.1f of %d batches per cycle rejected, %.1f good scans flagged, %.1f of them "
        "eliminated, if harmless steps flip as large a share of the predictions of %d HC and %d PD scans as on "
        "the field cohort; more if the threshold drifts",
        *(found.batches, n_batches, found.flagged, found.eliminated, n_hc, n_pd),
    )
    return dict(zip(EXPECTED, (found.batches, found.eliminated), strict=True))
