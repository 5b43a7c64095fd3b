"""A site's own settings and its table of tokens: files that are kept and read at the hospital only.

Simulated sites have the same files, with the centers of one cohort distributed over them.
"""

from __future__ import annotations

import csv
import hmac
import io
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml

from tmqc.data.cohort import Cohort, Subject, digest, read_cohort, write_split
from tmqc.data.tables import write_table
from tmqc.errors import InputError
from tmqc.runs.directory import write_text
from tmqc.settings.schema import FederationConfig

SIMULATED, TOKENS = "site.yaml", "tokens.csv"  # in the folder of a simulated site; a real site chooses the names
TOKEN_COLUMNS = ("Token", "Subject", "Study")
_KEY = "tmqc-key"  # in the column Subject: marks the row that holds the site's secret key instead of a scan


class SiteError(InputError):
    """A site's own settings or tables cannot be used. Shown at the site only, as it may name ids and paths."""

    heading = "this site cannot take part:"


@dataclass(frozen=True)
class SiteSettings:
    """Settings that a hospital controls.

    Attributes:
        train_csv, verification_csv: tables as of a cohort (docs/your-data.md); None: the site has no such scans.
        tokens_csv: the site's table of tokens and subject ids, created by the first run and kept.
        min_cell: counts of fewer verification scans, and losses of steps on fewer training scans, are not sent.
        share_margins: whether the model's agreement with single scans' labels is sent, as `qc=screen` needs.
        share_scores: whether label, logit, scanner and image statistics of single scans are sent, as `qc=evidence`
            needs.
    """

    train_csv: Path | None
    verification_csv: Path | None
    tokens_csv: Path
    # Not from conf/, where anyone with a clone can change them: only the hospital decides what it shares.
    min_cell: int = 5
    share_margins: bool = False
    share_scores: bool = False


def read_site_settings(path: Path) -> SiteSettings:
    """Read a site's YAML file; paths in it are absolute, or relative to the file (a link's target).

    Raises:
        SiteError: the file cannot be read, or a setting is missing, unknown or out of range.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SiteError(f"{path}: cannot be read as the site's settings: {error}") from None
    if not isinstance(content, dict):
        raise SiteError(f"{path}: must hold settings such as train_csv: train.csv, one per line")
    shares = ("share_margins", "share_scores")
    usual = {name: getattr(SiteSettings, name) for name in ("min_cell", *shares)}
    given = {"train_csv": None, "verification_csv": None, "tokens_csv": TOKENS, **usual}
    faults = [
        f"{path}: {name}: there is no such setting; there are {', '.join(given)}" for name in content.keys() - given
    ]
    given |= content
    for name in ("train_csv", "verification_csv", "tokens_csv"):
        place = given[name]
        if not isinstance(place, str) and (place is not None or name == "tokens_csv"):
            faults.append(f"{path}: {name}={place!r}: must be the path of a CSV")
        given[name] = path.resolve().parent / place if isinstance(place, str) else None
    if given["train_csv"] is None and given["verification_csv"] is None:
        faults.append(f"{path}: neither train_csv nor verification_csv is set: the site has no scans")
    if isinstance(n := given["min_cell"], bool) or not isinstance(n, int) or not n >= 1:
        faults.append(f"{path}: min_cell={n!r}: must be a whole number from 1")
    faults += [
        f"{path}: {name}={given[name]!r}: must be true or false" for name in shares if not isinstance(given[name], bool)
    ]
    if faults:
        raise SiteError(faults)
    return SiteSettings(**given)


def read_site_cohort(settings: SiteSettings) -> Cohort:
    """Read the site's tables; unlike a whole cohort, a site may have scans of one class only.

    Raises:
        CohortError: lists every fault of the tables.
    """
    return read_cohort(
        train_csv=settings.train_csv,
        verification_csv=settings.verification_csv,
        test_csv=None,
        is_part=True,
    )


class Tokens:
    """Opaque names of the site's training scans, drawn at random so that a token discloses nothing about its scan."""

    def __init__(self, path: Path, subjects: Sequence[Subject]) -> None:
        """Read the table at `path`, draw tokens for scans that have none, and write the table.

        Raises:
            SiteError: the table cannot be read or written.
        """
        known = read_tokens(path) if path.exists() else {}
        before = dict(known)
        for subject in (_KEY, *(s.subject for s in subjects)):
            known.setdefault(subject, secrets.token_hex(32 if subject == _KEY else 8))
        self._key = bytes.fromhex(known[_KEY])
        self.of = {subject.subject: known[subject.subject] for subject in subjects}
        self.subject_of = {token: subject for subject, token in self.of.items()}
        if known != before:
            _write_tokens(path, known, {s.subject: s.study for s in subjects})

    def fingerprint(self, cohort: Cohort, settings: SiteSettings) -> str:
        """Return a keyed hash of the site's tables and of what it shares, to detect changes.

        It discloses nothing without the site's key.
        """
        shared = f"min_cell={settings.min_cell} share_margins={settings.share_margins}"  # both affect the counts
        if settings.share_scores:
            shared += " share_scores=True"
        content = f"{digest(cohort.train)} {digest(cohort.verification)} {shared}".encode()
        return hmac.new(self._key, content, "sha256").hexdigest()


def read_tokens(path: Path) -> dict[str, str]:
    """Read subject id -> token from a site's table.

    Raises:
        SiteError: the table cannot be read.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
        tokens = {row["Subject"]: row["Token"] for row in rows}
        bytes.fromhex("".join(tokens.values()))
    except (OSError, UnicodeDecodeError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise SiteError(
            f"{path}: cannot be read as the site's table of tokens ({error}); restore it: without it, the "
            "eliminated scans cannot be identified"
        ) from None
    if len(set(tokens.values())) != len(rows):
        raise SiteError(f"{path}: a token or an id occurs twice; restore the table as it was")
    return tokens


def _write_tokens(path: Path, tokens: dict[str, str], studies: dict[str, str]) -> None:
    try:
        write_table(path, TOKEN_COLUMNS, ((token, s, studies.get(s)) for s, token in tokens.items()))
        path.chmod(0o600)
    except OSError as error:
        raise SiteError(f"{path}: the table of tokens cannot be written: {error.strerror}") from error


def write_site_settings(path: Path, settings: SiteSettings) -> None:
    """Write a site's YAML file."""
    content = {name: str(one) if isinstance(one, Path) else one for name, one in asdict(settings).items()}
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def write_sites(
    folder: Path, settings: FederationConfig, *, train: Sequence[Subject], verification: Sequence[Subject]
) -> dict[str, Path]:
    """Write the settings and tables of every simulated site; scans are not copied.

    Centers are distributed in consecutive blocks, in the order of their first scans, so that the order of centers over
    all sites is that of the cohort.

    Returns:
        Site -> its settings file; at most one site per center.
    """
    centers = list(dict.fromkeys(s.study for s in [*train, *verification]))
    n_sites = min(settings.n_sites, len(centers))
    found = {}
    for k in range(n_sites):
        own = centers[k * len(centers) // n_sites : (k + 1) * len(centers) // n_sites]
        site = folder / f"site-{k + 1}"
        tables: dict[str, Path | None] = {}
        for split, subjects in (("train", train), ("verification", verification)):
            rows = [s for s in subjects if s.study in own]
            tables[split] = site / f"{split}.csv" if rows else None
            if rows:
                write_split(site / f"{split}.csv", rows)
        shares = settings.min_cell, settings.share_margins, settings.share_scores
        own_settings = SiteSettings(tables["train"], tables["verification"], site / TOKENS, *shares)
        write_site_settings(site / SIMULATED, own_settings)
        found[site.name] = site / SIMULATED
    return found
