"""What chance alone can do to paired predictions."""

from __future__ import annotations

from math import comb


def worsening_p_value(broken: int, fixed: int) -> float:
    """Exact one-sided McNemar test that a model got worse on the same scans.

    If a changed prediction is as likely to be fixed as to be broken, the number broken is binomial with 1/2.

    Args:
        broken: predictions right before and wrong now. fixed: wrong before and right now.

    Returns:
        Probability of `broken` or more, 0..1; 1 if nothing changed.
    """
    changed = broken + fixed
    ways: int = sum(comb(changed, k) for k in range(broken, changed + 1))
    return ways / (1 << changed)
