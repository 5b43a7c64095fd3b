"""What the published gate will reject by chance alone: known before training starts."""

from __future__ import annotations

import logging

from tmqc.core.false_alarms import expect_false_alarms
from tmqc.core.numbers import EXPECTED
from tmqc.core.schedule import make_visits
from tmqc.training.travel import Plan

log = logging.getLogger("tmqc")

# What harmless steps of a batch, and of one scan, flip of the verification predictions on the field cohort, as equally
# likely shares, and how far their directions agree. At 0.5, and at the calibrated threshold (docs/step-gates.md).
CHURN: dict[bool, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    False: ((0.0, 0.0, 0.007, 0.036, 0.083), (0.005, 0.024, 0.053, 0.067, 0.081), 0.9),
    True: ((0.014,), (0.008,), 0.0),
}


def expect_by_chance(plan: Plan, *, n_hc: int, n_pd: int) -> dict[str, float]:
    """Numbers `EXPECTED` of a cycle without harm, and a line in the log; empty for gates without such a theory.

    Args:
        n_hc, n_pd: verification scans.
    """
    qc, schedule = plan.qc, plan.schedule
    is_known = (qc.control, qc.signal, qc.rates) == ("steps", "rates", "standard")
    if not is_known or qc.verify != "batch":
        return {}
    n_batches = sum(len(visit.batches) for visit in make_visits(schedule, schedule.start, plan.subjects))
    churn, single, together = CHURN[qc.calibrate]
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
        "expected by chance alone: %.1f of %d batches a cycle rejected, %.1f good scans flagged, %.1f of them "
        "eliminated, if harmless steps flip as large a share of the predictions of %d HC and %d PD scans as on "
        "the field cohort; more wherever the threshold moves",
        *(found.batches, n_batches, found.flagged, found.eliminated, n_hc, n_pd),
    )
    return dict(zip(EXPECTED, (found.batches, found.eliminated), strict=True))
