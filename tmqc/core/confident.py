"""Accept a step by a part of the verification scans, at a stated error (`qc.early_stop=confident`).

**Which scans.** Predictions flip where the model is in doubt: the most doubtful scans under the reference are always
scored, and of the rest as many as a random permutation puts first. It is drawn anew whenever all scans have been
scored, and stays until then, so that a step and its reference are compared on the very same scans: an accepted step
becomes the next reference on these scans, and nothing is carried over for the others. Only acceptance is decided by a
part; a rejection by as many scans as make it certain. So the model takes the way of full verification up to its first
wrong acceptance, and has not been chosen by what the permutation shows of it.

**How sure.** Let N scans of a class be left besides the doubtful ones, n of them scored, b of these broken, and k
the fewest net flips among the N with which the step would be rejected. Then at least k of the N are broken, and b
or fewer among the n are found with probability P(hypergeometric(N, k, n) <= b) at most. Both classes must pass, so the
larger of the two bounds the probability of a wrong acceptance; fixed predictions of the rest are left out of account.

**The loss.** Here changes of any size count, up to 16 nats a scan, and no part excludes one such change. It is assumed
that no other scan's loss rises by more than twice as much as the doubtful ones' changed. Then the wealth of bets
against "the changes of the rest add up to too much" (Waudby-Smith and Ramdas, doi 10.1093/jrsssb/qkad009, without
replacement) exceeds 1 / a with probability a at most if they do, whenever one looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

_DOUBTFUL, _PART = 1 / 16, 0.22  # shares of the scans: always scored; scored in all
_LARGEST_RISE = 2.0
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

    def at_best(self, labels: NDArray[np.integer], n_scored: int) -> float:
        """The risk if nothing of note is found among `n_scored` scans, by the rates alone; 1: the part is too small."""
        rest, first = labels[n_doubtful(len(labels)) :], labels[n_doubtful(len(labels)) : n_scored]
        ks = zip((self.hc, self.pd), (0, 1), strict=True)
        return max(
            (_by_flips(0, np.sum(rest == c), k, np.sum(first == c)) for k, c in ks if k is not None), default=0.0
        )


def n_doubtful(n: int) -> int:
    """How many of n scans are always scored."""
    return round(_DOUBTFUL * n)


def n_part(n: int) -> int:
    """How many of n scans are scored before a step is accepted."""
    return round(_PART * n)


def order_scans(doubts: NDArray[np.floating], *, seed: int) -> NDArray[np.intp]:
    """Rows of the scans in the order of scoring: the most doubtful, then the rest at random.

    Args:
        doubts: as of `early_stop.order_batches`.
    """
    by_doubt = np.argsort(-doubts, kind="stable")
    first, rest = np.split(by_doubt, [n_doubtful(len(doubts))])
    return np.concatenate([first, np.random.default_rng(seed).permutation(rest)])


def acceptance_risk(
    slack: Slack,
    labels: NDArray[np.integer],
    *,
    broken: NDArray[np.bool_],
    fixed: NDArray[np.bool_],
    rises: NDArray[np.float64],
) -> float:
    """Bound of the probability to see what was seen, or less, of a step that full verification would reject.

    Args:
        labels: of all n scans in the order of scoring, 1 = PD.
        broken, fixed, rises: of the m scans scored, against the reference: flips, and the loss's rises in nats.
    """
    d, m, risks = n_doubtful(len(labels)), len(broken), [0.0]
    for k, label in ((slack.hc, 0), (slack.pd, 1)):
        if k is not None:
            of_class = labels[:m] == label
            net = int(np.sum(broken[:d] & of_class[:d])) - int(np.sum(fixed[:d] & of_class[:d]))
            b = int(np.sum(broken[d:] & of_class[d:]))
            risks.append(_by_flips(b, np.sum(labels[d:] == label), k - net, np.sum(of_class[d:])))
    if slack.loss is not None:
        too_much = slack.loss - float(np.sum(rises[:d]))
        bound = _LARGEST_RISE * float(np.max(np.abs(rises[:d]), initial=0.0))
        risks.append(bets_risk(rises[d:].tolist(), n=len(labels) - d, total=too_much, bound=bound))
    return max(risks)


def _by_flips(broken: int, n: int, too_many: int, n_scored: int) -> float:
    """`too_many` of n would have to be broken; `n_scored` were looked at."""
    if too_many <= broken:
        return 1.0
    return float(hypergeom.cdf(broken, n, too_many, n_scored)) if too_many <= n else 0.0


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
