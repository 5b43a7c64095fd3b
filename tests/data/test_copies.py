"""The same scan under two ids is refused, whatever its file name and compression."""

import gzip
import shutil

import numpy as np
import pytest

from tmqc.data.cache import VolumeCache
from tmqc.data.cohort import read_cohort
from tmqc.data.copies import refuse_copies, refuse_same_files
from tmqc.data.volumes import load_volumes
from tmqc.errors import CohortError

SHAPE = (6, 7, 8)
HEADER = "Subject,Path,Study,Group_bin,Sex,Age\n"


@pytest.fixture
def faults_of(write_nifti, tmp_path):
    """Faults of a training table with a.nii.gz, b.nii.gz and further rows, and a test table."""
    rng = np.random.default_rng(0)
    for name in "abcd":
        write_nifti(f"{name}.nii.gz", rng.integers(0, 256, SHAPE))

    def faults_of(*train, test="d.nii.gz", allowed=()):
        good = ["a,a.nii.gz,A,0,F,60", "b,b.nii.gz,A,1,M,60"]
        (tmp_path / "train.csv").write_text(HEADER + "\n".join([*good, *train]))
        (tmp_path / "test.csv").write_text(HEADER + f"t1,c.nii.gz,B,0,F,60\nt2,{test},B,1,F,60\n")
        # verification = test split: its scans are listed twice, but are no copies
        cohort = read_cohort(train_csv=tmp_path / "train.csv", verification_csv=None, test_csv=tmp_path / "test.csv")
        scans = [*cohort.verification, *cohort.train, *cohort.test]
        volumes = load_volumes(scans, shape=SHAPE, spacing_mm=None, orientation=None)
        try:
            refuse_copies(scans, volumes.read, allowed=allowed)
        except CohortError as error:
            return error.faults
        return []

    return faults_of


def test_same_file_under_two_ids_is_refused_unless_allowed(faults_of, tmp_path):
    assert faults_of() == []
    (tmp_path / "link.nii.gz").symlink_to("a.nii.gz")
    for path in ("a.nii.gz", "./a.nii.gz", "link.nii.gz"):
        (fault,) = faults_of(f"again,{path},B,1,M,60")
        assert fault.startswith(f"{tmp_path}/train.csv, row 4: subject again ")
        assert f"subject a ({tmp_path}/train.csv, row 2: " in fault
    assert faults_of("again,a.nii.gz,B,1,M,60", allowed={frozenset(("a", "again"))}) == []


def test_copied_files_within_and_across_splits_are_reported_at_once(faults_of, tmp_path):
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "other.nii.gz")
    raw = gzip.decompress((tmp_path / "b.nii.gz").read_bytes())
    (tmp_path / "packed.nii.gz").write_bytes(gzip.compress(raw, 1))
    (tmp_path / "plain.nii").write_bytes(raw)
    within, other, across = faults_of("x,plain.nii,C,1,M,60", "y,other.nii.gz,C,1,M,60", test="packed.nii.gz")
    assert "row 3: subject b " in within and "is the same scan as subject t2 " in within
    assert "row 4: subject x " in other and "is the same scan as subject t2 " in other
    assert "row 5: subject y " in across and "is the same scan as subject a " in across


def test_refuse_same_files_compares_files_without_decoding(faults_of, tmp_path):
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "gone.nii.gz")
    faults_of("again,a.nii.gz,B,1,M,60", "gone,gone.nii.gz,B,1,M,60")  # writes the tables
    (tmp_path / "gone.nii.gz").unlink()
    shutil.copy(tmp_path / "a.nii.gz", tmp_path / "c.nii.gz")
    cohort = read_cohort(train_csv=tmp_path / "train.csv", verification_csv=None, test_csv=tmp_path / "test.csv")
    with pytest.raises(CohortError) as refused:
        refuse_same_files(
            [*cohort.train, *cohort.test, *cohort.test], VolumeCache().contents, allowed={frozenset(("a", "again"))}
        )
    (fault,) = refused.value.faults
    assert "subject t1 " in fault and "is the same scan as subject a " in fault


def test_scans_that_share_a_slice_are_not_copies(faults_of, write_nifti):
    voxels = np.zeros(SHAPE)
    voxels[0] = 1
    write_nifti("x.nii.gz", voxels)
    voxels[-1] = 2
    write_nifti("y.nii.gz", voxels)
    assert faults_of("x,x.nii.gz,C,1,M,60", "y,y.nii.gz,C,1,M,60") == []
