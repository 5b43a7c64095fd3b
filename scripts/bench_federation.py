"""How long messages of a model's size take through NVIDIA FLARE on this machine, sites as processes of their own.

Examples:
    python scripts/bench_federation.py --kind nvflare-sim
    python scripts/bench_federation.py --kind nvflare-poc --sites 3

Asks empty questions, then sends the model's weights to all sites at once, then the whole training state to one. Sites
have scans in name only and refuse what they get, so that nothing but the way of the bytes is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from tmqc.data.cohort import Subject
from tmqc.federation.simulated import lay_out

_WEIGHTS, _STATE = 11_800_000, 35_400_000  # bytes: those of the full model, see scripts/federation_traffic.py
_ROUNDS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line a question; exit code 0, 1 if a site gave no answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("nvflare-sim", "nvflare-poc"), default="nvflare-poc")
    parser.add_argument("--sites", type=int, default=3)
    given = parser.parse_args(arguments)
    from tmqc.federation.flare import FlareTransport, launch_simulator
    from tmqc.federation.messages import encode

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = stand_ins(folder / "sites", given.sites)
        if given.kind == "nvflare-sim":
            transport = FlareTransport(list(files), launch_simulator(list(files), folder / "sites", folder / "flare"))
        else:
            from tmqc.federation.flare_system import System, submit_with

            system = System(folder / "flare", files)
            transport = FlareTransport(list(files), submit_with(system.admin), on_close=system.stop)
        try:
            small = encode({"task": "nothing"})
            started = time.perf_counter()
            ask(transport.exchange, dict.fromkeys(files, small))
            print(f"{given.kind}, {given.sites} sites, load {os.getloadavg()[0]:.0f} on {os.cpu_count()} cores")
            print(f"until all sites answered for the first time: {time.perf_counter() - started:.1f} s")
            weights, state = (encode({"task": "nothing", "data": np.zeros(n, np.uint8)}) for n in (_WEIGHTS, _STATE))
            show("a question without arrays, all sites", transport.exchange, dict.fromkeys(files, small))
            show(f"{_WEIGHTS / 1e6:.1f} MB to all sites", transport.exchange, dict.fromkeys(files, weights))
            show(f"{_STATE / 1e6:.1f} MB to one site", transport.exchange, {"site-1": state})
        finally:
            transport.close()
    return 0


def stand_ins(folder: Path, n: int) -> Mapping[str, Path]:
    """Settings of sites whose scans exist in their tables only."""
    rows = [
        Subject(f"{i}-{k}", Path("/nowhere.nii.gz"), f"center-{i}", k % 2, None, None, None)
        for i in range(n)
        for k in range(2)
    ]
    return lay_out(folder, train=rows, verification=(), n_sites=n, min_cell=1, share_margins=False)


def show(what: str, exchange: Callable[..., Mapping[str, object]], requests: Mapping[str, bytes]) -> None:
    """Ask some times; print the median and the extremes."""
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        ask(exchange, requests)
        seconds.append(time.perf_counter() - started)
    print(f"{what:40} {statistics.median(seconds):8.3f} s ({min(seconds):.3f} to {max(seconds):.3f})")


def ask(exchange: Callable[..., Mapping[str, object]], requests: Mapping[str, bytes]) -> None:
    """Send, and see that every site answered."""
    answers = exchange(requests, timeout_s=180.0)
    if silent := [site for site, answer in answers.items() if not isinstance(answer, bytes)]:
        sys.exit(f"no answer of {', '.join(silent)}: {answers[silent[0]]}")


if __name__ == "__main__":
    sys.exit(main())
