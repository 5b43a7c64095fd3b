"""Scans of a phantom cohort: all parameters are drawn into frozen records, then applied deterministically.

Made from the ICBM152 template that nilearn contains. No patient was scanned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import convolve1d, map_coordinates
from scipy.special import ive

from tmqc.data.splits import SPLITS
from tmqc.phantom.center_tables import N_SCANNER_TYPES
from tmqc.phantom.spread import SPREADS, Spread
from tmqc.settings.schema import PhantomConfig

Floats = NDArray[np.float32]
Shape = tuple[int, int, int]

# Lower corner in MNI space (R, A, S) and extent. Contains the brain with a margin of 4 mm, except at the brain stem,
# which the template itself cuts off at -72.
FOV_LOW_MM = (-80.0, -113.0, -73.0)
FOV_MM = (160.0, 192.0, 160.0)
# Center on the right and semi-axes in mm (MNI), and relative strength of the change. Each is mirrored to the left.
DEEP_GREY = {
    "substantia nigra": ((10.0, -18.0, -11.0), (8.0, 10.0, 8.0), 1.0),
    "putamen": ((26.0, 4.0, 0.0), (9.0, 18.0, 12.0), 1.0),
    "caudate": ((13.0, 12.0, 10.0), (8.0, 14.0, 12.0), 0.7),
}


@dataclass(frozen=True)
class Appearance:
    """Effect of a center's scanner on a scan: `(gain * bias * anatomy) ** gamma` on a 0..1 scale, then noise."""

    gamma: float
    gain: float
    noise_sigma: float  # on a 0..255 scale
    bias_knots: Floats = field(repr=False)  # of the bias field's logarithm, (knots x, y, z)


@dataclass(frozen=True)
class PhantomScan:
    """All parameters of one scan, drawn before anything is computed. Changes are relative: 0.1 is 10 % more."""

    subject: str
    center: str
    split: str
    diagnosis: int  # 1 = PD, 0 = HC
    sex: str
    age: float  # years
    scanner: str
    grey: float
    white: float
    deep: float  # individual variation, plus the disease in PD
    warp_knots: Floats = field(repr=False)  # mm, (3, knots x, y, z)
    look: Appearance = field(repr=False)
    noise_seed: int
    scale: float  # relative, of the whole brain
    blur_mm: float


@dataclass(frozen=True)
class Anatomy:
    """The template on the cohort's grid: float32 arrays in x, y, z order, T1 in 0..255, tissue maps in 0..1."""

    t1: Floats
    grey: Floats
    white: Floats
    deep: Floats


def draw_scans(settings: PhantomConfig, centers: Mapping[str, Mapping[str, int]]) -> list[PhantomScan]:
    """Draw all scans of the cohort in the order of the table; within a split, healthy controls come before patients.

    Each scanner type, center and scan has its own generator: `effect` changes no draw, and adding centers to the end of
    the table does not change the others.
    """
    spread = SPREADS[settings.spread]
    types = [_draw_scanner(_generator(settings.seed, 0, n), spread) for n in range(N_SCANNER_TYPES)]
    scans = []
    for at, (center, counts) in enumerate(centers.items()):
        rng = _generator(settings.seed, 1, at)
        own = _draw_look(rng, spread)
        scanners = rng.choice(N_SCANNER_TYPES, counts["scanner_types"], replace=False)
        number = 0
        for which, split in enumerate(SPLITS):
            groups = [0] * counts[f"{split}_hc"] + [1] * counts[f"{split}_pd"]
            for n, diagnosis in enumerate(groups):
                number += 1
                rng = _generator(settings.seed, 2, at, which, n)
                scanner = int(rng.choice(scanners))
                tissue, blur_mm, typical = types[scanner]
                body = _draw_body(rng, spread, counts, effect=settings.effect * diagnosis, tissue=tissue)
                scans.append(
                    PhantomScan(
                        subject=f"{center}_{number:03d}",
                        center=center,
                        split=split,
                        diagnosis=diagnosis,
                        scanner=f"scanner_{scanner + 1:02d}",
                        look=_mix(own, typical, spread.scanner_share),
                        blur_mm=blur_mm,
                        **body,
                    )
                )
    return scans


def _generator(seed: int, *key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_scanner(rng: np.random.Generator, spread: Spread) -> tuple[NDArray[np.float64], float, Appearance]:
    """Draw a scanner type: relative changes of gray and white matter signal, blur in mm, and appearance."""
    tissue = rng.normal(0.0, spread.scanner_sd, 2)
    return tissue, float(rng.uniform(0.0, spread.blur_high_mm)), _draw_look(rng, spread)


def _draw_look(rng: np.random.Generator, spread: Spread) -> Appearance:
    return Appearance(
        gamma=float(np.exp(rng.normal(0.0, spread.gamma_sd))),
        gain=float(np.exp(rng.normal(0.0, spread.gain_sd))),
        noise_sigma=float(rng.uniform(spread.noise_low, spread.noise_high)),
        bias_knots=rng.normal(0.0, spread.bias_sd, _knots(spread.bias_knots_mm)).astype(np.float32),
    )


def _mix(center: Appearance, scanner: Appearance, share: float) -> Appearance:
    """Mix two appearances: `share`, 0..1, of the variance is the scanner type's; 0 gives exactly the center's."""
    ours, types = np.sqrt(1.0 - share), np.sqrt(share)
    return Appearance(
        gamma=float(center.gamma**ours * scanner.gamma**types),
        gain=float(center.gain**ours * scanner.gain**types),
        noise_sigma=(1.0 - share) * center.noise_sigma + share * scanner.noise_sigma,
        bias_knots=np.float32(ours) * center.bias_knots + np.float32(types) * scanner.bias_knots,
    )


def _draw_body(
    rng: np.random.Generator,
    spread: Spread,
    counts: Mapping[str, int],
    *,
    effect: float,
    tissue: NDArray[np.float64],
) -> dict[str, Any]:
    """Draw the fields of a `PhantomScan` that describe the subject: the same draws in the same order for HC and PD."""
    age = round(float(np.clip(rng.normal(60.0, 10.0), 30.0, 90.0)), 1)
    sex = "M" if rng.random() < counts["male"] / (counts["male"] + counts["female"]) else "F"
    grey, white = rng.normal(0.0, spread.tissue_sd, 2) + tissue
    warp_shape = (3, *_knots(spread.warp_knots_mm))
    severity = max(rng.normal(spread.pd_mean, spread.pd_sd), spread.pd_least)
    return {
        "sex": sex,
        "age": age,
        "grey": float(grey) - spread.atrophy_per_year * (age - 60.0),
        "white": float(white),
        "deep": float(rng.normal(0.0, spread.deep_sd) - effect * severity),
        "warp_knots": rng.normal(0.0, spread.warp_sd_mm, warp_shape).astype(np.float32),
        "noise_seed": int(rng.integers(2**62)),
        # Drawn last, so that a spread without it does not change the other draws.
        "scale": spread.sex_scale * (0.5 if sex == "M" else -0.5) + float(rng.normal(0.0, spread.scale_sd)),
    }


def build_anatomy(shape: tuple[int, int, int]) -> Anatomy:
    """Resample the template's maps to the cohort's grid; deep gray matter is modeled by smooth ellipsoids."""
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
    """Map of the template on the cohort's grid, x, y, z, 0..255."""
    folder = resources.files("nilearn") / "datasets" / "data"
    file = folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    with resources.as_file(file) as path:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
    grid = to_image(np.zeros(shape, np.uint8))
    sigma = [0.35 * mm if mm > 1.0 else 0.0 for mm in grid.GetSpacing()]  # prevents aliasing on a coarse grid
    for axis, sigma_mm in enumerate(sigma):
        if sigma_mm > 0.0:
            image = sitk.RecursiveGaussian(image, sigma_mm, direction=axis)
    image = sitk.Resample(image, grid, sitk.Transform(), sitk.sitkLinear, 0.0, sitk.sitkFloat32)
    return np.ascontiguousarray(np.clip(sitk.GetArrayFromImage(image), 0.0, 255.0).T)


def to_image(volume: NDArray[np.uint8]) -> sitk.Image:
    """Convert a volume in x, y, z order to an image in MNI space with orientation RAS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.T))  # SimpleITK's arrays are z, y, x
    spacing = [extent / n for extent, n in zip(FOV_MM, volume.shape, strict=True)]
    right, anterior, superior = (low + mm / 2 for low, mm in zip(FOV_LOW_MM, spacing, strict=True))
    image.SetSpacing(spacing)
    image.SetOrigin((-right, -anterior, superior))  # SimpleITK counts towards left and posterior
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    return image


def apply_scan(anatomy: Anatomy, scan: PhantomScan) -> NDArray[np.uint8]:
    """Compute the volume of a scan: uint8, 0..255, x, y, z order."""
    signal = 0.85 * anatomy.t1  # leaves room above white matter
    signal *= 1.0 + scan.grey * anatomy.grey + scan.white * anatomy.white + scan.deep * anatomy.deep
    shape = signal.shape
    moved = map_coordinates(signal, _places(scan, shape), order=1, mode="constant")
    head = _blur(np.clip(moved, 0.0, 255.0) / np.float32(255.0), scan.blur_mm)
    bias = np.exp(smooth_field(scan.look.bias_knots, shape))
    seen = 255.0 * (scan.look.gain * bias * head) ** np.float32(scan.look.gamma)
    noise = np.random.default_rng(scan.noise_seed).standard_normal(shape, np.float32)
    # The scans of the published cohort are brain-extracted, so there is no noise outside the brain.
    seen += np.where(head > 0.02, np.float32(scan.look.noise_sigma) * noise, np.float32(0.0))
    volume: NDArray[np.uint8] = np.clip(np.rint(seen), 0.0, 255.0).astype(np.uint8)
    return volume


def _places(scan: PhantomScan, shape: Shape) -> Floats:
    """Coordinates in the template, in voxels, of each voxel of the scan: (3, x, y, z)."""
    where = np.stack(np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij"))
    for axis, (extent, n) in enumerate(zip(FOV_MM, shape, strict=True)):
        if scan.scale:
            middle = (n - 1) / 2
            where[axis] = middle + (where[axis] - middle) / np.float32(1.0 + scan.scale)
        where[axis] += smooth_field(scan.warp_knots[axis], shape) * np.float32(n / extent)
    return where


def _blur(volume: Floats, sigma_mm: float) -> Floats:
    """Gaussian blur. The kernel is the discrete Gaussian (Lindeberg 1990), which is also correct below one voxel."""
    if sigma_mm == 0.0:
        return volume
    for axis, (extent, n) in enumerate(zip(FOV_MM, volume.shape, strict=True)):
        variance = (sigma_mm * n / extent) ** 2
        reach = int(np.ceil(5.0 * np.sqrt(variance))) + 1
        kernel = ive(np.abs(np.arange(-reach, reach + 1)), variance).astype(np.float32)
        volume = convolve1d(volume, kernel / kernel.sum(), axis=axis, mode="constant")
    return volume


def _knots(knots_mm: float) -> Shape:
    x, y, z = (round(extent / knots_mm) + 1 for extent in FOV_MM)
    return (x, y, z)


def smooth_field(knots: Floats, shape: Sequence[int]) -> Floats:
    """Interpolate independent knots to a smooth field of `shape` with the standard deviation of the knots."""
    field_ = knots
    for n, n_knots in zip(shape, knots.shape, strict=True):
        at, knot = (np.arange(n) + 0.5) / n * (n_knots - 1), np.arange(n_knots)
        weights = np.exp(-((at[:, None] - knot) ** 2))
        weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
        field_ = np.tensordot(field_, weights.astype(np.float32), axes=(0, 1))  # first axis out, new one last
    return field_
