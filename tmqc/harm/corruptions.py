"""The kinds of corruption: what each does to a scan, and how strong a severity of 1 to 10 makes it.

A kind takes a scan, (x, y, z) float32 on a 0..255 scale, a generator and its parameters, and returns a new scan. All
that can be said in plain numbers is drawn beforehand (`draw_parameters`) and recorded; what cannot, such as noise,
comes from the generator, whose seed is recorded. So a record alone makes the corruption again.
A further kind is one function and its line in KINDS (and in GRADED, if it has a strength).
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
from tmqc.harm.kspace import AXES, Parameters, clip_to_range, ghosting, gibbs, motion, spike

Kind = Callable[[Array, np.random.Generator, Parameters], Array]
Value = bool | int | float | str

DEFAULT_SEVERITY = 5
# Brightness relative to white matter: knots in a T1 scan (air, edge of air, CSF, gray, white), and theirs in a T2 one:
# spin echo with TR 4000 ms and TE 100 ms, relaxation times of 3 tesla.
_T1_KNOTS, _T2_KNOTS = (0.0, 0.05, 0.33, 0.7, 1.0), (0.0, 0.05, 1.0, 0.48, 0.33)


def inverted(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Dark for bright over the scan's own range, (x, y, z): a wrong photometric interpretation at export.

    max + min - v, and not SimpleITK's InvertIntensity, whose maximum is 255 unless set. Has no strength.
    """
    flipped: Array = scan.max() + scan.min() - scan
    return flipped


def noise(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Gaussian noise on a 0..255 scale, clipped to it, (x, y, z): a failing coil, or a scan far too short.

    `mean` and `sigma` of the noise; `replace`: noise in place of the whole volume (an empty or failed
    acquisition, as the published README has it) rather than on top of it (as the published script does).
    """
    drawn = rng.standard_normal(scan.shape, dtype=np.float32)
    drawn *= np.float32(parameters["sigma"])
    drawn += np.float32(parameters["mean"])
    if not parameters["replace"]:
        drawn += scan
    return np.clip(drawn, 0.0, 255.0, out=drawn)


def flipped_label(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """PD entered as HC or HC as PD: a wrong diagnosis, or a slip in the table. Has no strength.

    The scan stays as it is: `write_harmful` changes the row.
    """
    return scan.copy()


def blur(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """A scan out of focus: small tremor, thick slices, or smoothed once too often on the way.

    Gaussian with standard deviation `sigma` (share of the longest side). The kernel is the discrete Gaussian
    (Lindeberg 1990), which is right below one voxel too, where a sampled one does nothing.
    """
    variance = (parameters["sigma"] * max(scan.shape)) ** 2
    reach = int(np.ceil(5.0 * np.sqrt(variance))) + 1
    kernel = ive(np.abs(np.arange(-reach, reach + 1)), variance)
    seen = scan
    for axis in range(3):
        seen = convolve1d(seen, kernel / kernel.sum(), axis=axis, mode="nearest")
    return clip_to_range(seen, scan)


def bias_field(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Bright on one side, dark on the other: an uneven coil, or shading left uncorrected.

    Multiplied by the exponential of a drawn polynomial of degree 3 whose values range, over the head, from
    -log_range / 2 to +log_range / 2.
    """
    degree = np.indices((4, 4, 4)).sum(axis=0)
    weights = np.where((degree > 0) & (degree <= 3), rng.standard_normal((4, 4, 4)), 0.0)
    x, y, z = (np.linspace(-1.0, 1.0, n) for n in scan.shape)
    field: npt.NDArray[np.floating[Any]] = leggrid3d(x, y, z, weights)
    least, most = (find(field[_find_head(scan)]) for find in (np.min, np.max))
    if most == least:  # a head of one voxel: nothing to be uneven over
        return scan.copy()
    field = np.clip((field - least) / (most - least), 0.0, 1.0) - 0.5
    return clip_to_range(scan * np.exp(parameters["log_range"] * field), scan)


def _find_head(scan: Array) -> npt.NDArray[np.bool_]:
    """Mask what is brighter than 5 % of the scan's range; all of a constant scan."""
    mask: npt.NDArray[np.bool_] = scan >= scan.min() + 0.05 * np.ptp(scan)
    return mask


def rician(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Low signal-to-noise: a magnitude scan with Gaussian noise in both channels, so air and dark tissue brighten.

    `sigma` of each channel on the 0..255 scale. Not SimpleITK's noise filter: its result depends on the threads.
    Source: Gudbjartsson and Patz, doi 10.1002/mrm.1910340618.
    """
    real, imaginary = (parameters["sigma"] * rng.standard_normal(scan.shape, dtype=np.float32) for _ in range(2))
    return clip_to_range(np.hypot(scan + real, imaginary), scan)


def mirrored(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Left for right (the x axis): an orientation lost or misread at conversion. Has no strength."""
    return np.ascontiguousarray(scan[::-1])


def swapped_axes(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Wrong orientation: slices stacked along another axis than the header states. Has no strength.

    Exchanges the two `axes` (such as xz) about the center; what the grid does not hold is cut off, what it holds
    besides is filled with the scan's lowest value.
    """
    turned = np.swapaxes(scan, *(AXES.index(name) for name in parameters["axes"]))
    out = np.full(scan.shape, scan.min(), np.float32)
    shared = [min(pair) for pair in zip(scan.shape, turned.shape, strict=True)]
    out[_middle(out.shape, shared)] = turned[_middle(turned.shape, shared)]
    return out


def _middle(shape: tuple[int, ...], size: list[int]) -> tuple[slice, ...]:
    return tuple(slice((n - k) // 2, (n - k) // 2 + k) for n, k in zip(shape, size, strict=True))


def partial_view(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Partial field of view: part of the head lies outside of the slab that was planned.

    The `share` of the head's extent along `axis` that lies towards `side` (low or high index) becomes the scan's
    lowest value.
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
    """Wrong contrast: a T2-weighted series filed as the T1 one. Fluid is bright, white matter darker than gray.

    A brightness curve stands for the change of weighting, mixed with the scan by `weight`: at 0.6 gray and white
    matter are nearly alike, as with proton density, at 1 the scan is T2-like.
    """
    white = float(np.percentile(scan[_find_head(scan)], 95.0))
    weighted = np.interp(scan, white * np.array(_T1_KNOTS), white * np.array(_T2_KNOTS))
    return clip_to_range((1.0 - parameters["weight"]) * scan + parameters["weight"] * weighted, scan)


def blank(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """A failed acquisition: air and nothing else. Has no strength.

    The magnitude of noise with `sigma` in both channels, a few gray values: a volume that is constant to the last
    voxel would be refused as unreadable before any model sees it.
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
_ABSOLUTE = (
    "noise",
    "rician",
    "blank",
)  # in gray values of the 0..255 scale; all others take the scan as their measure
_POSITIVE = (
    *_ABSOLUTE,
    "motion",
    "ghosting",
    "gibbs",
    "t2_contrast",
)  # take magnitudes, or hold what is below 0 for air


def suits_scale(kind: str, least: float, most: float) -> bool:
    """Whether a scan of these intensities is on the scale that the kind takes for granted."""
    return (kind not in _POSITIVE or least >= 0) and (kind not in _ABSOLUTE or 1 < most <= 255)


Draw = Callable[[int, np.random.Generator], dict[str, Value]]


def _draw_spike(severity: int, rng: np.random.Generator) -> dict[str, Value]:
    cycles = {f"cycles_{name}": int(rng.integers(3, 11) * rng.choice([-1, 1])) for name in AXES}
    return {"amplitude": severity / 25, "phase": float(rng.uniform(0.0, 2.0 * np.pi)), **cycles}


def _draw_partial_view(severity: int, rng: np.random.Generator) -> dict[str, Value]:
    return {"axis": _pick(rng, *AXES), "side": _pick(rng, "low", "high"), "share": 8 * severity / 100}


# Parameters for a severity of 1 (barely seen) to 10 (useless). What is drawn must not depend on the severity.
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
    """All that a kind needs besides the scan and its generator; `severity` (1 to 10) is among them if it has one."""
    if kind in GRADED:
        return {"severity": severity, **GRADED[kind](severity, rng)}
    return UNGRADED[kind](rng) if kind in UNGRADED else {}


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]
