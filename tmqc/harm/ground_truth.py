"""Ground truth of a run: harm drawn for it, listed in a manifest, or both. For scores only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tmqc.data.cohort import Cohort
from tmqc.data.truth import Truth, read_truth
from tmqc.errors import RunError
from tmqc.harm.draw import draw_harm
from tmqc.settings.schema import CohortConfig, HarmfulConfig

_MOST_NAMED = 5


def draw_truth(settings: HarmfulConfig, cohort: Cohort) -> Truth | None:
    """Draw the scans to corrupt in this run; None if the scenario is none.

    Raises:
        SettingsError: ids do not exist, or a count is too large.
        RunError: an extra copy would have the id of a verification or test scan.
    """
    if settings.scenario == "none":
        return None
    drawn = draw_harm(cohort.train, settings)
    if taken := drawn.subjects & {s.subject for s in [*cohort.verification, *cohort.test]}:
        raise RunError(f"harmful.placement=extra: ids {', '.join(sorted(taken))} would occur twice: rename the scans")
    return drawn


def find_truth(settings: CohortConfig, cohort: Cohort, drawn: Truth | None) -> Truth | None:
    """All known harm of a run: the drawn scans and those in `cohort.truth_csv`; None if nothing is known.

    Raises:
        InputError: the manifest is invalid, or lists a scan that is not in the training split or is also drawn.
    """
    path = settings.truth_csv
    if path is None:
        return drawn
    known = read_truth(Path(path))
    _check_trained_on(settings, cohort, known)
    if drawn is None:
        return known
    if twice := known.subjects & {name for harm in drawn.harms for name in (harm.subject, harm.source)}:
        raise RunError(
            f"cohort.truth_csv={path} already lists {_list(twice)} as harmful, so the run cannot corrupt them again; "
            "choose others by harmful.ids, or another harmful.seed"
        )
    return Truth(tuple(sorted((*known.harms, *drawn.harms), key=lambda harm: harm.subject)))


def _check_trained_on(settings: CohortConfig, cohort: Cohort, known: Truth) -> None:
    if strangers := known.subjects - {row.subject for row in cohort.train}:
        path = settings.truth_csv
        table = settings.train_csv if settings.source == "csv" else "the phantom cohort's train.csv"
        raise RunError(
            f"cohort.truth_csv={path} lists {_list(strangers)}, not in the training split ({table}); "
            "every harmful scan must be in it with exactly the same id, including leading zeros (007)"
        )


def _list(subjects: Iterable[str]) -> str:
    names = sorted(subjects)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
