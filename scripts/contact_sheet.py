"""Draw every kind of corruption next to the original: a PNG with a row per kind and columns of increasing severity.

Example:
    python scripts/contact_sheet.py --out outputs/contact_sheet.png
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from tmqc.data.nifti import Array, read_scan
from tmqc.errors import InputError, RunError
from tmqc.harm.corruptions import GRADED, KINDS, LABEL_KINDS, draw_parameters
from tmqc.phantom.anatomy import apply_scan, build_anatomy, draw_scans
from tmqc.phantom.center_tables import read_centers
from tmqc.phantom.cohort import is_phantom
from tmqc.report.style import new_figure, save_figure
from tmqc.settings.schema import PhantomConfig

SEVERITIES = (2, 5, 9)
NOTE = "phantom scan: synthetic, no patient was scanned"
_CELL_IN, _LABEL_IN = 1.45, 1.1


def main(argv: Sequence[str] | None = None) -> int:
    """Return exit code 0; 2 if the scan cannot be read or the picture cannot be written."""
    options = _parse(argv)
    try:
        scan = _make_scan(options.shape) if options.scan is None else read_scan(options.scan).voxels
        # Scans of a phantom cohort are in volumes/, next to phantom.json.
        phantom = options.scan is None or is_phantom(options.scan.absolute().parent)
        draw_sheet(scan, options.out, NOTE if phantom else None, seed=options.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(KINDS)} kinds at severities {', '.join(map(str, SEVERITIES))}: {options.out}")
    return 0


def draw_sheet(scan: Array, path: Path, note: str | None, *, seed: int) -> None:
    """Write the picture of one scan, (x, y, z) on a 0..255 scale. A kind without severities is drawn once.

    Raises:
        RunError: `path` cannot be written.
    """
    views = _slices(scan)
    wide = views.shape[1] / views.shape[0] * _CELL_IN
    n_columns = 1 + len(SEVERITIES)
    figure = new_figure(_LABEL_IN + n_columns * wide, len(KINDS) * (_CELL_IN + 0.1) + 0.6)
    cells = figure.subplots(len(KINDS), n_columns, squeeze=False)
    for row, (kind, corrupt) in enumerate(KINDS.items()):
        _show(cells[row, 0], views, "original" if row == 0 else "")
        cells[row, 0].set_ylabel(kind.replace("_", " "), rotation=0, ha="right", va="center", fontsize=9)
        for column, severity in enumerate(SEVERITIES, start=1):
            cell = cells[row, column]
            if kind not in GRADED and column > 1:
                cell.set_axis_off()
                continue
            parameters = draw_parameters(kind, severity, np.random.default_rng([1, seed]))
            _show(
                cell,
                _slices(corrupt(scan, np.random.default_rng(seed), parameters)),
                f"severity {severity}" if kind in GRADED else _tell_fixed(kind),
            )
    figure.suptitle("Kinds of harmful scans (axial and sagittal slices through the middle)", fontsize=10)
    try:
        save_figure(figure, path, note)
    except OSError as error:
        raise RunError(f"--out {path}: cannot be written: {error.strerror}") from None


def _tell_fixed(kind: str) -> str:
    return "same scan, PD as HC or HC as PD" if kind in LABEL_KINDS else "no severity"


def _slices(scan: Array) -> Array:
    """Return axial and sagittal slice side by side, (rows, columns), nose and crown up, padded with NaN."""
    x, _, z = (n // 2 for n in scan.shape)
    views = [scan[:, :, z].T[::-1], scan[x].T[::-1]]
    height = max(view.shape[0] for view in views)
    return np.hstack([np.pad(view, [(0, height - view.shape[0]), (0, 0)], constant_values=np.nan) for view in views])


def _show(cell: Axes, picture: Array, title: str) -> None:
    cell.imshow(picture, cmap="gray", vmin=0.0, vmax=255.0, interpolation="nearest")
    cell.set_title(title, fontsize=7, pad=2)
    cell.set_xticks([])
    cell.set_yticks([])
    cell.spines[:].set_visible(False)


def _make_scan(shape: Sequence[int]) -> Array:
    """Return the first scan of the demo phantom."""
    settings = PhantomConfig()
    grid = (shape[0], shape[1], shape[2])
    if min(grid) < 8:
        raise RunError(f"--shape {' '.join(map(str, grid))}: must be three sizes of 8 voxels or more")
    first = draw_scans(settings, read_centers(settings.centers))[0]
    return apply_scan(build_anatomy(grid), first).astype(np.float32)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--scan", type=Path, help="a NIfTI file on a 0..255 scale; default: a phantom scan")
    parser.add_argument(
        "--shape", type=int, nargs=3, default=[80, 96, 80], metavar=("X", "Y", "Z"), help="of the phantom scan"
    )
    parser.add_argument("--seed", type=int, default=0, help="of random parameters; %(default)s")
    parser.add_argument("--out", type=Path, default=Path("outputs/contact_sheet.png"), help="PNG; %(default)s")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
