"""Who is harmful in a run, under the names that its trace and its ledger have for the scans."""

from __future__ import annotations

from pathlib import Path

from tmqc.data.truth import Truth, read_truth
from tmqc.federation.site_settings import TOKENS, read_tokens
from tmqc.runs import directory as rundir


def truth_of(directory: Path) -> Truth | None:
    """The run's `truth.csv`, by the names of its `trace.csv` and `ledger.json`.

    Sites name their scans by tokens. Simulated ones have their tables of tokens in the run directory; real ones keep
    them, and without the table of even one site a scan of it would pass for a good one.

    Args:
        directory: of the run.

    Returns:
        None: nobody is known to be harmful, or it cannot be told who of the run's scans they are.

    Raises:
        InputError: a file cannot be read.
    """
    path = directory / rundir.TRUTH
    if not path.is_file():
        return None
    truth = read_truth(path)
    if not (directory / rundir.SITES_FILE).is_file():
        return truth
    tables = [directory / rundir.SITES / site / TOKENS for site in rundir.read_json(directory / rundir.SITES_FILE)]
    if not all(table.is_file() for table in tables):
        return None
    token_of: dict[str, str] = {}
    for table in tables:
        token_of |= read_tokens(table)
    return truth.renamed(token_of)
