"""What a contender of the bench works on and how, and its phantom cohort."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tmqc.data.cohort import Cohort, read_cohort
from tmqc.phantom.center_tables import COUNTS
from tmqc.phantom.cohort import default_directory, make_phantom
from tmqc.settings.schema import PhantomConfig

HARMFUL = "center_z"  # its training labels are flipped
PUBLISHED = "published"
N_CYCLES, BATCH_SIZE = 20, 5  # of the published QC run: METHOD section 4
FULL_SIZE = (160, 192, 160)  # voxels in x, y, z, of the published run


@dataclass(frozen=True)
class Setting:
    """One contender.

    Attributes:
        name: in tables. way: `tmqc`, or `published`: everything read anew for every scan, as the published scripts do.
        folder: of the phantom cohort. start: file of the state to start from; None: fresh weights.
        shape: voxels in x, y, z. filters: of the SFCN.
        batch_size: scans of a training step. verify_batch_size: scans scored at once.
        learning_rate: of every step. error: acceptable error of the published gate.
        onednn: None: TensorFlow decides, as it does for whoever only imports it. precision: Keras dtype policy.
    """

    name: str
    folder: Path
    shape: tuple[int, int, int]
    filters: tuple[int, ...]
    way: str = "tmqc"
    start: Path | None = None
    batch_size: int = 5
    verify_batch_size: int = 8
    learning_rate: float = 1e-3
    error: float = 0.02
    early_stop: bool = False
    onednn: bool | None = True
    precision: str = "float32"


def make_cohort(
    outputs: Path, *, name: str, shape: tuple[int, int, int], counts: Mapping[str, tuple[int, int]]
) -> Path:
    """Write a phantom cohort of a strong effect, so that a short training is enough. Returns its folder.

    Args:
        outputs: the bench's folder. name: of the center table.
        counts: center -> its training and its verification scans, half of them PD.
    """
    table = outputs / f"{name}.csv"
    table.parent.mkdir(parents=True, exist_ok=True)
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ("center", *COUNTS), restval=0, lineterminator="\n")
        writer.writeheader()
        for center, (n_train, n_verify) in counts.items():
            split = {"train_hc": n_train - n_train // 2, "train_pd": n_train // 2}
            split |= {"verification_hc": n_verify - n_verify // 2, "verification_pd": n_verify // 2}
            writer.writerow({"center": center, **split, "male": 1, "female": 1, "scanner_types": 1})
    settings = PhantomConfig(centers=str(table), effect=3.0)
    return make_phantom(settings, shape=shape, directory=default_directory(settings, shape, outputs))


def read_phantom(folder: Path, *, flip: bool) -> Cohort:
    """The cohort in `folder`; with `flip`, the training labels of the harmful center are turned round."""
    cohort = read_cohort(train_csv=folder / "train.csv", verification_csv=folder / "verification.csv", test_csv=None)
    train = tuple(replace(s, group=1 - s.group) if flip and s.study == HARMFUL else s for s in cohort.train)
    return replace(cohort, train=train)
