"""The way the published scripts work, as a contender: for every scan the CSV is parsed and its NIfTI file read again.

Their `DataGeneratorTest` feeds `encoder.predict` one scan at a time and `classifier.predict` scores the features; their
training step reads its scans the same way; weights are kept by `get_weights` and put back by `set_weights`. Two things
differ, so that verdicts can be compared: voxels are transposed, not reshaped, and the optimizer and the dropout
generator go back, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import SimpleITK as sitk
from numpy.typing import NDArray

from tmqc.core.early_stop import Limit
from tmqc.core.rates import DECISION_THRESHOLD, Verification, margins, score
from tmqc.data.cohort import Cohort
from tmqc.model.learner import Learner
from tmqc.training.travel import TrainResult


def read_scan(table: Path, subject: str) -> NDArray[np.float32]:
    """One scan, (1, x, y, z, 1), found by parsing the CSV anew."""
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    path = rows.loc[rows["Subject"] == subject, "Path"].to_numpy()[0]
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(table.parent / path)))
    scan: NDArray[np.float32] = voxels.transpose(2, 1, 0).astype(np.float32)
    return scan[None, ..., None]


class _OneByOne(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one scan, read by `read`."""

    def __init__(self, read: Callable[[Path, str], NDArray[np.float32]], table: Path, subjects: Sequence[str]) -> None:
        super().__init__()
        self._read, self._table, self._subjects = read, table, subjects

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return self._read(self._table, self._subjects[index])


class PublishedCenters:
    """Centers that hold nothing in memory but the model.

    Attributes:
        n_decodes: files read so far.
    """

    def __init__(self, learner: Learner, cohort: Cohort, folder: Path) -> None:
        self.learner, self._folder, self.n_decodes = learner, folder, 0
        self._group = {s.subject: s.group for s in cohort.train}
        self._subjects = [s.subject for s in cohort.verification]
        self._labels = np.array([s.group for s in cohort.verification])
        studies = np.array([s.study for s in cohort.verification])
        self._rows = [np.flatnonzero(studies == study) for study in dict.fromkeys(studies)]
        self._last: NDArray[np.bool_] | None = None
        self._reference: NDArray[np.bool_] | None = None
        self._encoder = learner.model.get_layer("encoder")
        self._classifier = learner.model.get_layer("classifier")
        for part in (self._encoder, self._classifier):
            part.jit_compile = learner.model.jit_compile  # Keras would turn XLA on, which is slower on a CPU

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """One gradient step; every scan is read for it."""
        volumes = np.concatenate([self._read(self._folder / "train.csv", s) for s in subjects])
        labels = np.array([self._group[s] for s in subjects])
        return TrainResult(*self.learner.train_batch(volumes, labels, learning_rate=learning_rate))

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score all scans, one at a time."""
        scans = _OneByOne(self._read, self._folder / "verification.csv", self._subjects)
        p = self._classifier.predict(self._encoder.predict(scans, verbose=0), verbose=0)[:, 0]
        self._last = p >= DECISION_THRESHOLD
        return score(p, self._labels, self._reference, centers=self._rows)

    def hold_reference(self) -> None:
        """Count flips against the last verification from now on."""
        self._reference = self._last

    def margins(self, center: str, subjects: Sequence[str]) -> tuple[float, ...]:
        """As `Centers.margins`."""
        scans = _OneByOne(self._read, self._folder / "train.csv", subjects)
        p = self._classifier.predict(self._encoder.predict(scans, verbose=0), verbose=0)[:, 0]
        return tuple(margins(p, np.array([self._group[s] for s in subjects])).tolist())

    def snapshot(self) -> Any:
        """Weights by `get_weights`, the rest as NumPy arrays, too."""
        rest = [np.array(keras.ops.convert_to_numpy(v.value)) for v in self._others()]
        return self.learner.model.get_weights(), rest

    def restore(self, snapshot: Any) -> None:
        """By `set_weights`."""
        weights, rest = snapshot
        self.learner.model.set_weights(weights)
        for variable, value in zip(self._others(), rest, strict=True):
            variable.assign(value)

    def _read(self, table: Path, subject: str) -> NDArray[np.float32]:
        self.n_decodes += 1
        return read_scan(table, subject)

    def _others(self) -> list[keras.Variable]:
        weights = {id(v) for v in self.learner.model.weights}
        return [v for v in self.learner.variables.values() if id(v) not in weights]
