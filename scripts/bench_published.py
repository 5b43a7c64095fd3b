"""Reimplements the published scripts for `bench.py`: they parse the CSV and read the NIfTI file again for every scan.

Their `DataGeneratorTest` feeds `encoder.predict` one scan at a time and `classifier.predict` scores the features;
weights are saved by `get_weights` and restored by `set_weights`. Two things differ, so that verdicts can be compared:
voxels are transposed, not reshaped, and the optimizer and the dropout generator are restored as well.
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
from tmqc.core.rates import DECISION_THRESHOLD, Verification, score
from tmqc.data.cohort import Cohort
from tmqc.model.learner import Learner
from tmqc.training.interfaces import TrainResult


class _OneByOne(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of one scan, read by `read`."""

    def __init__(self, read: Callable[[str], NDArray[np.float32]], subjects: Sequence[str]) -> None:
        super().__init__()
        self._read, self._subjects = read, subjects

    def __len__(self) -> int:
        return len(self._subjects)

    def __getitem__(self, index: int) -> NDArray[np.float32]:
        return self._read(self._subjects[index])


class PublishedCenters:
    """Centers that hold only the model in memory, for a tour that verifies steps.

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
        self._encoder, self._classifier = (learner.model.get_layer(name) for name in ("encoder", "classifier"))
        for part in (self._encoder, self._classifier):
            part.jit_compile = learner.model.jit_compile  # Keras would enable XLA, which is slower on a CPU

    def train(self, center: str, subjects: tuple[str, ...], *, learning_rate: float) -> TrainResult:
        """Take one gradient step, reading every scan again."""
        volumes = np.concatenate([self._read("train.csv", subject) for subject in subjects])
        labels = np.array([self._group[subject] for subject in subjects])
        return TrainResult(*self.learner.train_batch(volumes, labels, learning_rate=learning_rate))

    def verify(self, limit: Limit | None = None) -> Verification:
        """Score all scans, one at a time."""
        scans = _OneByOne(lambda subject: self._read("verification.csv", subject), self._subjects)
        p = self._classifier.predict(self._encoder.predict(scans, verbose=0), verbose=0)[:, 0]
        self._last = p >= DECISION_THRESHOLD
        return score(p, self._labels, self._reference, centers=self._rows)

    def hold_reference(self) -> None:
        """Make the last verification the reference for counting flips."""
        self._reference = self._last

    def snapshot(self) -> Any:
        """Save weights by `get_weights`, and all other variables as NumPy arrays."""
        return self.learner.model.get_weights(), [np.array(variable.numpy()) for variable in self._others()]

    def restore(self, snapshot: Any) -> None:
        """Restore weights by `set_weights`, and all other variables."""
        weights, rest = snapshot
        self.learner.model.set_weights(weights)
        for variable, value in zip(self._others(), rest, strict=True):
            variable.assign(value)

    def _read(self, table: str, subject: str) -> NDArray[np.float32]:
        """Read one scan, (1, x, y, z, 1), after parsing the CSV again."""
        self.n_decodes += 1
        rows = pd.read_csv(self._folder / table, dtype=str, keep_default_na=False)
        path = rows.loc[rows["Subject"] == subject, "Path"].to_numpy()[0]
        voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(self._folder / path)))
        scan: NDArray[np.float32] = voxels.transpose(2, 1, 0).astype(np.float32)
        return scan[None, ..., None]

    def _others(self) -> list[keras.Variable]:
        weights = {id(variable) for variable in self.learner.model.weights}
        return [variable for variable in self.learner.variables.values() if id(variable) not in weights]
