"""What a federated cycle of quality control costs in bytes and time, for a table of centers and a model.

Examples:
    python scripts/federation_traffic.py
    python scripts/federation_traffic.py --centers real83 --mbit 100 --verify-s 60

Message sizes are those of real messages, made here from the model; counts of steps follow from the table. Nothing is
trained. What a run really sent stands in its trace.csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from tmqc.config import ModelConfig
from tmqc.data.center_tables import read_centers

SHAPE = (160, 192, 160)
BATCH = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--centers", default="real83", help="demo, real83 or a CSV; every center is a site")
    parser.add_argument("--mbit", type=float, default=1000.0, help="of the server's line, Mbit/s, either way")
    parser.add_argument("--verify-s", type=float, default=0.0, help="seconds that the slowest site scores its scans")
    parser.add_argument("--min-cell", type=int, default=5, help="sites with fewer verification scans do not verify")
    given = parser.parse_args(arguments)
    model, optimizer = message_sizes()
    print(f"model part {model:,} bytes, optimizer part {optimizer:,} bytes")
    table = read_centers(given.centers)
    train = {center: n["train_hc"] + n["train_pd"] for center, n in table.items()}
    verification = {center: n["verification_hc"] + n["verification_pd"] for center, n in table.items()}
    n_steps = {center: n // min(BATCH, n) for center, n in train.items() if n}
    choices = {
        "every batch, all sites": (1, 1.0),
        f"every batch, sites with {given.min_cell} or more": (given.min_cell, 1.0),
        "the same, verifying models in half precision": (given.min_cell, 0.5),
        "every batch, sites with 10 or more": (10, 1.0),
    }
    print(f"\n{'verification':48}{'steps':>7}{'sites':>7}{'scans':>7}{'out GB':>9}{'in GB':>8}{'hours':>8}")
    for name, (least, factor) in choices.items():
        show(name, n_steps, {c: n for c, n in verification.items() if n >= least}, (model, optimizer), factor, given)
    visits = dict.fromkeys(n_steps, 1)
    name = f"every visit, sites with {given.min_cell} or more"
    verifying = {c: n for c, n in verification.items() if n >= given.min_cell}
    show(name, visits, verifying, (model, optimizer), 1.0, given, n_trainings=sum(n_steps.values()))
    return 0


def show(
    name: str,
    n_steps: dict[str, int],
    verifying: dict[str, int],
    sizes: tuple[int, int],
    factor: float,
    given: argparse.Namespace,
    *,
    n_trainings: int | None = None,
) -> None:
    """One line: a cycle in which every step is accepted. A rejected one costs one more of each of its scans."""
    model, optimizer = sizes
    steps, n_verifying = sum(n_steps.values()), len(verifying)
    # The site that trained made the model: it needs none. On arrival a site lacks the optimizer's state only.
    sent = sum(n * (n_verifying - (center in verifying)) for center, n in n_steps.items()) * model * factor
    sent += len(n_steps) * optimizer
    received = (n_trainings or steps) * (model + optimizer)
    hours = ((sent + received) * 8 / (given.mbit * 1e6) + steps * given.verify_s) / 3600
    counted = sum(verifying.values())
    print(f"{name:48}{steps:7}{n_verifying:7}{counted:7}{sent / 1e9:9.1f}{received / 1e9:8.1f}{hours:8.2f}")


def message_sizes() -> tuple[int, int]:
    """Bytes of the two parts of a training state as they travel."""
    from tmqc.backend import import_keras

    import_keras()
    import keras

    from tmqc.federation.messages import encode, pack_part
    from tmqc.models.sfcn import sfcn

    model = sfcn(SHAPE, ModelConfig(), seed=0)
    adam = keras.optimizers.Adam()
    adam.build(model.trainable_variables)
    parts = [
        {variable.path: np.zeros(variable.shape, str(variable.dtype)) for variable in variables}
        for variables in (model.variables, adam.variables)
    ]
    weights, optimizer = (len(encode(pack_part("0" * 64, part))) for part in parts)
    return weights, optimizer


if __name__ == "__main__":
    sys.exit(main())
