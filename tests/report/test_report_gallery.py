"""The gallery of flagged scans: slices have a fixed orientation, independent of that of the scan."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
from PIL import Image

from tmqc.data.cache import VolumeCache
from tmqc.data.cohort import Subject
from tmqc.report.flagged import LEDGER_COLUMNS
from tmqc.report.gallery import make_gallery, three_slices

# x, y, z point right, anterior, superior; intensity rises slowly to the right, faster anterior, fastest superior.
RAS = np.fromfunction(lambda x, y, z: x + 10 * y + 100 * z, (4, 6, 8), dtype=np.float32)


@pytest.mark.parametrize(
    ("orientation", "scan"),
    [
        ("RAS", RAS),
        ("LPS", RAS[::-1, ::-1]),
        ("RSA", RAS.transpose(0, 2, 1)),
        ("SAL", RAS.transpose(2, 1, 0)[:, :, ::-1]),
    ],
)
def test_three_slices_have_a_fixed_orientation(orientation, scan):
    sagittal, coronal, axial = three_slices(scan, orientation, (1.0, 1.0, 1.0))
    for view, source in ((sagittal, RAS[2]), (coronal, RAS[:, 3]), (axial, RAS[:, :, 4])):
        np.testing.assert_array_equal(view, source.T[::-1])  # superior is up, the patient's right is on the right
    assert (sagittal.shape, coronal.shape, axial.shape) == ((8, 6), (8, 4), (6, 4))


def test_slices_have_square_pixels_and_a_maximum_size():
    sagittal, coronal, axial = three_slices(RAS, "RAS", (2.0, 1.0, 3.0))
    assert (sagittal.shape, coronal.shape, axial.shape) == ((24, 6), (12, 4), (6, 8))
    large = three_slices(np.zeros((400, 10, 300), np.float32), "RAS", (0.5, 0.5, 0.5))
    assert max(max(view.shape) for view in large) == 192


def gallery_of(*flagged, cache=None, **limit):
    """The gallery of flagged scans, given as (id, center, outcome, path)."""
    rows = [{"scan": name, "center": center, "outcome": outcome} for name, center, outcome, _ in flagged]
    scans = [Subject(name, path, center, 0, None, None, None) for name, center, _, path in flagged]
    return make_gallery(pd.DataFrame(rows, columns=LEDGER_COLUMNS), scans, cache=cache or VolumeCache(), **limit)


def write(path, voxels):
    image = sitk.GetImageFromArray(voxels.transpose(2, 1, 0))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    sitk.WriteImage(image, str(path))
    return path


def test_gallery_alternates_centers_and_shows_eliminated_scans_first(tmp_path):
    path = write(tmp_path / "a.nii.gz", RAS)
    flagged = [(f"{c}{i}", c, outcome, path) for outcome in ("eliminated", "undecided") for c, n in
                 (("A", 3), ("B", 1)) for i in [f"{outcome[0]}{k}" for k in range(n)]]  # fmt: skip
    gallery = gallery_of(*flagged, limit=3)
    assert [(c, s["n_flagged"], [row["scan"] for row in s["flagged"]]) for c, s in gallery["centers"].items()] == [
        ("A", 6, ["Ae0", "Ae1"]),
        ("B", 2, ["Be0"]),
    ]
    assert gallery["left_out"] == 5


def test_common_gray_scale_is_robust_to_a_bright_scan(tmp_path):
    """A scan that is ten times too bright is shown mostly white, together with its own range."""
    paths = [write(tmp_path / f"{i}.nii.gz", RAS * scale) for i, scale in enumerate((1, 1, 10))]
    gallery = gallery_of(*((str(i), "A", "undecided", path) for i, path in enumerate(paths)))
    low, high = gallery["window"]
    assert 0 <= low < 50 and 700 < high < 760
    pictures = gallery["pictures"].values()
    strips = [np.array(Image.open(io.BytesIO(picture["png"]))) for picture in pictures]
    assert (strips[2] == 255).mean() > 0.4 > 0.1 > (strips[0] == 255).mean()
    assert [picture["high"] for picture in pictures] == [RAS.max(), RAS.max(), 10 * RAS.max()]


def test_unreadable_scan_is_reported_in_the_gallery():
    gallery = gallery_of(("a", "A", "undecided", Path("/no/such.nii.gz")))
    picture = gallery["pictures"]["a"]
    assert gallery["window"] is None and picture["png"] is None and "cannot be read" in picture["fault"]


def test_gallery_reads_scans_from_the_cache(tmp_path, monkeypatch):
    scan = ("a", "A", "undecided", write(tmp_path / "a.nii.gz", RAS))

    def picture(cache=None):
        return gallery_of(scan, cache=cache)["pictures"]["a"]["png"]

    expected = picture()
    assert picture(VolumeCache(tmp_path / "cache")) == expected
    monkeypatch.setattr("tmqc.data.contents.STABLE_NS", -(10**18))
    monkeypatch.setattr("tmqc.data.contents.Contents.read", None)
    assert picture(VolumeCache(tmp_path / "cache")) == expected
