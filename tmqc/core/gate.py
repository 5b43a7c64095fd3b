"""Accept or reject one training step (METHOD section 6)."""

from __future__ import annotations

from dataclasses import dataclass

from tmqc.core.rates import Counts, Rates


@dataclass(frozen=True)
class Verdict:
    """A decision together with everything it was made from."""

    accepted: bool
    rates: Rates
    reference: Rates
    tolerance: float


def decide(rates: Rates, reference: Rates, *, n_samples: int, error: float) -> Verdict:
    """The published gate: neither rate may exceed its reference by more than `n_samples * error`.

    Args:
        rates: of the verification just made.
        reference: of the last accepted verification.
        n_samples: samples in the step.
        error: acceptable error per sample, in rate.
    """
    tolerance = n_samples * error
    accepted = rates.fpr <= reference.fpr + tolerance and rates.fnr <= reference.fnr + tolerance
    return Verdict(accepted, rates, reference, tolerance)


def flip_worth(counts: Counts) -> Rates:
    """What one flipped prediction moves each standard rate by: 1 / HC and 1 / PD.

    An acceptable error below that lets a single flip reject a step of one sample.
    """
    return Rates(fpr=1 / counts.n_hc, fnr=1 / counts.n_pd)
