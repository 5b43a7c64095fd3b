"""Accept or reject one training step, and the gates beyond the published one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tmqc.core.confident import Slack
from tmqc.core.early_stop import Limit
from tmqc.core.rates import RATES, Counts, Flips, Rates, Verification


@dataclass(frozen=True)
class Gate:
    """What a verified step is judged by. The defaults are the published gate.

    Attributes:
        signal: `rates`: neither FPR nor FNR may rise beyond its tolerance; `loss`: the mean verification loss may not.
        error: acceptable error per sample, in rate.
        loss_error: the same for the loss, in nats.
        rates: how rates are made of counts, a key of `RATES`.
    """

    signal: str = "rates"
    error: float = 0.02
    loss_error: float = 0.01
    rates: str = "standard"

    def rates_of(self, verification: Verification) -> Rates:
        """The two rates as this gate compares them; lower bounds if scans were left out."""
        return RATES[self.rates](verification.at_best)

    def tolerances(self, n_samples: int) -> tuple[float | None, float | None]:
        """By how much a rate, or the loss, may rise in a step of `n_samples`; None for what is not checked."""
        if self.signal == "loss":
            return None, n_samples * self.loss_error
        return n_samples * self.error, None

    def limit(self, reference: Verification, *, n_samples: int, risk: float | None = None) -> Limit:
        """From where on the verification of a step of `n_samples` need not be finished.

        Args:
            risk: as of `Limit`.
        """
        rate, loss = self.tolerances(n_samples)
        before, n = self.rates_of(reference), reference.at_best
        worth = RATES[self.rates](Counts(tp=n.n_pd - 1, fp=1, tn=n.n_hc - 1, fn=1))  # of one flip
        # A step that meets its tolerance to the bit has as good as used it up.
        hc, pd = (None if rate is None else math.floor(rate / one * (1 - 1e-9)) + 1 for one in (worth.fpr, worth.fnr))
        return Limit(
            fpr=None if rate is None else before.fpr + rate,
            fnr=None if rate is None else before.fnr + rate,
            loss=None if loss is None else reference.loss + loss,
            rates=self.rates,
            slack=Slack(hc, pd, None if loss is None else loss * n.n),
            risk=risk,
        )


@dataclass(frozen=True)
class Verdict:
    """A decision together with everything it was made from; tolerances are None where a signal has no say."""

    accepted: bool
    rates: Rates
    reference: Rates
    tolerance: float | None
    loss: float | None = None
    loss_reference: float | None = None
    loss_tolerance: float | None = None
    flips: Flips = field(default=Flips())
    risk: float | None = None


def decide(
    verification: Verification,
    reference: Verification,
    *,
    n_samples: int,
    gate: Gate = Gate(),
    risk: float | None = None,
) -> Verdict:
    """Judge a step of `n_samples` by the verification after it and the reference verification.

    Args:
        risk: a part of the scans whose risk is no larger than that accepts the step; None: all have to be scored.

    Raises:
        ValueError: scans were left out of a verification that neither rejects nor may accept, or of its reference.
    """
    rates, before = gate.rates_of(verification), gate.rates_of(reference)
    rate_tolerance, loss_tolerance = gate.tolerances(n_samples)
    flips = verification.flips
    accepted = True
    if rate_tolerance is not None:
        # Not `rate - reference <= tolerance`: a reader of the trace has to arrive at the same bit.
        fpr_worse = not rates.fpr <= before.fpr + rate_tolerance
        fnr_worse = not rates.fnr <= before.fnr + rate_tolerance
        accepted = not (fpr_worse or fnr_worse)
    if loss_tolerance is not None:
        accepted = accepted and verification.loss <= reference.loss + loss_tolerance
    if gate.limit(reference, n_samples=n_samples, risk=risk).accepts(verification):
        accepted, before = True, _on_the_same_scans(verification, gate)
    elif reference.is_partial or (accepted and verification.is_partial):
        raise ValueError("a verification that left scans out can reject a step, not accept it or be the reference")
    return Verdict(
        accepted=accepted,
        rates=rates,
        reference=before,
        tolerance=rate_tolerance,
        loss=verification.loss,
        loss_reference=reference.loss,
        loss_tolerance=loss_tolerance,
        flips=flips,
        risk=verification.risk,
    )


def _on_the_same_scans(partial: Verification, gate: Gate) -> Rates:
    """The reference's rates on the scans of `partial`, its flips undone; the others taken to be right, as in those."""
    now, flips = partial.at_best, partial.flips
    hc, pd = flips.broken_hc - flips.fixed_hc, flips.broken_pd - flips.fixed_pd
    return RATES[gate.rates](Counts(tp=now.tp + pd, fp=now.fp - hc, tn=now.tn + hc, fn=now.fn - pd))


def flip_worth(counts: Counts) -> Rates:
    """What one flipped prediction moves each standard rate by: 1 / HC and 1 / PD.

    An acceptable error below that lets a single flip reject a step of one sample.
    """
    return Rates(fpr=1 / counts.n_hc, fnr=1 / counts.n_pd)
