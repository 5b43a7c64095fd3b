"""The model in half precision, as it travels to be verified where `federation.half_precision` says so."""

from __future__ import annotations

import numpy as np

from tmqc.federation.messages import Array, Part

LARGEST = float(np.finfo(np.float16).max)  # 65504


def to_half(part: Part) -> dict[str, Array]:
    """Round a part's floating-point arrays to float16, to nearest, ties to even: to the same bits everywhere.

    Other arrays, such as the states of generators, stay as they are. So do values that are not finite already.

    Raises:
        OverflowError: names an array with a finite value that half precision cannot hold.
    """
    rounded: dict[str, Array] = {}
    for name, array in part.items():
        if array.dtype.kind != "f":
            rounded[name] = array
            continue
        with np.errstate(over="ignore"):
            rounded[name] = array.astype(np.float16)
        if (np.isinf(rounded[name]) & np.isfinite(array)).any():
            largest = float(np.abs(array[np.isfinite(array)]).max())
            raise OverflowError(f"{name} holds {largest:g}, and half precision holds no more than {LARGEST:g}")
    return rounded
