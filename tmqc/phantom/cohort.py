"""Writing of phantom cohorts: NIfTI files and CSVs of synthetic scans. No patient was scanned.

The files do not depend on the number of processes, because all parameters are drawn beforehand (`anatomy.py`).
"""

from __future__ import annotations

import errno
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import joblib
import SimpleITK as sitk

from tmqc.data.cohort import Subject, write_split
from tmqc.data.nifti import Geometry, describe_mismatch, format_sizes
from tmqc.data.splits import SPLITS
from tmqc.errors import CohortError, SettingsError
from tmqc.phantom.anatomy import (
    DEEP_GREY,
    FOV_MM,
    Anatomy,
    PhantomScan,
    apply_scan,
    build_anatomy,
    draw_scans,
    to_image,
)
from tmqc.phantom.center_tables import TABLES, read_centers
from tmqc.phantom.spread import SPREADS
from tmqc.settings.ranges import check_each
from tmqc.settings.schema import PhantomConfig

NOTICE = (
    "This cohort is a PHANTOM: synthetic scans made from the ICBM152 2009a template "
    "(T1, grey and white matter maps) that the package nilearn carries. No patient was scanned."
)

PHANTOM_NOTE = "phantom cohort: synthetic scans, no patient was scanned"  # shown with every result of a phantom


def make_phantom(
    settings: PhantomConfig,
    *,
    shape: tuple[int, int, int],
    directory: Path,
    spacing_mm: Sequence[float] | None = None,
    orientation: str | None = None,
    n_jobs: int | None = None,
) -> Path:
    """Write a phantom cohort: `volumes/*.nii.gz`, one CSV per split, and phantom.json. Returns `directory`.

    Args:
        settings: center table, seed and strength of the PD change; `settings.directory` is ignored.
        shape: voxels in x, y, z; the field of view is fixed, so the shape determines the spacing.
        spacing_mm, orientation: required spacing and orientation; None: any.
        directory: created only when complete. If it already contains the same phantom, nothing is done.
        n_jobs: number of processes, by default one per core; the files do not depend on it.

    Raises:
        SettingsError: seed, effect or shape is out of range, or spacing or orientation differ from those required.
        CohortError: the center table is invalid, `directory` contains something else or cannot be written.
    """
    directory, description = Path(directory).absolute(), describe_phantom(settings, shape)
    grid = Geometry(shape, tuple(description["spacing_mm"]), description["orientation"])
    wanted = Geometry(shape, tuple(spacing_mm or grid.spacing_mm), orientation or grid.orientation)
    if wrong := describe_mismatch(grid, wanted):
        spacing = ",".join(f"{mm:.6g}" for mm in grid.spacing_mm)
        raise SettingsError(
            f"cohort.shape={list(shape)}: a phantom covers {format_sizes(FOV_MM)} mm and therefore has {wrong}; set "
            f"cohort.spacing_mm=[{spacing}] and cohort.orientation={grid.orientation}, or another shape"
        )
    if _holds(directory, description):
        return directory
    try:
        _build(settings, description, directory, n_jobs)
    except OSError as error:
        raise CohortError(
            f"phantom '{directory}': {error.filename or directory} cannot be written ({error.strerror}); "
            "set cohort.phantom.directory or run.outputs to a folder with free space"
        ) from error
    return directory


def _build(settings: PhantomConfig, description: dict[str, Any], directory: Path, n_jobs: int | None) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{directory.name}.", suffix=".building", dir=directory.parent
    ) as building:
        finished = Path(building) / "phantom"
        (finished / "volumes").mkdir(parents=True)
        scans = draw_scans(settings, description["center_table"])
        _write_volumes(build_anatomy(tuple(description["shape"])), scans, finished / "volumes", n_jobs)
        for split in SPLITS:
            write_split(finished / f"{split}.csv", (_row_of(scan) for scan in scans if scan.split == split))
        (finished / "phantom.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        try:
            finished.rename(directory)
        except OSError:  # another process may have built the same phantom in the meantime
            if not _holds(directory, description):
                raise


def default_directory(settings: PhantomConfig, shape: tuple[int, int, int], outputs: Path) -> Path:
    """Default directory of a phantom: `outputs/phantom/<readable name>-<hash of its description>`.

    Raises:
        SettingsError, CohortError: as in `make_phantom`.
    """
    digest = hashlib.sha256(json.dumps(describe_phantom(settings, shape), sort_keys=True).encode()).hexdigest()[:8]
    name = settings.centers if settings.centers in TABLES else re.sub(r"[^\w-]+", "_", Path(settings.centers).stem)
    name += "-" + "x".join(str(n) for n in shape)
    seeded = f"{settings.spread}-seed{settings.seed}-effect{settings.effect:g}"
    return Path(outputs) / "phantom" / f"{name}-{seeded}-{digest}"


def is_phantom(csv_path: Path) -> bool:
    """Whether the CSV belongs to a phantom cohort, that is, its folder contains phantom.json."""
    return (Path(csv_path).parent / "phantom.json").is_file()


def describe_phantom(settings: PhantomConfig, shape: tuple[int, int, int]) -> dict[str, Any]:
    """Content of phantom.json: everything that the files depend on, so equal descriptions mean equal files.

    Raises:
        SettingsError, CohortError: as in `make_phantom`.
    """
    faults = check_each(settings, "cohort.phantom.")
    if len(shape) != 3 or min(shape) < 8:
        faults.append(f"cohort.shape={tuple(shape)}: three sizes of 8 voxels or more are allowed")
    if faults:
        raise SettingsError(faults)
    named = settings.centers if settings.centers in TABLES else Path(settings.centers).name
    description = {
        "phantom": NOTICE,
        "settings": {"centers": named, "seed": settings.seed, "effect": float(settings.effect)},
        "shape": list(shape),
        "spacing_mm": [extent / n for extent, n in zip(FOV_MM, shape, strict=True)],
        "orientation": "RAS",
        "generator": asdict(SPREADS[settings.spread]),
        "deep_grey_mm": DEEP_GREY,
        "center_table": read_centers(settings.centers),
    }
    clean: dict[str, Any] = json.loads(json.dumps(description))  # tuples become lists, as in the file
    return clean


def _write_volumes(anatomy: Anatomy, scans: Sequence[PhantomScan], folder: Path, n_jobs: int | None) -> None:
    # joblib's processes are safe beside TensorFlow's threads and do not run the calling script again.
    n_jobs = joblib.cpu_count() if n_jobs is None else max(1, n_jobs)
    share = joblib.delayed(_write_share)
    joblib.Parallel(n_jobs=n_jobs)(share(anatomy, scans[n::n_jobs], folder) for n in range(n_jobs))


def _write_share(anatomy: Anatomy, scans: Iterable[PhantomScan], folder: Path) -> None:
    for scan in scans:
        path = folder / f"{scan.subject}.nii.gz"
        try:
            sitk.WriteImage(to_image(apply_scan(anatomy, scan)), str(path), useCompression=True)
        except RuntimeError as error:  # ITK gives no reason
            raise OSError(errno.EIO, "the disk is full or not accessible", str(path)) from error


def _row_of(s: PhantomScan) -> Subject:
    path = Path("volumes") / f"{s.subject}.nii.gz"
    return Subject(s.subject, path, s.center, s.diagnosis, s.sex, s.age, s.scanner)


def _holds(directory: Path, description: dict[str, Any]) -> bool:
    """Whether the directory already contains the same phantom. Raises CohortError if it contains anything else."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        found = json.loads((directory / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CohortError(f"'{directory}' contains files other than a phantom: choose another directory") from None
    if not isinstance(found, dict) or found != description:
        known = found if isinstance(found, dict) else {}
        differing = [key for key in description if known.get(key) != description[key]]
        what = ", ".join(differing) or "its contents"
        raise CohortError(f"'{directory}' contains another phantom ({what} differ): choose another one or remove it")
    return True
