"""Verdicts with one parameter: at most the share q (`qc.fdr`) of what is eliminated is expected to be good.

Overview of the control by evidence
-----------------------------------
1. **State.** After every verification the centers' `platt.LogitCounts` are added up and one line is fitted
   (`calibrate_counts`). States are compared by AUROC and calibrated loss, and everything below uses that line, never a
   raw 0.5. No look is taken from a state whose line is flat: its margins reflect only the class shares.
2. **Scores.** Every few cycles all scans are scored by forward passes, and a scan's calibrated logits are averaged
   over all screenings so far; evidence accumulates there, before a test. Scans under verdict are not trained on, so
   all their later scores are out of sample.
3. **Centers** are judged at a few planned *looks* (K in a run). One of two tests gives each center one p:
   - `across` (`center_effects`): compares its margin sum, given its verification scans, with the verification scans of
     all centers under a normal model of center differences; applies to centers with five training scans or more. It
     has power at small centers, and is valid if the first state has been trained at all centers, as the clean model
     that control starts from has.
   - `within` (`center_tests.judge_center`): compares the center's own scans. It is valid for any center differences.
     Before the first look, sizes determine which centers can be judged (`fdr.large_enough` of `center_tests.least_p`
     at q' / K).

   `judge_centers` puts centers that Benjamini-Hochberg rejects at q under verdict: they wait for R cycles or more
   without training. At a later look a waiting center is eliminated if Benjamini-Hochberg rejects it at q' / K, where
   q' is the part of q for centers, with p = 1 for all centers that are not waiting; is taken back if it is not rejected
   at q either; and otherwise continues to wait (undecided if the run ends). All centers eliminated in a run have
   FDR <= q' (`fdr`: union bound over looks; the number of hypotheses stays that of the start, eliminated centers
   included).
4. **Odd images** (`conformal.judge_oddness`): distance of the moments of the input of the first BatchNorm layer from
   those of the verification scans, of the same scanner if there are enough; its p-value is extrapolated beyond the
   oddest of them (`conformal`). Rejection at q, waiting, revisits and elimination at q' / K are as for centers.
5. **Single labels** (`label_fdr.judge_labels`) of centers not under verdict: eliminated if the false discovery rate
   permits it at q' / K, which at the field's accuracy never happens; all are ranked for a human (`review`).
6. **Steps** are not verified and decide nothing. An e-value of a center's visits (does the calibrated loss rise after
   them more than after other centers' visits?) was tried and dropped: lasting harmless differences between centers
   look the same, and with a tolerance for them one center among 83 needs 31 cycles of bad visits only.
7. **Power** (`power`): share of centers of a size that would have been found. Printed with every "nothing found".
8. **Gates of steps**, such as the published one, are a separate control (`gate`). `false_alarms` computes the expected
   false rejections of the published gate before training, and the drift of the rates under a gate.

The FDR is controlled for all verdicts together: with V_k good ones among the R_k eliminated centers, images or labels,
V / R <= sum_k V_k / R_k, and the kinds spend parts of q (`evidence.SHARES`) that add up to it. The unit is what is
judged: at most q of the eliminated centers, images and labels are good; the share of the scans may be larger if a large
center is among them. Suspicion, which only makes a scan wait, uses q itself for each kind.

**Not detectable**: harm shared by a center's verification scans; flipped labels at a center too small to be judged;
single flipped labels at the field's AUROC; any harm in scans that the state has memorized.

**Tried on real sites and dropped** (ten repeats each, q = .1; `docs/study-real-sites.md` reports what was kept).
Weighting centers by scans, p <= q * scans rejected / scans: with 6 of 23 flipped, .52 found instead of .50, but a false
share of .13 instead of .05. Ranks instead of means in T2: .45. Logits minus the center's median: .47.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tmqc.core.center_tests import CenterTest
from tmqc.core.fdr import benjamini_hochberg, confirm

SOUND, SUSPECT, ELIMINATED, TAKEN_BACK = "sound", "under verdict", "eliminated", "taken back"
TOO_SMALL = "too small to be judged"


@dataclass(frozen=True)
class CenterVerdict:
    """Decision about a center at a look, and everything that it was based on.

    Attributes:
        test: test results of the center.
        state: `sound`, `under verdict`, `eliminated`, `taken back` or `too small to be judged`.
        waited: whether the center was under verdict before this look.
        limit: p at or below which centers come under verdict at this look; 0 if no p was small enough.
        eliminate_limit: p at or below which waiting centers are eliminated.
    """

    test: CenterTest
    state: str
    waited: bool
    limit: float
    eliminate_limit: float


def judge_centers(
    tests: Mapping[str, CenterTest],
    *,
    judged: Collection[str],
    waiting: Collection[str],
    q: float,
    q_out: float,
) -> dict[str, CenterVerdict]:
    """Judge all centers tested at a look.

    Args:
        tests: by center, without eliminated centers and those that could not be tested.
        judged: centers that `evidence.able_to_be_judged` named when control began, the same at every look; those
            without a test count with p = 1.
        waiting: centers that have been under verdict for the time required by the revisit list.
        q: false discovery rate of suspicion, `qc.fdr`. q_out: of elimination, this look's part of it.

    Raises:
        ValueError: a rate is out of range.
    """
    names = sorted(judged)
    p = [tests[name].p if name in tests else 1.0 for name in names]
    suspect = benjamini_hochberg(p, q)
    out = confirm(p, [name in waiting for name in names], q_out)
    # At least the largest rejected p, which rounding may put above level * k / m: every verdict equals p <= limit.
    limits = [
        float(max([level * int(np.sum(rejected)) / max(1, len(names)), *np.array(p)[rejected]]))
        for level, rejected in ((q, suspect), (q_out, out))
    ]
    is_suspect, is_out = (set(np.array(names)[rejected].tolist()) for rejected in (suspect, out))

    def state(name: str) -> str:
        if name not in judged:
            return TOO_SMALL
        if name in is_out:
            return ELIMINATED
        if name in is_suspect:
            return SUSPECT
        return TAKEN_BACK if name in waiting else SOUND

    return {
        name: CenterVerdict(test, state(name), name in waiting, limits[0], limits[1]) for name, test in tests.items()
    }
