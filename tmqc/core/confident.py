"""Accept a step by a part of the verification scans, at a stated error (`qc.early_stop=confident`).

**Which scans.** As many as a random permutation puts first: a fifth, then, if they do not accept, nearly half. It is
drawn anew whenever all scans have been scored, and stays until then, so that a step and its reference are compared on
the very same scans: an accepted step becomes the next reference on these scans, nothing is carried over for the others,
and where more scans are asked for, they are scored under the reference as well. Only acceptance is decided by a part; a
rejection by as many scans as make it certain. So the model takes the way of full verification up to its first wrong
acceptance, and has not been chosen by what the permutation shows of it. The most doubtful scans, where predictions
flip, are not singled out: within a few steps others are the doubtful ones (simulated: more scans for the same error).

**How sure.** Let N scans of a class be there, n of them scored, b of these broken, and k the fewest net flips with
which the step would be rejected. If it would, k of the N are broken, and b or fewer among the n are found with
probability P(hypergeometric(N, k, n) <= b) at most. Both classes must pass, so the larger of the two bounds the
probability of a wrong acceptance; fixed predictions are left out of account. The two looks share the error, 4 to 1.

**The loss.** Here changes of any size count, up to 16 nats a scan, and no part excludes one such change. It is assumed
that no scan's loss rises by more than twice as much as the first ones' changed. Then the wealth of bets
against "the changes of the rest add up to too much" (Waudby-Smith and Ramdas, doi 10.1093/jrsssb/qkad009, without
replacement) exceeds 1 / a with probability a at most if they do, whenever one looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

_PARTS = ((0.22, 0.8), (0.45, 0.2))  # shares of the scans, and of the error
_N_FIRST, _LARGEST_RISE = 16, 2.0
_STAKES = (0.1, 0.25, 0.5, 0.9)  # shares of the largest bet that cannot lose everything


@dataclass(frozen=True)
class Slack:
    """What a step may do and still be accepted; None: not checked.

    Attributes:
        hc, pd: fewest predictions of the class that are too many, broken less fixed. loss: rise of the loss, summed
            over all verification scans, in nats.
    """

    hc: int | None = None
    pd: int | None = None
    loss: float | None = None


def part_ends(n: int) -> tuple[int, ...]:
    """After how many of n scans a step may be accepted: the parts, and all."""
    return (*(round(share * n) for share, _ in _PARTS), n)


def order_scans(n: int, *, seed: int) -> NDArray[np.intp]:
    """Rows of n scans in the order of scoring."""
    return np.random.default_rng(seed).permutation(n)


def acceptance_risk(
    slack: Slack, labels: NDArray[np.integer], *, broken: NDArray[np.bool_], rises: NDArray[np.float64]
) -> float:
    """Bound of the probability to see what was seen, or less, of a step that full verification would reject.

    Divided by the part's share of the error, so that a step is accepted if it is no larger than the whole error.

    Args:
        labels: of all n scans in the order of scoring, 1 = PD.
        broken, rises: of the m scans scored, a part: flipped to wrong against the reference; the loss's rises in nats.

    Returns:
        0 or more; above 1 where not even an error of 1 would do.
    """
    m, risks = len(broken), [0.0]
    for k, label in ((slack.hc, 0), (slack.pd, 1)):
        if k is not None:
            of_class = labels[:m] == label
            b, total = int(np.sum(broken & of_class)), int(np.sum(labels == label))
            risks.append(float(hypergeom.cdf(b, total, k, int(np.sum(of_class)))) if k <= total else 0.0)
    if slack.loss is not None:
        first = rises[:_N_FIRST]
        bound = _LARGEST_RISE * float(np.max(np.abs(first), initial=0.0))
        left = slack.loss - float(np.sum(first))
        risks.append(bets_risk(rises[len(first) :].tolist(), n=len(labels) - len(first), total=left, bound=bound))
    share = _PARTS[part_ends(len(labels)).index(m)][1]
    return max(risks) / share


def lowest_risk(slack: Slack, labels: NDArray[np.integer]) -> float:
    """The risk by the rates if no part finds a broken prediction: above the error, no part is worth scoring."""
    none = [np.zeros(end, bool) for end in part_ends(len(labels))[:-1]]
    rates = replace(slack, loss=None)
    return min(acceptance_risk(rates, labels, broken=one, rises=np.zeros(len(one))) for one in none)


def bets_risk(values: Sequence[float], *, n: int, total: float, bound: float) -> float:
    """Bound of the probability of `values`, the first of n numbers in random order, if all n add up to `total` or more.

    Anytime-valid: one over the largest wealth that bets against it, each of a fixed share, have had on average.

    Args:
        bound: none of the n is larger.
    """
    if any(value > bound for value in values):
        return 1.0
    wealth, best, seen = np.ones(len(_STAKES)), 1.0, 0.0
    for i, value in enumerate(values):
        mean = (total - seen) / (n - i)  # of what is left, if it adds up to no more than `total`
        if mean >= bound:
            return 0.0 if mean > bound else 1.0 / best
        if mean <= 0.0:
            break
        wealth = wealth * (1.0 - np.array(_STAKES) * (value - mean) / (bound - mean))
        best, seen = max(best, float(np.mean(wealth))), seen + value
    return 1.0 / best
