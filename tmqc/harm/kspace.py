"""Corruptions that happen while k-space (the scan's Fourier transform) is read: motion, ghosting, spike, Gibbs ringing.

Each takes a scan, (x, y, z) float32 on a 0..255 scale, and leaves it alone. Voxels are taken for cubes. Axes are x, y
or z. Draws need a generator in the state that the caller has recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import fft
from scipy.ndimage import affine_transform, fourier_shift
from scipy.spatial.transform import Rotation

from tmqc.data.nifti import Array

Parameters = Mapping[str, Any]
AXES = "xyz"


def clip_to_range(values: npt.NDArray[Any], scan: Array) -> Array:
    """Clip to 0..255, or to the scan's own range where that is wider, as float32: no pixel type overflows."""
    bounds = min(0.0, float(scan.min())), max(255.0, float(scan.max()))
    fitted: Array = np.clip(values, *bounds).astype(np.float32)
    return fitted


def motion(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """A head that moves while the scan is taken: lines of k-space from differing poses, hence blur and echoes.

    The central `still` share of the lines is read in one pose; before and after it, at drawn times, `moves` further
    poses are taken, each `rotation_deg` (about a drawn direction) and `shift` (share of the longest side, in a drawn
    direction) away from it. Lines are read one after another along `axis`. Source: Shaw et al., MIDL 2019 (simplified).
    """
    times = rng.uniform(-1.0, 1.0, parameters["moves"] - 2)
    turns, ways = (_unit_vectors(rng, parameters["moves"] + 1) for _ in range(2))
    axis, edge = AXES.index(parameters["axis"]), parameters["still"] / 2
    # Time runs from -1/2 to 1/2, as the lines do: the center of k-space is at 0, and at the edges there is a move too.
    changes = np.sort([-edge, *(np.sign(times) * edge + times * (0.5 - edge)), edge])
    pose_of_line = np.searchsorted(changes, fft.fftfreq(scan.shape[axis]))
    read = fft.fftn(scan)
    for pose in set(pose_of_line.tolist()) - {int(np.searchsorted(changes, 0.0))}:
        turned = _rotate(scan, parameters["rotation_deg"] * turns[pose])
        shift = parameters["shift"] * max(scan.shape) * ways[pose]
        lines = [slice(None)] * 3
        lines[axis] = pose_of_line == pose
        read[tuple(lines)] = fourier_shift(fft.fftn(turned), shift)[tuple(lines)]
    return clip_to_range(np.abs(fft.ifftn(read)), scan)


def _unit_vectors(rng: np.random.Generator, n: int) -> npt.NDArray[np.float64]:
    vectors = rng.standard_normal((n, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _rotate(scan: Array, degrees: npt.NDArray[np.float64]) -> Array:
    """Turn about the volume's center, by the length of `degrees` about its direction."""
    if not degrees.any():
        return scan  # interpolation would still smooth
    matrix = Rotation.from_rotvec(degrees, degrees=True).as_matrix()
    center = (np.array(scan.shape) - 1) / 2
    turned: Array = affine_transform(scan, matrix, center - matrix @ center, order=1, cval=float(scan.min()))
    return turned


def ghosting(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Faint copies of the head along the phase-encoding direction: pulsation, breathing or an unstable scanner.

    Line l of k-space along `axis` is weighted by 1 + amplitude cos(2 pi l / period): a copy of amplitude / 2 appears
    1 / period of the field of view to either side, and wraps around at the border. All is divided by 1 + amplitude,
    so the mean stays.
    """
    axis = AXES.index(parameters["axis"])
    n = scan.shape[axis]
    wave = np.cos(2.0 * np.pi * fft.fftfreq(n) * n / parameters["period"])
    weights = (1.0 + parameters["amplitude"] * wave) / (1.0 + parameters["amplitude"])
    read = fft.fft(scan, axis=axis) * np.expand_dims(weights, [a for a in range(3) if a != axis])
    return clip_to_range(np.abs(fft.ifft(read, axis=axis)), scan)


def spike(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Stripes through the whole scan: one point of k-space far too strong, from a spark or loose metal nearby.

    A wave is added, the transform of the point: `cycles_x`, `cycles_y` and `cycles_z` over the field of view, with
    `amplitude` (share of the scan's brightest voxel) and `phase` (radians).
    """
    grid = np.ogrid[tuple(slice(n) for n in scan.shape)]
    turns = sum(parameters[f"cycles_{name}"] * at / at.size for name, at in zip(AXES, grid, strict=True))
    wave = np.cos(2.0 * np.pi * turns + parameters["phase"])
    return clip_to_range(scan + parameters["amplitude"] * float(scan.max()) * wave, scan)


def gibbs(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Ripples along every edge: too few lines of k-space read, as in a scan made short.

    Along each axis only the central share `keep` of the frequencies stays, the mean and one wave at the least; the cut
    is sharp, so it rings.
    """
    seen = scan
    for axis, n in enumerate(scan.shape):
        read = fft.rfft(seen, axis=axis)
        outside = np.arange(read.shape[axis]) > max(1.0, parameters["keep"] * n / 2)
        read[(slice(None),) * axis + (outside,)] = 0.0
        seen = fft.irfft(read, n, axis=axis)
    return clip_to_range(np.abs(seen), scan)  # scanners show magnitudes
