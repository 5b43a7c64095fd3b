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
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tmqc.phantom.center_tables import read_centers
from tmqc.settings.schema import ModelConfig

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
    sizes = message_sizes()
    print(
        f"model part {sizes.model:,} bytes, in half precision {sizes.half:,}; optimizer part {sizes.optimizer:,} bytes"
    )
    table = read_centers(given.centers)
    train = {center: n["train_hc"] + n["train_pd"] for center, n in table.items()}
    verification = {center: n["verification_hc"] + n["verification_pd"] for center, n in table.items()}
    n_batches = {center: n // min(BATCH, n) for center, n in train.items() if n}
    print(f"\n{'verification':48}{'steps':>7}{'sites':>7}{'scans':>7}{'out GB':>9}{'in GB':>8}{'hours':>8}")
    some = given.min_cell
    for name, least, verify, half_precision in (
        ("every batch, all sites", 1, "batch", False),
        (f"every batch, sites with {some} or more", some, "batch", False),
        ("every batch, sites with 10 or more", 10, "batch", False),
        (f"every visit, sites with {some} or more", some, "visit", False),
        (f"every batch, sites with {some}, half precision", some, "batch", True),
        (f"every visit, sites with {some}, half precision", some, "visit", True),
    ):
        verifying = {center: n for center, n in verification.items() if n >= least}
        sent = count_sent(n_batches, verifying, sizes, verify=verify, half_precision=half_precision)
        received = sum(n_batches.values()) * (sizes.model + sizes.optimizer)
        steps = sum(n_batches.values()) if verify == "batch" else len(n_batches)
        hours = ((sent + received) * 8 / (given.mbit * 1e6) + steps * given.verify_s) / 3600
        numbers = f"{steps:7}{len(verifying):7}{sum(verifying.values()):7}"
        print(f"{name:48}{numbers}{sent / 1e9:9.1f}{received / 1e9:8.1f}{hours:8.2f}")
    return 0


@dataclass(frozen=True)
class Sizes:
    """Bytes of the parts of a training state as they travel."""

    model: int
    half: int
    optimizer: int


def count_sent(
    n_batches: Mapping[str, int], verifying: Collection[str], sizes: Sizes, *, verify: str, half_precision: bool
) -> int:
    """Bytes that the server sends in a cycle in which every step is accepted; a rejected one costs one more a scan.

    Args:
        n_batches: by center, every one of them a site.
        verifying: centers whose sites verify.
        verify, half_precision: as `qc.verify` and `federation.half_precision`.
    """
    scored = sizes.half if half_precision else sizes.model
    sent = 0
    for center, n in n_batches.items():
        # The site that trained has the model, and rounds it itself if need be.
        sent += (n if verify == "batch" else 1) * (len(verifying) - (center in verifying)) * scored
        # On arrival a site lacks the optimizer's state, and the model unless it has just verified that very one.
        sent += sizes.optimizer + (0 if center in verifying and not half_precision else sizes.model)
    return sent


def message_sizes() -> Sizes:
    """Sizes of real messages, of the model at the published size."""
    from tmqc.model.backend import import_keras

    import_keras()
    import keras

    from tmqc.federation.half import to_half
    from tmqc.federation.messages import encode, pack_part
    from tmqc.model.sfcn import sfcn

    model = sfcn(SHAPE, ModelConfig(), seed=0)
    adam = keras.optimizers.Adam()
    adam.build(model.trainable_variables)
    weights, optimizer = (
        {variable.path: np.zeros(variable.shape, str(variable.dtype)) for variable in variables}
        for variables in (model.variables, adam.variables)
    )
    return Sizes(*(len(encode(pack_part("0" * 64, part))) for part in (weights, to_half(weights), optimizer)))


if __name__ == "__main__":
    sys.exit(main())
