"""Verdicts with one dial: of what is eliminated, at most the share q (`qc.fdr`) is expected to be good.

The control, on one page
------------------------
1. **State.** After every verification the centers' `platt.LogitCounts` are added up and one line is fitted
   (`calibrate_counts`). States are judged by AUROC and calibrated loss. What is below is computed with that line, never
   at a raw 0.5.
2. **Out of sample.** Verdicts need scores of scans that the state has not trained on: hold each center out of the
   tour in turn (a fold of centers sits out the cycles between two screenings), or score before a center's first
   visit. A center averages its scans' calibrated logits over all such screenings so far; evidence adds up there,
   before a test.
3. **Centers** are judged at *looks*, few and planned (K in a run). Each center runs `center_tests.judge_center`
   itself and sends n, v, two statistics and p. `judge_centers` puts those under verdict that Benjamini-Hochberg
   rejects at q: they wait, R cycles or more, off the tour. At a later look a waiting center is eliminated if
   Benjamini-Hochberg rejects it at q / K among all centers with p = 1 for whoever is not waiting; is taken back if it
   is not even rejected at q; and waits on otherwise (undecided if the run ends). All eliminations of a run together
   have FDR <= q (`fdr`: union bound over looks; the number of centers stays that of the start, the eliminated ones
   included).
4. **Odd images** (`conformal.judge_oddness`): any score of oddness, against verification scans of the scanner where
   there are enough; found by `conformal` at q, or beyond a fixed limit, which promises nothing. Same waiting and
   revisit.
5. **Single labels** (`label_fdr.judge_labels`), of centers not under verdict: eliminated where the expected false share
   allows it, at the field's accuracy never; all others ranked for a human.
6. **Visits** (`visits.weigh_visits`): the calibrated change of the verification loss, summed up as an e-value. It
   needs no held-out state, and is reported beside the verdicts; it decides nothing, since lasting harmless
   differences between centers look the same.
7. **Power** (`power`): what of the same size and kind would have been found. Printed with every "nothing found".
8. **The published gate** stays. `false_alarms`: what it will reject by chance, before training; its drift, afterwards.

The promise is kept for each kind of verdict: centers, odd images, labels. For their union it holds for the ratio of
expectations (false over all), and as E(false share) <= the sum of the three in the worst case. Its unit is what is
judged: of *centers* eliminated at most q are good; their share of the scans may be larger where a large one is among
them. Weighting by size was tried on real sites instead (threshold q * scans rejected / scans): as many found, more
good centers accused.

**What it cannot know**: harm that a center's verification scans share; flipped labels at a center too small for any
test to reach the level (`CenterVerdict.can_be_rejected`); single flipped labels at the field's AUROC; anything about
scans that the state has learnt by heart.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from tmqc.core.center_tests import CenterTest
from tmqc.core.fdr import benjamini_hochberg, confirm, share_of_look

SOUND, SUSPECT, ELIMINATED, TAKEN_BACK = "sound", "under verdict", "eliminated", "taken back"


@dataclass(frozen=True)
class CenterVerdict:
    """What a look decides about a center, with all it was made from.

    Attributes:
        test: the center's own numbers. state: `sound`, `under verdict`, `eliminated` or `taken back`.
        waited: whether it was under verdict before this look.
        limit: p at or below which a center came under verdict at this look; 0 if no p was small enough.
        eliminate_limit: the same for the elimination of those that waited.
        can_be_rejected: whether its sizes allow a p that could ever be below q, were enough others rejected with it.
    """

    test: CenterTest
    state: str
    waited: bool
    limit: float
    eliminate_limit: float
    can_be_rejected: bool


def judge_centers(
    tests: Mapping[str, CenterTest],
    *,
    waiting: Collection[str],
    n_centers: int,
    q: float,
    look: int,
    n_planned: int,
) -> dict[str, CenterVerdict]:
    """Decide about all centers tested at a look.

    Args:
        tests: by center; eliminated ones and those that could not be tested are not in it.
        waiting: centers under verdict for as long as the revisit list demands.
        n_centers: of the whole run, also those not in `tests`, which count with p = 1.
        q: `qc.fdr`. look, n_planned: this look's number among those that may eliminate, from 1, and how many there
            will be.

    Raises:
        ValueError: fewer `n_centers` than tests, a look beyond the planned ones, or q out of range.
    """
    if n_centers < len(tests):
        raise ValueError(
            f"n_centers={n_centers}, but {len(tests)} were tested: all of the run's centers are to be counted"
        )
    p = np.ones(n_centers)
    p[: len(tests)] = [test.p for test in tests.values()]
    was_waiting = np.zeros(n_centers, bool)
    was_waiting[: len(tests)] = [name in waiting for name in tests]
    q_look = share_of_look(q, look, n_planned)
    suspect, out = benjamini_hochberg(p, q), confirm(p, was_waiting.tolist(), q_look)
    limit, eliminate_limit = (level * int(r.sum()) / n_centers for level, r in ((q, suspect), (q_look, out)))
    return {
        name: CenterVerdict(
            test=test,
            state=_name_state(bool(suspect[row]), bool(out[row]), waited=bool(was_waiting[row])),
            waited=bool(was_waiting[row]),
            limit=limit,
            eliminate_limit=eliminate_limit,
            can_be_rejected=test.p_least <= q,
        )
        for row, (name, test) in enumerate(tests.items())
    }


def _name_state(suspect: bool, out: bool, *, waited: bool) -> str:
    if out:
        return ELIMINATED
    if suspect:
        return SUSPECT
    return TAKEN_BACK if waited else SOUND
