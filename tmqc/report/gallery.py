"""Pictures of flagged scans, to find the cause of problems at a center."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from tmqc.data.cache import VolumeCache, Voxels
from tmqc.data.cohort import Subject
from tmqc.data.nifti import Array, UnusableError
from tmqc.report.flagged import OUTCOMES, FlaggedScan

LIMIT = 40  # scans; each adds 10 to 80 kB to the page
_MAX_SIDE = 192  # pixels of one slice
_GAP = 4
_AXES = ("RL", "AP", "SI")


@dataclass(frozen=True)
class Picture:
    """Three slices of one scan.

    Attributes:
        views: sagittal, coronal and axial slice through the middle; empty if the scan cannot be read.
        low, high: range of the scan's intensities.
        fault: why there are no views.
    """

    views: Sequence[Array] = ()
    low: float | None = None
    high: float | None = None
    fault: str = ""

    def png(self, window: tuple[float, float]) -> bytes:
        """Encode the views side by side as PNG; `window`: the intensities shown as black and white."""
        low, high = window
        rows = max(view.shape[0] for view in self.views)
        columns = sum(view.shape[1] for view in self.views) + _GAP * (len(self.views) - 1)
        strip, at = np.zeros((rows, columns), np.uint8), 0
        for view in self.views:
            gray = np.clip((view - low) / (high - low), 0, 1) * 255
            top = (rows - view.shape[0]) // 2
            strip[top : top + view.shape[0], at : at + view.shape[1]] = gray.round().astype(np.uint8)
            at += view.shape[1] + _GAP
        buffer = io.BytesIO()
        Image.fromarray(strip).save(buffer, format="png", optimize=True)
        return buffer.getvalue()


def make_gallery(
    flagged: Sequence[FlaggedScan],
    scans: Sequence[Subject],
    *,
    cache: VolumeCache | None = None,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """Make pictures of at most `limit` flagged scans: the most severe outcomes first, taken from all centers in turn.

    Args:
        flagged: all flagged scans, the most severe outcome first; those without a row in the table are left out.
        scans: all training scans.
        cache: cache of decoded scans.
        limit: maximum number of flagged scans to draw.

    Returns:
        `centers`, the most severe outcome first: name -> `n_flagged`, number of flagged scans; `flagged`, the drawn
        ones with their pictures; `compared`, a scan never flagged with its picture, or None. `window`: intensities
        shown as black and white in all pictures, if any. `left_out`: number of flagged scans not drawn.
    """
    shown, names = _choose([scan for scan in flagged if scan.scan is not None], limit), {s.subject for s in flagged}
    compared = {scan.study: scan for scan in reversed(scans) if scan.subject not in names}  # the first of each center
    centers = list(dict.fromkeys(scan.center for scan in shown))
    wanted = [each.scan for each in shown if each.scan is not None]
    wanted += [compared[center] for center in centers if center in compared]
    cache = cache or VolumeCache()
    pictures = {scan.subject: _read(scan, cache) for scan in wanted}
    by_center = {
        center: {
            "n_flagged": sum(scan.center == center for scan in flagged),
            "flagged": [(scan, pictures[scan.subject]) for scan in shown if scan.center == center],
            "compared": (scan, pictures[scan.subject]) if (scan := compared.get(center)) else None,
        }
        for center in centers
    }
    window = _find_window([picture for picture in pictures.values() if picture.views])
    return {"centers": by_center, "window": window, "left_out": len(flagged) - len(shown)}


def _choose(flagged: Sequence[FlaggedScan], limit: int) -> list[FlaggedScan]:
    turns: Counter[tuple[str, str]] = Counter()
    order = []
    for scan in flagged:
        order.append((OUTCOMES.index(scan.outcome), turns[scan.outcome, scan.center]))
        turns[scan.outcome, scan.center] += 1
    return [scan for _, scan in sorted(zip(order, flagged, strict=True), key=lambda pair: pair[0])][:limit]


def three_slices(scan: Voxels, orientation: str, spacing_mm: Sequence[float]) -> list[Array]:
    """Extract the sagittal, coronal and axial middle slices, (rows, columns), crown or nose up, with square pixels.

    Args:
        scan: (x, y, z).
        orientation: directions of x, y, z as three letters such as RAS. In coronal and axial slices the patient's left
            is on the left; sagittal slices face right.
        spacing_mm: of x, y, z.
    """
    order = [next(i for i, letter in enumerate(orientation) if letter in pair) for pair in _AXES]
    flip = [slice(None, None, 1 if orientation[i] == pair[0] else -1) for i, pair in zip(order, _AXES, strict=True)]
    ras = scan.transpose(order)[tuple(flip)]
    x, y, z = (n // 2 for n in ras.shape)
    sx, sy, sz = (spacing_mm[i] for i in order)
    views = ((ras[x], sy, sz), (ras[:, y], sx, sz), (ras[:, :, z], sx, sy))
    return [_square(np.asarray(view.T[::-1], np.float32), wide, high) for view, wide, high in views]


def _square(view: Array, wide_mm: float, high_mm: float) -> Array:
    """Resample to square pixels of the finer spacing, by nearest neighbor, with at most `_MAX_SIDE` per side."""
    rows, columns = view.shape
    pixel = max(min(wide_mm, high_mm), max(columns * wide_mm, rows * high_mm) / _MAX_SIDE)
    wide, high = (max(1, round(n * mm / pixel)) for n, mm in ((columns, wide_mm), (rows, high_mm)))
    picture: Array = view[np.arange(high) * rows // high][:, np.arange(wide) * columns // wide]
    return picture


def _read(scan: Subject, cache: VolumeCache) -> Picture:
    try:
        held = cache.load(scan.path)
        voxels = cache.read(held)
    except UnusableError as error:
        return Picture(fault=str(error))
    views = three_slices(voxels, held.geometry.orientation, held.geometry.spacing_mm)
    return Picture(views, float(voxels.min()), float(voxels.max()))


def _find_window(pictures: Sequence[Picture]) -> tuple[float, float] | None:
    """Return the median intensity window of all pictures, so that a scan on another scale is visible as such."""
    if not pictures:
        return None
    ends = [np.quantile(np.concatenate([view.ravel() for view in one.views]), (0.005, 0.995)) for one in pictures]
    low, high = np.median(ends, axis=0)
    return float(low), float(high) if high > low else float(low) + 1.0
