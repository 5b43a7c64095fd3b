"""Verdicts with one dial: of what is eliminated, at most the share q (`qc.fdr`) is expected to be good.

The control, on one page
------------------------
1. **State.** After every verification the centers' `platt.LogitCounts` are added up and one line is fitted
   (`calibrate_counts`). States are judged by AUROC and calibrated loss, and what is below is computed with that line,
   never at a raw 0.5. No look is taken from a state whose line is flat: it knows nothing, and its margins tell only
   the classes' shares.
2. **Scores.** Every few cycles all scans are scored by forward passes, and a scan's calibrated logits are averaged
   over all screenings so far: evidence adds up there, before a test. Who is under verdict is not trained on, so that
   every further score of it is out of sample.
3. **Centers** are judged at *looks*, few and planned (K in a run), each in one of two ways, from which each has one
   p:
   - `across` (`center_effects`): its margin sum, given its verification scans, against all centers' under a normal
     model of how they differ; all centers of five training scans or more. It sees small centers, and holds where the
     first state has been trained at all of them, as the clean model that control starts from has.
   - `within` (`center_tests.judge_center`): its own scans against one another. It holds whatever centers are like.
     Before the first look, sizes decide who can be judged (`fdr.large_enough` of `center_tests.least_p` at q / K).

   `judge_centers` puts those under verdict that Benjamini-Hochberg rejects at q: they wait, R cycles or more, off the
   tour. At a later look a waiting center is eliminated if Benjamini-Hochberg rejects it at q / K with p = 1 for
   whoever is not waiting; is taken back if it is not even rejected at q; and waits on otherwise (undecided if the run
   ends). All eliminations of a run together have FDR <= q (`fdr`: union bound over looks; the number of hypotheses
   stays that of the start, eliminated centers included).
4. **Odd images** (`conformal.judge_oddness`): how far the moments of what enters the first BatchNorm layer lie from
   those of the verification scans, of the same scanner where there are enough; found by `conformal` at q, or beyond a
   fixed limit, which promises nothing. Waiting, revisit and spending (q / K where it eliminates) as for centers.
5. **Single labels** (`label_fdr.judge_labels`), of centers not under verdict: eliminated where the expected false share
   allows it at q / K, at the field's accuracy never; all are ranked for a human (`review`).
6. **Steps** decide nothing here: no step is verified. An e-value of a center's visits (does the calibrated loss rise
   after them more than after others', cycle after cycle?) was tried and left out: lasting harmless differences between
   centers look the same, and with a tolerance for them one center among 83 needs 31 cycles of nothing but bad visits.
7. **Power** (`power`): what of the same size and kind would have been found. Printed with every "nothing found".
8. **Gates of steps**, the published one among them, are another control (`gate`). `false_alarms` says what the
   published one is expected to reject by chance, before training starts, and how far a gate has let rates drift.

The promise is kept for each kind of verdict: centers, odd images, labels. For their union it holds for the ratio of
expectations (false over all); the expected share is at most the sum of the three. Its unit is what is judged: of
*centers* eliminated at most q are good; their share of the scans may be larger where a large one is among them.

**What it cannot know**: harm that a center's verification scans share; flipped labels at a center too small to be
judged; single flipped labels at the field's AUROC; anything about scans that the state has learnt by heart.

**Tried on real sites and left out** (ten repeats each, q = .1; `docs/study-real-sites.md` has what was kept). Weighting
centers by scans, p <= q * scans rejected / scans: with 6 of 23 flipped .52 found in place of .50, but a false share of
.13 in place of .05. Ranks in place of means in T2: .45. Logits less the center's median: .47.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tmqc.core.center_tests import CenterTest
from tmqc.core.fdr import benjamini_hochberg, confirm, share_of_look

SOUND, SUSPECT, ELIMINATED, TAKEN_BACK = "sound", "under verdict", "eliminated", "taken back"
TOO_SMALL = "too small to be judged"


@dataclass(frozen=True)
class CenterVerdict:
    """What a look decides about a center, with all it was made from.

    Attributes:
        test: the center's own numbers.
        state: `sound`, `under verdict`, `eliminated`, `taken back` or `too small to be judged`.
        waited: whether it was under verdict before this look.
        limit: p at or below which a center came under verdict at this look; 0 if no p was small enough.
        eliminate_limit: the same for the elimination of those that waited.
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
    look: int,
    n_planned: int,
) -> dict[str, CenterVerdict]:
    """Decide about all centers tested at a look.

    Args:
        tests: by center; eliminated ones and those that could not be tested are not in it.
        judged: centers that were `fdr.large_enough` when control began, the same at every look; without a test they
            count with p = 1.
        waiting: centers under verdict for as long as the revisit list demands.
        q: `qc.fdr`. look, n_planned: this look's number among those that may eliminate, from 1, and how many there are.

    Raises:
        ValueError: a look beyond the planned ones, or q out of range.
    """
    names = sorted(judged)
    p = [tests[name].p if name in tests else 1.0 for name in names]
    q_look = share_of_look(q, look, n_planned)
    suspect = benjamini_hochberg(p, q)
    out = confirm(p, [name in waiting for name in names], q_look)
    # The largest p rejected, where rounding has it above level * k / m: each verdict follows from p <= limit.
    limits = [
        float(max([level * int(np.sum(rejected)) / max(1, len(names)), *np.array(p)[rejected]]))
        for level, rejected in ((q, suspect), (q_look, out))
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
