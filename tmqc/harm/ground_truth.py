"""The ground truth of a run: the harm that is drawn for it, that a manifest names, or both. For scores only."""

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
    """Draw the scans that are made harmful in this run; None if the scenario is none.

    Raises:
        SettingsError: ids that do not exist, or more than there are.
        RunError: an extra copy would have the id of a verification or test scan.
    """
    if settings.scenario == "none":
        return None
    drawn = draw_harm(cohort.train, settings)
    if taken := drawn.subjects & {s.subject for s in [*cohort.verification, *cohort.test]}:
        raise RunError(f"harmful.placement=extra: {', '.join(sorted(taken))} would be there twice: rename them")
    return drawn


def find_truth(settings: CohortConfig, cohort: Cohort, drawn: Truth | None) -> Truth | None:
    """All harm of a run that is known: what is drawn, and what `cohort.truth_csv` names; None if nothing is known.

    Raises:
        InputError: the manifest is faulty, names a scan that is not trained on, or one that is drawn besides.
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
            f"cohort.truth_csv={path} lists {_list(twice)} as harmful already: it cannot be made harmful once "
            "more; choose others by harmful.ids, or another harmful.seed"
        )
    return Truth(tuple(sorted((*known.harms, *drawn.harms), key=lambda harm: harm.subject)))


def _check_trained_on(settings: CohortConfig, cohort: Cohort, known: Truth) -> None:
    if strangers := known.subjects - {row.subject for row in cohort.train}:
        path = settings.truth_csv
        table = settings.train_csv if settings.source == "csv" else "the phantom cohort's train.csv"
        raise RunError(
            f"cohort.truth_csv={path} names {_list(strangers)}, not in the training split ({table}); "
            "every harmful scan has to be there under the very same id, zeros in front of it (007) included"
        )


def _list(subjects: Iterable[str]) -> str:
    names = sorted(subjects)
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
