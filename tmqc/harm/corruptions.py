"""Kinds of corruption, and their parameters for severities from 1 to 10.

A kind is a function of a scan, (x, y, z) float32 on a 0..255 scale, a generator and parameters that returns a new scan.
Parameters that are plain numbers or names are drawn beforehand (`draw_parameters`) and recorded; anything else, such as
noise, comes from the generator, whose seed is recorded. The record therefore suffices to repeat the corruption.
To add a kind, write a function and add it to KINDS (and to GRADED, if it has a severity).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.polynomial.legendre import leggrid3d
from scipy.ndimage import convolve1d
from scipy.special import ive

from tmqc.data.nifti import Array
from tmqc.data.truth import Value
from tmqc.harm.kspace import AXES, Parameters, clip_to_range, ghosting, gibbs, motion, spike

Kind = Callable[[Array, np.random.Generator, Parameters], Array]

DEFAULT_SEVERITY = 5
# Brightness relative to white matter in a T1 scan (air, edge of air, CSF, gray, white), and of the same tissues in a T2
# scan: spin echo with TR 4000 ms and TE 100 ms, relaxation times at 3 tesla.
_T1_KNOTS, _T2_KNOTS = (0.0, 0.05, 0.33, 0.7, 1.0), (0.0, 0.05, 1.0, 0.48, 0.33)


def inverted(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Invert intensities within the scan's range: a wrong photometric interpretation at export. No severity.

    max + min - v, unlike SimpleITK's InvertIntensity, whose maximum is 255 unless set.
    """
    flipped: Array = scan.max() + scan.min() - scan
    return flipped


def noise(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Add Gaussian noise on a 0..255 scale and clip to it: a failing coil or a much too short scan.

    `mean` and `sigma` of the noise; `replace`: whether noise replaces the whole volume (an empty or failed
    acquisition, as the published README says) instead of being added (as the published script does).
    """
    drawn = rng.standard_normal(scan.shape, dtype=np.float32)
    drawn *= np.float32(parameters["sigma"])
    drawn += np.float32(parameters["mean"])
    if not parameters["replace"]:
        drawn += scan
    return np.clip(drawn, 0.0, 255.0, out=drawn)


def flipped_label(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Flip the label, PD to HC or HC to PD: a wrong diagnosis or a typing error. No severity.

    The scan is unchanged: `write_harmful` changes the row.
    """
    return scan.copy()


def blur(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Blur the scan: small tremor, thick slices or repeated smoothing during processing.

    Gaussian with standard deviation `sigma` (share of the longest side). The kernel is the discrete Gaussian
    (Lindeberg 1990), which is also correct below one voxel, where a sampled Gaussian has no effect.
    """
    variance = (parameters["sigma"] * max(scan.shape)) ** 2
    reach = int(np.ceil(5.0 * np.sqrt(variance))) + 1
    kernel = ive(np.abs(np.arange(-reach, reach + 1)), variance)
    seen = scan
    for axis in range(3):
        seen = convolve1d(seen, kernel / kernel.sum(), axis=axis, mode="nearest")
    return clip_to_range(seen, scan)


def bias_field(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Apply a bias field, bright on one side and dark on the other: an uneven coil or uncorrected shading.

    Multiplies by the exponential of a random polynomial of degree 3 that ranges from -log_range / 2 to +log_range / 2
    over the head.
    """
    degree = np.indices((4, 4, 4)).sum(axis=0)
    weights = np.where((degree > 0) & (degree <= 3), rng.standard_normal((4, 4, 4)), 0.0)
    x, y, z = (np.linspace(-1.0, 1.0, n) for n in scan.shape)
    field: npt.NDArray[np.floating[Any]] = leggrid3d(x, y, z, weights)
    least, most = (find(field[_find_head(scan)]) for find in (np.min, np.max))
    if most == least:  # a head of one voxel
        return scan.copy()
    field = np.clip((field - least) / (most - least), 0.0, 1.0) - 0.5
    return clip_to_range(scan * np.exp(parameters["log_range"] * field), scan)


def _find_head(scan: Array) -> npt.NDArray[np.bool_]:
    """Mask of voxels brighter than 5 % of the scan's range; all voxels of a constant scan."""
    mask: npt.NDArray[np.bool_] = scan >= scan.min() + 0.05 * np.ptp(scan)
    return mask


def rician(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Add Rician noise (low signal-to-noise): Gaussian noise in both channels, which brightens air and dark tissue.

    `sigma` of each channel on the 0..255 scale. SimpleITK's noise filter is not used, as its result depends on the
    number of threads. Source: Gudbjartsson and Patz, doi 10.1002/mrm.1910340618.
    """
    real, imaginary = (parameters["sigma"] * rng.standard_normal(scan.shape, dtype=np.float32) for _ in range(2))
    return clip_to_range(np.hypot(scan + real, imaginary), scan)


def mirrored(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Mirror left and right (the x axis): an orientation lost or misread at conversion. No severity."""
    return np.ascontiguousarray(scan[::-1])


def swapped_axes(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Swap two axes: slices stacked along another axis than the header states. No severity.

    Exchanges the two `axes` (such as xz) about the center. Parts outside the grid are cut off, and empty parts of the
    grid are filled with the scan's lowest value.
    """
    turned = np.swapaxes(scan, *(AXES.index(name) for name in parameters["axes"]))
    out = np.full(scan.shape, scan.min(), np.float32)
    shared = [min(pair) for pair in zip(scan.shape, turned.shape, strict=True)]
    out[_middle(out.shape, shared)] = turned[_middle(turned.shape, shared)]
    return out


def _middle(shape: tuple[int, ...], size: list[int]) -> tuple[slice, ...]:
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, size, strict=True))


def partial_view(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Cut off part of the head (partial field of view): it lies outside the planned slab.

    A `share` of the head's extent along `axis`, at the `side` of low or high indices, is set to the scan's lowest
    value.
    """
    axis = AXES.index(parameters["axis"])
    found = np.flatnonzero(_find_head(scan).any(axis=tuple(a for a in range(3) if a != axis)))
    first, last = found[0], found[-1]
    n = round(parameters["share"] * (last + 1 - first))
    gone = slice(0, first + n) if parameters["side"] == "low" else slice(last + 1 - n, None)
    out = scan.copy()
    out[(slice(None),) * axis + (gone,)] = scan.min()
    return out


def t2_contrast(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Change to T2-like contrast, fluid bright and white matter darker than gray: the wrong series was selected.

    A brightness curve approximates the change of weighting and is mixed with the scan by `weight`: at 0.6 gray and
    white matter are nearly equal, as with proton density; at 1 the scan is T2-like.
    """
    white = float(np.percentile(scan[_find_head(scan)], 95.0))
    weighted = np.interp(scan, white * np.array(_T1_KNOTS), white * np.array(_T2_KNOTS))
    return clip_to_range((1.0 - parameters["weight"]) * scan + parameters["weight"] * weighted, scan)


def blank(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Replace the scan by air only: a failed acquisition. No severity.

    The magnitude of noise with `sigma` in both channels, a few gray values: a constant volume would be refused as
    unreadable before any model sees it.
    """
    real, imaginary = rng.standard_normal((2, *scan.shape), dtype=np.float32)
    air: Array = np.float32(parameters["sigma"]) * np.hypot(real, imaginary)
    return air


KINDS: dict[str, Kind] = {
    "inverted": inverted,
    "noise": noise,
    "flipped_label": flipped_label,
    "motion": motion,
    "ghosting": ghosting,
    "spike": spike,
    "blur": blur,
    "bias_field": bias_field,
    "gibbs": gibbs,
    "rician": rician,
    "mirrored": mirrored,
    "swapped_axes": swapped_axes,
    "partial_view": partial_view,
    "t2_contrast": t2_contrast,
    "blank": blank,
}
LABEL_KINDS = ("flipped_label",)  # change the row, not the scan
# Kinds with parameters in gray values of the 0..255 scale; those of all others are relative to the scan.
_ABSOLUTE = ("noise", "rician", "blank")
# Kinds that compute magnitudes or treat negative values as air.
_POSITIVE = (*_ABSOLUTE, "motion", "ghosting", "gibbs", "t2_contrast")


def suits_scale(kind: str, least: float, most: float) -> bool:
    """Whether a scan with intensities from `least` to `most` is on the scale that the kind assumes."""
    return (kind not in _POSITIVE or least >= 0) and (kind not in _ABSOLUTE or 1 < most <= 255)


Draw = Callable[[int, np.random.Generator], dict[str, Value]]


def _draw_spike(severity: int, rng: np.random.Generator) -> dict[str, Value]:
    cycles = {f"cycles_{name}": int(rng.integers(3, 11) * rng.choice([-1, 1])) for name in AXES}
    return {"amplitude": severity / 25, "phase": float(rng.uniform(0.0, 2.0 * np.pi)), **cycles}


def _draw_partial_view(severity: int, rng: np.random.Generator) -> dict[str, Value]:
    return {"axis": _pick(rng, *AXES), "side": _pick(rng, "low", "high"), "share": 8 * severity / 100}


# Parameters for severities from 1 (barely visible) to 10 (useless). Random draws must not depend on the severity.
GRADED: dict[str, Draw] = {
    "noise": lambda severity, rng: {"mean": 0.0, "sigma": 10.0 * severity, "replace": False},
    "motion": lambda severity, rng: {
        **{"axis": _pick(rng, *AXES), "moves": 8, "still": 3 * (11 - severity) / 100},
        **{"rotation_deg": 1.5 * severity, "shift": severity / 200},
    },
    "ghosting": lambda severity, rng: {
        **{"axis": _pick(rng, *AXES), "period": int(rng.integers(2, 6))},
        "amplitude": severity / 10,
    },
    "spike": _draw_spike,
    "blur": lambda severity, rng: {"sigma": 3 * severity / 1000},
    "bias_field": lambda severity, rng: {"log_range": severity / 5},
    "gibbs": lambda severity, rng: {"keep": round(0.85**severity, 4)},
    "rician": lambda severity, rng: {"sigma": 6.0 * severity},
    "partial_view": _draw_partial_view,
    "t2_contrast": lambda severity, rng: {"weight": (60 + 4 * severity) / 100},
}
UNGRADED: dict[str, Callable[[np.random.Generator], dict[str, Value]]] = {
    "swapped_axes": lambda rng: {"axes": _pick(rng, "xy", "xz", "yz")},
    "blank": lambda rng: {"sigma": 1.0},
}


def draw_parameters(kind: str, severity: int, rng: np.random.Generator) -> dict[str, Value]:
    """Draw the parameters of a kind; they include `severity` (1 to 10) if the kind has one."""
    if kind in GRADED:
        return {"severity": severity, **GRADED[kind](severity, rng)}
    return UNGRADED[kind](rng) if kind in UNGRADED else {}


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]
