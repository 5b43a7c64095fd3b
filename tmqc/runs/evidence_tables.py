"""Further tables of `qc=evidence`: `centers.csv`, `review.csv` and `power.csv`, rewritten after every cycle."""

from __future__ import annotations

from dataclasses import astuple, fields
from pathlib import Path

from tmqc.core.review import Review
from tmqc.data.tables import write_table
from tmqc.runs.directory import CENTERS, POWER, REVIEW
from tmqc.training.state import Looks

_CENTERS = (
    *("cycle", "center", "n", "v", "contradicted", "gap", "z", "p", "p_least"),
    *("state", "waited", "limit", "eliminate_limit"),
)
_POWER = ("kind", "smallest", "largest", "n", "n_found", "low", "high")


def write_looks(directory: Path, looks: Looks) -> None:
    """Write the three tables once there has been a screening; a cell is empty if its value does not exist.

    `centers.csv`: one row per center and screening; `contradicted` is the share of pairs in the wrong order (test T1),
    `gap` the difference of mean margins (T2), `z` that of `core.center_effects`. `review.csv`: all scans at the last
    screening, the most suspicious label first. `power.csv`: by number of scans, how many centers would have been
    flagged with all labels flipped.
    """
    if not looks.n:
        return
    centers = [
        (
            *(cycle, center, t.n_train, t.n_verification, t.contradicted, t.gap, t.z, t.p, t.p_least),
            *(one.state, int(one.waited), one.limit, one.eliminate_limit),
        )
        for cycle, center, one in looks.centers
        for t in (one.test,)
    ]
    write_table(directory / CENTERS, _CENTERS, centers)
    write_table(directory / REVIEW, [field.name for field in fields(Review)], map(astuple, looks.review))
    write_table(directory / POWER, _POWER, [("labels flipped", *astuple(one)) for one in looks.power])
