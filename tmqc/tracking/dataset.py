"""What is logged of a data set: counts, neither names nor paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tmqc.data.cohort import Subject


def dataset_profile(subjects: Sequence[Subject]) -> dict[str, int]:
    """Count a split: `n_subjects`, `n_pd`, `n_hc`, `n_centers`."""
    groups = Counter(subject.group for subject in subjects)
    return {
        "n_subjects": len(subjects),
        "n_pd": groups[1],
        "n_hc": groups[0],
        "n_centers": len({subject.study for subject in subjects}),
    }
