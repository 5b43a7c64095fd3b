"""Test for harmful centers that compares centers with one another, under a normal model of center differences.

The tests of `core.center_tests` make no assumption about a center but have no power at a small one: with n training
and v verification scans no permutation p-value is below 1 / C(n + v, v). If center effects are draws from one
distribution, the other centers add information. Calibrated logit of scan i (x = +1 for PD, -1 for HC) at center s:

    z_i = middle + x_i half (1 + a_s) + b_s + e_i,   a_s ~ N(0, slope), b_s ~ N(0, shift), e_i ~ N(0, within)

(a linear mixed model with random shift and slope; Laird and Ware, Biometrics 1982). The test statistic is the sum of
the margins x_i z_i over the center's training scans, given its verification scans: a center with few verification
scans is compared mainly with other centers, one with many mainly with itself. A center's shift cancels as far as its
classes are balanced; a small slope counts against a center only beyond the variation of slopes between centers.

**The null hypothesis** is estimated from the verification scans of all centers, on which no model was trained: a good
center's training scans have the same margins or, as far as the model has memorized them, higher ones, so p can only
become larger. Training scans would understate how much centers differ: a model learns the centers it is trained at.
A maximum-likelihood variance is often 0 if there are few verification scans, and good centers would be accused;
therefore the likelihood is multiplied by the standard deviation of each of the three terms (a gamma prior with shape 2
and rate 0; Chung et al., doi 10.1007/s11336-013-9328-2). z is compared with Student's t with one degree of freedom less
than there are centers with verification scans.

**Data that the test needs**: five sums for each split of a center (`sum_logits`); with a single scan they reveal its
logit. Sites send the scores of single scans, which the tests of images and labels need (`federation.messages`).

**Assumptions.** Center effects are normal, verification scans are good and drawn like training scans, and the model has
been trained equally at all centers, as the clean model that control starts from has. `docs/study-real-sites.md`
measures both cases: at real sites that a model was trained at, the error rate holds and most small harmful sites are
found; at sites that it has never seen, shifts have heavier tails and more good sites are flagged than promised.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from scipy.stats import t

_LEAST = 1e-6  # lower bound of each variance, as a share of the total variance

Sums = NDArray[np.float64]
"""Number of PD and of HC scans, sum of PD and of HC logits, sum of all squared logits: shape (..., 5)."""


@dataclass(frozen=True)
class Effects:
    """Parameters of the model, estimated from `n_centers` centers.

    `middle` and `half` are in calibrated logits, `within`, `shift` and `slope` are variances.
    """

    middle: float
    half: float
    within: float
    shift: float
    slope: float
    n_centers: int


def sum_logits(logits: ArrayLike, labels: ArrayLike) -> Sums:
    """Compute the sums of a center's scans of one split; labels: 1 = PD, 0 = HC."""
    z, is_pd = np.asarray(logits, np.float64), np.asarray(labels) == 1
    return np.array([is_pd.sum(), (~is_pd).sum(), z[is_pd].sum(), z[~is_pd].sum(), z @ z], np.float64)


def varies(sums: Sums) -> bool:
    """Whether logits vary within the classes; those of a saturated model do not, and centers cannot be compared."""
    n_pd, n_hc, pd, hc, squares = sums
    return bool(squares - pd**2 / max(1.0, n_pd) - hc**2 / max(1.0, n_hc) > 1e-9 * squares)


def flip(sums: Sums) -> Sums:
    """Sums of the same scans with all labels flipped."""
    return sums[..., [1, 0, 3, 2, 4]]


def compare_centers(train: Sums, verification: Sums) -> tuple[NDArray[np.float64], Effects]:
    """Fit the model to the verification scans and standardize every center's margin sum of training scans.

    Args:
        train, verification: sums of every center, shape (centers, 5); zeros where a center has no scans.

    Returns:
        z, shape (centers,), low where the model contradicts the labels; the fitted parameters.

    Raises:
        ValueError: as in `fit_effects`.
    """
    effects = fit_effects(verification)
    return standardize(train, verification, effects), effects


def p_values(z: NDArray[np.float64], effects: Effects) -> NDArray[np.float64]:
    """One-sided p-values of z from `compare_centers` or `standardize`."""
    p: NDArray[np.float64] = t.cdf(z, max(1, effects.n_centers - 1))
    return p


def fit_effects(sums: Sums) -> Effects:
    """Estimate the parameters by penalized maximum likelihood from the sums of all centers, shape (centers, 5).

    Raises:
        ValueError: a class has no scan, or all logits of a class are equal.
    """
    sums = sums[sums[:, :2].sum(axis=1) > 0]
    n_pd, n_hc, pd, hc, squares = whole = sums.sum(axis=0)
    if not (n_pd and n_hc):
        raise ValueError(f"{n_pd:.0f} PD scans and {n_hc:.0f} HC scans: comparing centers needs scans of both classes")
    if not varies(whole):
        raise ValueError("all logits of a class are equal: centers cannot be compared")
    means = pd / n_pd, hc / n_hc
    scale = np.log((squares - n_pd * means[0] ** 2 - n_hc * means[1] ** 2) / (n_pd + n_hc))
    bounds = [(None, None)] * 2 + [(scale + np.log(_LEAST), scale + 2.0)] * 2 + [(np.log(_LEAST), 2.0)]
    start = [*means, scale - 0.1, scale - 2.0, -3.0]
    found = minimize(_penalized_negative_log_likelihood, start, args=(sums,), method="L-BFGS-B", bounds=bounds)
    return _effects_of(found.x, len(sums))


def _penalized_negative_log_likelihood(parameters: NDArray[np.float64], sums: Sums) -> float:
    # The last parameters are the logarithms of three standard deviations.
    return _negative_log_likelihood(parameters, sums) - 0.5 * float(np.sum(parameters[2:]))


def _effects_of(parameters: NDArray[np.float64], n_centers: int) -> Effects:
    pd, hc, *logs = map(float, parameters)
    within, shift, slope = (float(np.exp(one)) for one in logs)
    return Effects((pd + hc) / 2.0, (pd - hc) / 2.0, within, shift, slope, n_centers)


def _center_sums(sums: Sums, effects: Effects) -> tuple[NDArray[np.float64], ...]:
    """Number of scans, number of PD minus HC scans, and the sum, signed sum and sum of squares of the residuals."""
    n_pd, n_hc, pd, hc, squares = np.moveaxis(sums, -1, 0)
    at_pd, at_hc = effects.middle + effects.half, effects.middle - effects.half
    left_pd, left_hc = pd - n_pd * at_pd, hc - n_hc * at_hc
    square = squares - 2.0 * (at_pd * pd + at_hc * hc) + n_pd * at_pd**2 + n_hc * at_hc**2
    return n_pd + n_hc, n_pd - n_hc, left_pd + left_hc, left_pd - left_hc, square


def _negative_log_likelihood(parameters: NDArray[np.float64], sums: Sums) -> float:
    """Negative log-likelihood up to a constant, by Woodbury's identity for two random effects per center."""
    e = _effects_of(parameters, len(sums))
    n, excess, plain, signed, square = _center_sums(sums, e)
    a, b = 1.0 + e.shift * n / e.within, 1.0 + e.slope * e.half**2 * n / e.within
    c = np.sqrt(e.shift * e.slope) * e.half * excess / e.within
    u, w = np.sqrt(e.shift) * plain, np.sqrt(e.slope) * e.half * signed
    determinant = a * b - c**2
    explained = (b * u**2 - 2.0 * c * u * w + a * w**2) / determinant / e.within
    return float(0.5 * np.sum(n * np.log(e.within) + np.log(determinant) + (square - explained) / e.within))


def standardize(train: Sums, verification: Sums, effects: Effects) -> NDArray[np.float64]:
    """Standardize the margin sums of training scans by their mean and deviation given the verification scans.

    Args:
        train, verification: shape (..., 5).

    Returns:
        Shape (...); 0 where there is no training scan.
    """
    e = effects
    v, v_excess, v_plain, v_signed, _ = _center_sums(verification, e)
    # Posterior of shift and slope given the verification scans.
    p11, p22, p12 = 1.0 / e.shift + v / e.within, 1.0 / e.slope + e.half**2 * v / e.within, e.half * v_excess / e.within
    determinant = p11 * p22 - p12**2
    g1, g2 = v_plain / e.within, e.half * v_signed / e.within
    shift, slope = (p22 * g1 - p12 * g2) / determinant, (p11 * g2 - p12 * g1) / determinant
    n, excess, _, signed, _ = _center_sums(train, e)
    by_shift, by_slope = excess, e.half * n
    variance = n * e.within
    variance += (by_shift**2 * p22 + by_slope**2 * p11 - 2.0 * by_shift * by_slope * p12) / determinant
    left: NDArray[np.float64] = signed - shift * by_shift - slope * by_slope
    return np.divide(left, np.sqrt(variance), out=np.zeros_like(left), where=variance > 0.0)
