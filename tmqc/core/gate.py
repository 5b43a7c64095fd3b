"""Gates that accept or reject one training step: the published one and others."""

from __future__ import annotations

from dataclasses import dataclass

from tmqc.core.confident import Slack
from tmqc.core.early_stop import Limit
from tmqc.core.rates import RATES, Counts, Rates, Verification
from tmqc.settings.schema import QcConfig


def rates_of(qc: QcConfig, verification: Verification) -> Rates:
    """Rates that the gate compares; lower bounds if scans were left out."""
    return RATES[qc.rates](verification.at_best)


def tolerances(qc: QcConfig, n_samples: int) -> tuple[float | None, float | None]:
    """Allowed rise of the rates, and of the loss, in a step of `n_samples`; None for what is not checked."""
    if qc.signal == "loss":
        return None, n_samples * qc.loss_error
    return n_samples * qc.error, None


def make_limit(qc: QcConfig, reference: Verification, n_samples: int) -> Limit:
    """Limit beyond which the verification of a step of `n_samples` need not be finished."""
    rate, loss = tolerances(qc, n_samples)
    before, n = rates_of(qc, reference), reference.at_best
    worth = RATES[qc.rates](Counts(tp=n.n_pd - 1, fp=1, tn=n.n_hc - 1, fn=1))  # rise of the rates by one error
    fp, fn = (None if rate is None else rate / one for one in (worth.fpr, worth.fnr))
    return Limit(
        fpr=None if rate is None else before.fpr + rate,
        fnr=None if rate is None else before.fnr + rate,
        loss=None if loss is None else reference.loss + loss,
        rates=qc.rates,
        slack=Slack(fp, fn, None if loss is None else loss * n.n),
        risk=1.0 - qc.confidence if qc.early_stop == "confident" else None,
    )


@dataclass(frozen=True)
class Verdict:
    """A decision, and what the verification was compared with; None for a signal that is not checked."""

    accepted: bool
    reference: Rates
    tolerance: float | None
    loss_reference: float | None = None
    loss_tolerance: float | None = None


def decide(qc: QcConfig, verification: Verification, reference: Verification, *, n_samples: int) -> Verdict:
    """Accept or reject a step of `n_samples` by the verification after it and the reference verification.

    Raises:
        ValueError: scans were left out of a verification that does not reject, or of the reference.
    """
    reference = verification.before or reference
    rates, before = rates_of(qc, verification), rates_of(qc, reference)
    rate_tolerance, loss_tolerance = tolerances(qc, n_samples)
    accepted = True
    if rate_tolerance is not None:
        # Not `rate - reference <= tolerance`: readers of the trace must get the same result to the last bit.
        fpr_worse = not rates.fpr <= before.fpr + rate_tolerance
        fnr_worse = not rates.fnr <= before.fnr + rate_tolerance
        accepted = not (fpr_worse or fnr_worse)
    if loss_tolerance is not None:
        accepted = accepted and verification.loss <= reference.loss + loss_tolerance
    if reference.is_partial or (accepted and verification.is_partial):
        raise ValueError("a verification that left scans out can neither accept a step nor be the reference")
    return Verdict(
        accepted=accepted,
        reference=before,
        tolerance=rate_tolerance,
        loss_reference=reference.loss,
        loss_tolerance=loss_tolerance,
    )
