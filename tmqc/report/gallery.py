"""Pictures of flagged scans, to find the cause of problems at a center."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from tmqc.data.cache import VolumeCache, Voxels
from tmqc.data.cohort import Subject
from tmqc.data.nifti import Array, UnusableError
from tmqc.report.flagged import OUTCOMES

LIMIT = 40  # scans; each adds 10 to 80 kB to the page
_MAX_SIDE = 192  # pixels of one slice
_GAP = 4
_AXES = ("RL", "AP", "SI")


def make_gallery(
    flagged: pd.DataFrame, scans: Sequence[Subject], *, cache: VolumeCache, limit: int = LIMIT
) -> dict[str, Any] | None:
    """Make pictures of at most `limit` flagged scans: the most severe outcomes first, taken from all centers in turn.

    Args:
        flagged: result of `find_flagged`; scans that are not among `scans` are left out.
        scans: all training scans.
        cache: cache of decoded scans.
        limit: maximum number of flagged scans to draw.

    Returns:
        `centers`, the most severe outcome first: name -> `n_flagged`, number of flagged scans; `flagged`, the rows of
        those drawn; `compared`, a scan never flagged, or None. `pictures`: id -> `png`, three slices, or None if the
        scan cannot be read because of `fault`; `low` and `high`, the range of its intensities. `window`: intensities
        shown as black and white in all pictures, if any. `left_out`: number of flagged scans not drawn. None if no
        flagged scan is among `scans`, as in a run of sites, where scans are named by tokens.
    """
    known = {scan.subject: scan for scan in scans}
    turn = flagged.groupby(["outcome", "center"]).cumcount()
    severity = flagged["outcome"].map(OUTCOMES.index)
    drawable = flagged.assign(turn=turn, severity=severity)[flagged["scan"].isin(known)]
    if drawable.empty:
        return None
    shown = drawable.sort_values(["severity", "turn"])[:limit]
    names = set(flagged["scan"])
    compared = {scan.study: scan for scan in reversed(scans) if scan.subject not in names}  # the first of each center
    by_center = {
        str(center): {
            "n_flagged": (flagged["center"] == center).sum(),
            "flagged": of.to_dict("records"),
            "compared": compared.get(str(center)),
        }
        for center, of in shown.groupby("center", sort=False)
    }
    wanted = [known[name] for name in shown["scan"]] + [compared[name] for name in by_center if name in compared]
    pictures = {scan.subject: _read(scan, cache) for scan in wanted}
    window = _find_window([picture["views"] for picture in pictures.values() if picture["views"]])
    for picture in pictures.values():
        picture["png"] = _encode(picture["views"], window) if picture["views"] and window else None
    left_out = len(flagged) - len(shown)
    return {"centers": by_center, "pictures": pictures, "window": window, "left_out": left_out}


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


def _read(scan: Subject, cache: VolumeCache) -> dict[str, Any]:
    try:
        held = cache.load(scan.path)
        voxels = cache.read(held)
    except UnusableError as error:
        return {"views": [], "low": None, "high": None, "fault": str(error)}
    views = three_slices(voxels, held.geometry.orientation, held.geometry.spacing_mm)
    return {"views": views, "low": float(voxels.min()), "high": float(voxels.max()), "fault": ""}


def _find_window(scans: Sequence[Sequence[Array]]) -> tuple[float, float] | None:
    """Return the median intensity window of all scans' views, so that a scan on another scale is visible as such."""
    if not scans:
        return None
    ends = [np.quantile(np.concatenate([view.ravel() for view in views]), (0.005, 0.995)) for views in scans]
    low, high = np.median(ends, axis=0)
    return float(low), float(high) if high > low else float(low) + 1.0


def _encode(views: Sequence[Array], window: tuple[float, float]) -> bytes:
    """Encode views side by side as PNG; `window`: the intensities shown as black and white."""
    low, high = window
    rows = max(view.shape[0] for view in views)
    columns = sum(view.shape[1] for view in views) + _GAP * (len(views) - 1)
    strip, at = np.zeros((rows, columns), np.uint8), 0
    for view in views:
        gray = np.clip((view - low) / (high - low), 0, 1) * 255
        top = (rows - view.shape[0]) // 2
        strip[top : top + view.shape[0], at : at + view.shape[1]] = gray.round().astype(np.uint8)
        at += view.shape[1] + _GAP
    buffer = io.BytesIO()
    Image.fromarray(strip).save(buffer, format="png", optimize=True)
    return buffer.getvalue()
