"""Corruptions in k-space (the scan's Fourier transform): motion, ghosting, spike and Gibbs ringing.

Each function takes a scan, (x, y, z) float32 on a 0..255 scale, and returns a new one. Voxels are assumed to be cubes.
Axes are x, y or z. Random draws use the given generator, whose seed the caller has recorded.
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
    """Clip to 0..255 or, if it is wider, the scan's range, so that its pixel type does not overflow; float32."""
    bounds = min(0.0, float(scan.min())), max(255.0, float(scan.max()))
    fitted: Array = np.clip(values, *bounds).astype(np.float32)
    return fitted


def motion(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Head motion during acquisition: k-space lines are acquired in different poses, which causes blur and echoes.

    The central `still` share of the lines is acquired in one pose; before and after it, at random times, the head takes
    `moves` further poses, which differ from it by `rotation_deg` about a random direction and by `shift` (share of the
    longest side) in a random direction. Lines are acquired in order along `axis`. Source: Shaw et al., MIDL 2019
    (simplified).
    """
    times = rng.uniform(-1.0, 1.0, parameters["moves"] - 2)
    turns, ways = (_unit_vectors(rng, parameters["moves"] + 1) for _ in range(2))
    axis, edge = AXES.index(parameters["axis"]), parameters["still"] / 2
    # Time runs from -1/2 to 1/2, as the lines do, with the center of k-space at 0; the head also moves at the edges.
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
    """Rotate about the volume's center: axis and angle are direction and length of `degrees`."""
    if not degrees.any():
        return scan  # interpolation would smooth the scan even without rotation
    matrix = Rotation.from_rotvec(degrees, degrees=True).as_matrix()
    center = (np.array(scan.shape) - 1) / 2
    turned: Array = affine_transform(scan, matrix, center - matrix @ center, order=1, cval=float(scan.min()))
    return turned


def ghosting(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Ghosts, faint copies of the head along the phase-encoding direction: pulsation, breathing, an unstable scanner.

    Line l of k-space along `axis` is weighted by 1 + amplitude cos(2 pi l / period): copies of amplitude / 2 appear
    1 / period of the field of view to both sides and wrap around at the border. Dividing by 1 + amplitude preserves the
    mean.
    """
    axis = AXES.index(parameters["axis"])
    n = scan.shape[axis]
    wave = np.cos(2.0 * np.pi * fft.fftfreq(n) * n / parameters["period"])
    weights = (1.0 + parameters["amplitude"] * wave) / (1.0 + parameters["amplitude"])
    read = fft.fft(scan, axis=axis) * np.expand_dims(weights, [a for a in range(3) if a != axis])
    return clip_to_range(np.abs(fft.ifft(read, axis=axis)), scan)


def spike(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Stripes through the whole scan: one point of k-space is much too strong because of a spark or loose metal.

    Adds the wave that is the transform of the point: `cycles_x`, `cycles_y` and `cycles_z` over the field of view, with
    `amplitude` (share of the scan's brightest voxel) and `phase` (radians).
    """
    grid = np.ogrid[tuple(slice(n) for n in scan.shape)]
    turns = sum(parameters[f"cycles_{name}"] * at / at.size for name, at in zip(AXES, grid, strict=True))
    wave = np.cos(2.0 * np.pi * turns + parameters["phase"])
    return clip_to_range(scan + parameters["amplitude"] * float(scan.max()) * wave, scan)


def gibbs(scan: Array, rng: np.random.Generator, parameters: Parameters) -> Array:
    """Gibbs ringing along edges: too few lines of k-space were acquired, as in a shortened scan.

    Keeps only the central share `keep` of the frequencies along each axis, at least the mean and one wave; the sharp
    cut-off causes the ringing.
    """
    seen = scan
    for axis, n in enumerate(scan.shape):
        read = fft.rfft(seen, axis=axis)
        outside = np.arange(read.shape[axis]) > max(1.0, parameters["keep"] * n / 2)
        read[(slice(None),) * axis + (outside,)] = 0.0
        seen = fft.irfft(read, n, axis=axis)
    return clip_to_range(np.abs(seen), scan)  # scanners show magnitudes
