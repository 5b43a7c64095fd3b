from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tmqc.data.cohort import Subject

SHAPE = (6, 7, 8)  # three different sizes reveal swapped axes
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)  # ITK's own axes are LPS


@pytest.fixture
def write_nifti(tmp_path):
    """Write (x, y, z) voxels as NIfTI and return the path."""

    def write(name="scan.nii.gz", voxels=None, *, spacing=(1.0, 1.0, 1.0), direction=RAS, dtype=np.uint8):
        if voxels is None:
            voxels = np.random.default_rng(len(name)).integers(0, 256, SHAPE)
        image = sitk.GetImageFromArray(np.ascontiguousarray(np.asarray(voxels).T.astype(dtype)))
        image.SetSpacing(spacing)
        image.SetDirection(direction)
        image.SetOrigin((10.0, -20.0, 5.0))
        path = Path(tmp_path, name)
        sitk.WriteImage(image, str(path), useCompression=True)
        return path

    return write


@pytest.fixture
def subject():
    """Returns a function that makes a `Subject` with default values."""

    def make(name="s1", path="/nowhere/s1.nii.gz", *, study="A", group=0, sex="F", age=60.0, scanner=None):
        return Subject(name, Path(path), study, group, sex, age, scanner)

    return make
