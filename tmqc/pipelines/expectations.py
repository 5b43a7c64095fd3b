"""What the published gate will reject by chance alone: known before training starts."""

from __future__ import annotations

import logging

from tmqc.core.false_alarms import expect_false_alarms
from tmqc.core.numbers import EXPECTED
from tmqc.settings.schema import QcConfig
from tmqc.training.travel import Plan

log = logging.getLogger("tmqc")

# Share of the verification predictions that a harmless step flips, and the correlation of their directions: measured on
# the field cohort (docs/step-gates.md), at 0.5 and at the calibrated threshold.
CHURN = {False: (0.02, 0.5), True: (0.02, 0.2)}


def expect_by_chance(qc: QcConfig, plan: Plan, *, n_hc: int, n_pd: int) -> dict[str, float]:
    """Numbers `EXPECTED` of a cycle without harm, and a line in the log; empty for gates without such a theory.

    Args:
        n_hc, n_pd: verification scans.
    """
    is_known = (qc.control, qc.signal, qc.rates, qc.measured.method) == ("steps", "rates", "standard", "none")
    if not is_known or qc.chance is not None or qc.verify != "batch":
        return {}
    n_batches = sum(len(visit.batches) for visit in plan.tour.visits(plan.tour.start, plan.subjects))
    churn, together = CHURN[qc.calibrate]
    found = expect_false_alarms(
        n_hc=n_hc,
        n_pd=n_pd,
        error=qc.error,
        batch_size=plan.tour.batch_size,
        n_batches=n_batches,
        churn=churn,
        together=together,
    )
    log.info(
        "expected by chance alone: %.1f of %d batches a cycle rejected, %.1f good scans flagged, %.1f of them "
        "eliminated, if a harmless step flips %.1f%% of %d predictions; more wherever the threshold moves",
        *(found.batches, n_batches, found.flagged, found.eliminated, 100 * churn, n_hc + n_pd),
    )
    return dict(zip(EXPECTED, (found.batches, found.eliminated), strict=True))
