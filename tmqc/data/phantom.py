"""A phantom cohort (METHOD section 9): synthetic scans made from the ICBM152 template that nilearn carries.

No patient was scanned. Every parameter of every scan is first drawn into a frozen record; the records are
then applied without further chance, so the files do not depend on how many processes wrote them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from tmqc.config import PhantomConfig
from tmqc.errors import CohortError, SettingsError

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]

NOTICE = (
    "This cohort is a PHANTOM: synthetic scans made from the ICBM152 2009a template "
    "(T1, grey and white matter maps) that the package nilearn carries. No patient was scanned."
)
TABLES = {"demo": "centers_demo.csv", "real83": "centers_83.csv"}
SPLITS = ("train", "verification", "test")
GROUPS = tuple(f"{split}_{group}" for split in SPLITS for group in ("hc", "pd"))
COUNTS = (*GROUPS, "male", "female", "scanner_types")
N_SCANNER_TYPES = 23  # as many as the published cohort has
# Lower corner in MNI space (R, A, S) and extent. Holds the brain with 4 mm to spare, except at the brain
# stem, which the template itself cuts at -72.
FOV_LOW_MM = (-80.0, -113.0, -73.0)
FOV_MM = (160.0, 192.0, 160.0)
# Right-hand center and semi-axes in mm (MNI), and share of the change. Each is mirrored to the left.
DEEP_GREY = {
    "substantia nigra": ((10.0, -18.0, -11.0), (8.0, 10.0, 8.0), 1.0),
    "putamen": ((26.0, 4.0, 0.0), (9.0, 18.0, 12.0), 1.0),
    "caudate": ((13.0, 12.0, 10.0), (8.0, 14.0, 12.0), 0.7),
}


@dataclass(frozen=True)
class Spread:
    """How much scans differ; calibrated at 4 mm voxels, recorded in phantom.json."""

    version: int = 1  # of the generator: raise it when the same numbers come to mean another image
    pd_mean: float = 0.48  # relative darkening of deep grey matter in PD at effect 1
    pd_sd: float = 0.09  # over patients
    pd_least: float = 0.08  # no patient has less
    deep_sd: float = 0.11  # of deep grey matter signal in everybody, relative
    tissue_sd: float = 0.02  # of grey and of white matter signal in everybody, relative
    atrophy_per_year: float = 0.002  # relative loss of grey matter signal per year above 60
    warp_sd_mm: float = 2.0  # of the displacement along each axis
    warp_knots_mm: float = 32.0
    scanner_sd: float = 0.02  # of grey and of white matter signal over scanner types, relative
    gamma_sd: float = 0.05  # from here on over centers
    gain_sd: float = 0.03
    bias_sd: float = 0.03  # of the bias field's logarithm
    bias_knots_mm: float = 80.0
    noise_low: float = 2.0  # sigma of the Gaussian noise is uniform between the two, on a 0..255 scale
    noise_high: float = 6.0


SPREAD = Spread()


@dataclass(frozen=True)
class CenterLook:
    """What a center does to every scan: `(gain * bias * anatomy) ** gamma` on a 0..1 scale, then noise."""

    gamma: float
    gain: float
    noise_sigma: float  # on a 0..255 scale
    bias_knots: Floats = field(repr=False)  # of the logarithm, (knots x, y, z)


@dataclass(frozen=True)
class Scan:
    """All that makes one scan, drawn before anything is computed. Changes are relative: 0.1 is 10 % more."""

    subject: str
    center: str
    split: str
    diagnosis: int  # 1 = PD, 0 = HC
    sex: str
    age: float  # years
    scanner: str
    grey: float
    white: float
    deep: float  # everybody's own spread, and in PD the disease on top
    warp_knots: Floats = field(repr=False)  # mm, (3, knots x, y, z)
    look: CenterLook = field(repr=False)
    noise_seed: int = 0


@dataclass(frozen=True)
class Anatomy:
    """The template on the cohort's grid: float32 arrays in x, y, z order, T1 in 0..255, the maps in 0..1."""

    t1: Floats
    grey: Floats
    white: Floats
    deep: Floats


def make_phantom(
    settings: PhantomConfig, *, shape: tuple[int, int, int], directory: Path, n_jobs: int | None = None
) -> Path:
    """Write a phantom cohort: `volumes/*.nii.gz`, one CSV a split, and phantom.json. Returns `directory`.

    Args:
        settings: center table, seed and strength of the PD change; `settings.directory` is not looked at.
        shape: voxels in x, y, z; the field of view is fixed, so the shape sets the spacing.
        directory: appears only when all in it is finished. The same phantom there already: returns at once.
        n_jobs: processes, default one a core; the files are the same whatever it is.

    Raises:
        SettingsError: seed, effect or shape out of range.
        CohortError: a bad center table, or `directory` holds something else.
    """
    centers, description = read_centers(settings.centers), describe(settings, shape)
    directory = Path(directory).absolute()
    if _holds(directory, description):
        return directory
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{directory.name}.", suffix=".building", dir=directory.parent
    ) as building:
        finished = Path(building) / "phantom"
        (finished / "volumes").mkdir(parents=True)
        scans = draw_scans(settings, centers)
        _write_volumes(build_anatomy(shape), scans, finished / "volumes", n_jobs)
        for split in SPLITS:
            _write_csv(finished / f"{split}.csv", [scan for scan in scans if scan.split == split])
        (finished / "phantom.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        try:
            finished.rename(directory)
        except OSError:  # another process was faster: fine if it built the same
            if not _holds(directory, description):
                raise
    return directory


def default_directory(settings: PhantomConfig, shape: tuple[int, int, int], outputs: Path) -> Path:
    """Where this phantom belongs: `outputs/phantom/<readable name>-<hash of all that it is made of>`.

    Raises:
        SettingsError, CohortError: as `make_phantom`.
    """
    digest = hashlib.sha256(json.dumps(describe(settings, shape), sort_keys=True).encode()).hexdigest()[:8]
    name = settings.centers if settings.centers in TABLES else re.sub(r"[^\w-]+", "_", Path(settings.centers).stem)
    grid = "x".join(str(n) for n in shape)
    return Path(outputs) / "phantom" / f"{name}-{grid}-seed{settings.seed}-effect{settings.effect:g}-{digest}"


def is_phantom(csv_path: Path) -> bool:
    """Whether the CSV belongs to a phantom cohort: phantom.json lies beside it."""
    return (Path(csv_path).parent / "phantom.json").is_file()


def describe(settings: PhantomConfig, shape: tuple[int, int, int]) -> dict[str, Any]:
    """What phantom.json says: all that the files depend on, as JSON values. Equal ones mean equal files.

    Raises:
        SettingsError, CohortError: as `make_phantom`.
    """
    faults = []
    if settings.seed < 0:
        faults.append(f"cohort.phantom.seed={settings.seed}: 0 or more is allowed")
    if not 0.0 <= settings.effect <= 3.0:
        faults.append(f"cohort.phantom.effect={settings.effect}: 0..3 is allowed (0 = no difference, 1 = calibrated)")
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
        "generator": asdict(SPREAD),
        "deep_grey_mm": DEEP_GREY,
        "center_table": read_centers(settings.centers),
    }
    clean: dict[str, Any] = json.loads(json.dumps(description))  # tuples become lists, as in the file
    return clean


def read_centers(source: str) -> dict[str, dict[str, int]]:
    """Read a center table: `demo`, `real83` or a CSV's path. Returns the COUNTS by center, in its order.

    Raises:
        CohortError: no such table, or a malformed one; names every fault's row and column at once.
    """
    try:
        if source in TABLES:
            text = (resources.files("tmqc") / "data" / "tables" / TABLES[source]).read_text(encoding="utf-8")
        else:
            text = Path(source).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        known = ", ".join(TABLES)
        raise CohortError(f"center table '{source}': {known} or the path of a CSV is allowed ({error})") from None
    reader = csv.DictReader(text.splitlines())
    rows = list(reader)
    missing = [name for name in ("center", *COUNTS) if name not in (reader.fieldnames or [])]
    faults = [f"column {name} is missing" for name in missing]
    if not missing:
        faults = [f"row {n}, column {fault}" for n, row in enumerate(rows, start=2) for fault in _row_faults(row)]
        names = [row["center"] for row in rows]
        faults += [f"column center: '{name}' is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
        if not faults and not any(int(row["train_hc"]) + int(row["train_pd"]) for row in rows):
            faults.append("columns train_hc and train_pd: no center has a training scan")
    if faults:
        raise CohortError([f"center table '{source}': {fault}" for fault in faults])
    return {row["center"]: {name: int(row[name]) for name in COUNTS} for row in rows}


def _row_faults(row: Mapping[str, str | None]) -> list[str]:
    faults = []
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", row["center"] or ""):
        faults.append(f"center: {row['center']!r}; letters, digits, - and _ are allowed")
    faults += [
        f"{name}: {row[name]!r} is not a whole number of 0 or more"
        for name in COUNTS
        if not re.fullmatch(r"[0-9]{1,6}", row[name] or "")
    ]
    if not faults and not 1 <= int(row["scanner_types"] or 0) <= N_SCANNER_TYPES:
        faults.append(f"scanner_types: {row['scanner_types']}; 1..{N_SCANNER_TYPES} is allowed")
    if not faults and int(row["male"] or 0) + int(row["female"] or 0) == 0:
        faults.append("male, female: both are 0, which is no share")
    return faults


def draw_scans(settings: PhantomConfig, centers: Mapping[str, Mapping[str, int]]) -> list[Scan]:
    """Draw every scan of the cohort, in the order of the table; healthy controls before patients in a split.

    Each scanner type, center and scan has a generator of its own: `effect` changes no draw, and a longer
    table leaves the centers before it unchanged.
    """
    tissue_sd = SPREAD.scanner_sd
    tissue = [_generator(settings.seed, 0, n).normal(0.0, tissue_sd, 2) for n in range(N_SCANNER_TYPES)]
    scans = []
    for at, (center, counts) in enumerate(centers.items()):
        rng = _generator(settings.seed, 1, at)
        look = _draw_look(rng)
        scanners = rng.choice(N_SCANNER_TYPES, counts["scanner_types"], replace=False)
        number = 0
        for which, split in enumerate(SPLITS):
            groups = [0] * counts[f"{split}_hc"] + [1] * counts[f"{split}_pd"]
            for n, diagnosis in enumerate(groups):
                number += 1
                rng = _generator(settings.seed, 2, at, which, n)
                scanner = int(rng.choice(scanners))
                scans.append(
                    Scan(
                        subject=f"{center}_{number:03d}",
                        center=center,
                        split=split,
                        diagnosis=diagnosis,
                        scanner=f"scanner_{scanner + 1:02d}",
                        look=look,
                        **_draw_body(rng, counts, settings.effect * diagnosis, tissue[scanner]),
                    )
                )
    return scans


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_look(rng: np.random.Generator) -> CenterLook:
    return CenterLook(
        gamma=float(np.exp(rng.normal(0.0, SPREAD.gamma_sd))),
        gain=float(np.exp(rng.normal(0.0, SPREAD.gain_sd))),
        noise_sigma=float(rng.uniform(SPREAD.noise_low, SPREAD.noise_high)),
        bias_knots=rng.normal(0.0, SPREAD.bias_sd, _knots(SPREAD.bias_knots_mm)).astype(np.float32),
    )


def _draw_body(
    rng: np.random.Generator, counts: Mapping[str, int], effect: float, tissue: NDArray[np.float64]
) -> dict[str, Any]:
    """The part of a `Scan` that is the subject's own: the same draws, in the same order, for HC and PD."""
    age = round(float(np.clip(rng.normal(60.0, 10.0), 30.0, 90.0)), 1)
    sex = "M" if rng.random() < counts["male"] / (counts["male"] + counts["female"]) else "F"
    grey, white = rng.normal(0.0, SPREAD.tissue_sd, 2) + tissue
    warp_shape = (3, *_knots(SPREAD.warp_knots_mm))
    severity = max(rng.normal(SPREAD.pd_mean, SPREAD.pd_sd), SPREAD.pd_least)
    return {
        "sex": sex,
        "age": age,
        "grey": float(grey) - SPREAD.atrophy_per_year * (age - 60.0),
        "white": float(white),
        "deep": float(rng.normal(0.0, SPREAD.deep_sd) - effect * severity),
        "warp_knots": rng.normal(0.0, SPREAD.warp_sd_mm, warp_shape).astype(np.float32),
        "noise_seed": int(rng.integers(2**62)),
    }


def build_anatomy(shape: tuple[int, int, int]) -> Anatomy:
    """Bring the template's maps onto the cohort's grid; deep grey matter is painted, as smooth ellipsoids."""
    spacing = [extent / n for extent, n in zip(FOV_MM, shape, strict=True)]
    axes = [low + (np.arange(n) + 0.5) * mm for low, n, mm in zip(FOV_LOW_MM, shape, spacing, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
    deep = np.zeros(shape, np.float32)
    for (cx, cy, cz), (rx, ry, rz), share in DEEP_GREY.values():
        for side in (cx, -cx):
            radius2 = ((x - side) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2
            bump = share * (1.0 - np.clip(radius2, 0.0, 1.0) ** 2) ** 2  # exactly 0 beyond the semi-axes
            deep = np.maximum(deep, bump.astype(np.float32))
    grey, white = (_template(name, shape) / np.float32(255.0) for name in ("gm", "wm"))
    return Anatomy(_template("t1", shape), grey, white, deep)


def _template(name: str, shape: Shape) -> Floats:
    """One map of the template on the cohort's grid, x, y, z, 0..255."""
    folder = resources.files("nilearn") / "datasets" / "data"
    file = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    with resources.as_file(file) as path:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    grid = _image(np.zeros(shape, np.uint8))
    sigma = [0.35 * mm if mm > 1.0 else 0.0 for mm in grid.GetSpacing()]  # else a coarse grid would alias
    for axis, sigma_mm in enumerate(sigma):
        if sigma_mm > 0.0:
            image = sitk.RecursiveGaussian(image, sigma_mm, direction=axis)
    image = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.ascontiguousarray(np.clip(sitk.GetArrayFromImage(image), 0.0, 255.0).T)


def _image(volume: NDArray[np.uint8]) -> sitk.Image:
    """An image of a volume in x, y, z order, orientation RAS, placed in MNI space."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))  # SimpleITK's arrays are z, y, x
    spacing = [extent / n for extent, n in zip(FOV_MM, volume.shape, strict=True)]
    right, anterior, superior = (low + mm / 2 for low, mm in zip(FOV_LOW_MM, spacing, strict=True))
    image.SetSpacing(spacing)
    image.SetOrigin((-right, -anterior, superior))  # SimpleITK counts towards left and posterior
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    return image


def apply_scan(anatomy: Anatomy, scan: Scan) -> NDArray[np.uint8]:
    """Make the volume that a record describes: uint8, 0..255, x, y, z order."""
    signal = 0.85 * anatomy.t1  # leaves room above white matter
    signal *= 1.0 + scan.grey * anatomy.grey + scan.white * anatomy.white + scan.deep * anatomy.deep
    shape = signal.shape
    where = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    for axis, (extent, n) in enumerate(zip(FOV_MM, shape, strict=True)):
        where[axis] += smooth_field(scan.warp_knots[axis], shape) * np.float32(n / extent)
    warped = np.clip(map_coordinates(signal, where, order=1, mode="constant"), 0.0, 255.0) / np.float32(255.0)
    bias = np.exp(smooth_field(scan.look.bias_knots, shape))
    seen = 255.0 * (scan.look.gain * bias * warped) ** np.float32(scan.look.gamma)
    noise = np.random.default_rng(scan.noise_seed).standard_normal(shape, np.float32)
    # The scans of the published cohort are brain-extracted: nothing, so no noise either, outside the brain.
    seen += np.where(warped > 0.02, np.float32(scan.look.noise_sigma) * noise, np.float32(0.0))
    volume: NDArray[np.uint8] = np.clip(np.rint(seen), 0.0, 255.0).astype(np.uint8)
    return volume


def _knots(knots_mm: float) -> Shape:
    x, y, z = (round(extent / knots_mm) + 1 for extent in FOV_MM)
    return (x, y, z)


def smooth_field(knots: Floats, shape: Sequence[int]) -> Floats:
    """Blend independent knots into a smooth field of `shape`; its standard deviation is that of the knots."""
    field_ = knots
    for n, n_knots in zip(shape, knots.shape, strict=True):
        at, knot = (np.arange(n) + 0.5) / n * (n_knots - 1), np.arange(n_knots)
        weights = np.exp(-((at[:, None] - knot) ** 2))
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        field_ = np.tensordot(field_, weights.astype(np.float32), axes=(0, 1))  # first axis out, new one last
    return field_


def _write_volumes(anatomy: Anatomy, scans: Sequence[Scan], folder: Path, n_jobs: int | None) -> None:
    # joblib's own processes: safe beside TensorFlow's threads, and they do not run the calling script again.
    n_jobs = joblib.cpu_count() if n_jobs is None else max(1, n_jobs)
    share = joblib.delayed(_write_share)
    joblib.Parallel(n_jobs=n_jobs)(share(anatomy, scans[n::n_jobs], folder) for n in range(n_jobs))


def _write_share(anatomy: Anatomy, scans: Iterable[Scan], folder: Path) -> None:
    for scan in scans:
        path = folder / f"{scan.subject}.nii.gz"
        sitk.WriteImage(_image(apply_scan(anatomy, scan)), str(path), useCompression=True)


def _write_csv(path: Path, scans: Iterable[Scan]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["Subject", "Path", "Study", "Group_bin", "Sex", "Age", "Scanner"])
        for s in scans:
            volume = f"volumes/{s.subject}.nii.gz"
            writer.writerow([s.subject, volume, s.center, s.diagnosis, s.sex, s.age, s.scanner])


def _holds(directory: Path, description: dict[str, Any]) -> bool:
    """Whether the very same phantom is in the directory already. Raises CohortError if another thing is."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return False
    try:
        found = json.loads((directory / "phantom.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise CohortError(f"'{directory}' holds something that is no phantom: name another directory") from None
    if not isinstance(found, dict) or found != description:
        known = found if isinstance(found, dict) else {}
        differing = [key for key in description if known.get(key) != description[key]]
        what = ", ".join(differing) or "its contents"
        raise CohortError(f"'{directory}' holds another phantom ({what} differ): name another directory or remove it")
    return True
