"""Compare ways to keep decoded scans on disk: a raw memory map, blosc2 and zarr. Time, size, cold and warm.

Needs `pip install zarr blosc2` besides tmqc, which uses neither. What is timed is what tmqc does with a scan: from the
disk into one scan's place in a float32 batch. `cold`: the file was dropped from the page cache before. Other work on
the machine adds to a time and never takes from it, so the least of `--repeats` is given for each scan, then the mean;
so little is added to the processor's own time that it can be compared on a busy machine.
All work in one thread. A raw file is flushed to the disk when it is written, the others are not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import blosc2
import numpy as np
import zarr
from numpy.typing import NDArray

from tmqc.data.cohort import read_cohort
from tmqc.data.nifti import decode
from tmqc.data.sealed import seal, unseal
from tmqc.data.storage import compact

Scan = NDArray[np.generic]


def write_raw(path: Path, scan: Scan) -> None:
    seal(path, {}, scan)


def read_raw(path: Path, like: Scan) -> Scan:
    return unseal(path).map().view(like.dtype).reshape(like.shape)


def read_checked(path: Path, like: Scan) -> Scan:
    return unseal(path).check().view(like.dtype).reshape(like.shape)


def write_blosc(path: Path, scan: Scan, codec: blosc2.Codec) -> None:
    path.write_bytes(blosc2.asarray(scan, cparams={"codec": codec, "clevel": 5}).to_cframe())


def read_blosc(path: Path, like: Scan) -> Scan:
    return np.asarray(blosc2.ndarray_from_cframe(path.read_bytes())[...])


def write_zarr(path: Path, scan: Scan, compressors: str | None) -> None:
    zarr.create_array(path, data=scan, chunks=scan.shape, compressors=compressors)


def read_zarr(path: Path, like: Scan) -> Scan:
    return np.asarray(zarr.open_array(path, mode="r")[...])


# One file, or in zarr's case one folder with one chunk, a scan.
WAYS: dict[str, tuple[Callable[[Path, Scan], None], Callable[[Path, Scan], Scan]]] = {
    "raw memory map": (write_raw, read_raw),
    "raw memory map, checksum": (write_raw, read_checked),
    "blosc2 lz4": (partial(write_blosc, codec=blosc2.Codec.LZ4), read_blosc),
    "blosc2 zstd": (partial(write_blosc, codec=blosc2.Codec.ZSTD), read_blosc),
    "zarr": (partial(write_zarr, compressors="auto"), read_zarr),
    "zarr, not compressed": (partial(write_zarr, compressors=None), read_zarr),
}


def read_nifti(path: Path) -> Scan:
    return compact(decode(path), "auto")


def files_of(path: Path) -> list[Path]:
    return [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]


def forget(path: Path) -> None:
    for file in files_of(path):
        handle = os.open(file, os.O_RDONLY)
        os.fsync(handle)  # pages that are not written yet cannot be dropped
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


def least(repeats: int, work: Callable[[], object], before: Callable[[], object] = bool) -> tuple[float, float]:
    """Milliseconds on the clock, and of the processor, each the least of all repeats."""
    clock, processor = [], []
    for _ in range(repeats):
        before()
        started = time.perf_counter(), time.process_time()
        work()
        clock.append(time.perf_counter() - started[0])
        processor.append(time.process_time() - started[1])
    return 1e3 * min(clock), 1e3 * min(processor)


def compare(name: str, scans: list[Scan], folder: Path, repeats: int) -> tuple[float, ...]:
    """Milliseconds a scan to write, to read cold, to read warm, of the processor for that; bytes a byte of voxels."""
    write, read = WAYS[name]
    place = np.empty(scans[0].shape, np.float32)

    def fill(path: Path, scan: Scan) -> None:
        place[...] = read(path, scan)

    rows, n_bytes = [], 0
    for i, scan in enumerate(scans):
        path = folder / f"{name}-{i}".replace(" ", "_")
        written, _ = least(1, partial(write, path, scan))
        cold, _ = least(repeats, partial(fill, path, scan), partial(forget, path))
        rows.append((written, cold, *least(repeats, partial(fill, path, scan))))
        assert np.array_equal(place, scan.astype(np.float32)), name
        n_bytes += sum(file.stat().st_size for file in files_of(path))
    return (*np.mean(rows, axis=0).tolist(), n_bytes / sum(scan.nbytes for scan in scans))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, help="a split of a cohort")
    parser.add_argument("--n", type=int, default=20, help="scans, from the first")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--folder", type=Path, help="on the disk to be measured; if not given: the temporary directory")
    options = parser.parse_args()
    blosc2.set_nthreads(1)  # all others work in one thread, too
    subjects = read_cohort(train_csv=options.csv, verification_csv=None, test_csv=None).train[: options.n]
    decoded = [least(min(options.repeats, 3), partial(read_nifti, s.path)) for s in subjects]
    scans = [read_nifti(s.path) for s in subjects]
    types = ", ".join(sorted({scan.dtype.name for scan in scans}))
    packed = sum(s.path.stat().st_size for s in subjects) / sum(scan.nbytes for scan in scans)
    print(
        f"{len(scans)} scans of {' x '.join(map(str, scans[0].shape))} voxels held as {types}, {os.cpu_count()} cores"
    )
    print("| | write | cold | warm | warm, processor | size |\n|---|---|---|---|---|---|")
    warm, processor = np.mean(decoded, axis=0)
    print(f"| NIfTI, decoded | | | {warm:.1f} | {processor:.1f} | {packed:.2f} |")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in WAYS:
            *times, size = compare(name, scans, Path(folder), options.repeats)
            print(f"| {name} | {' | '.join(f'{ms:.2f}' for ms in times)} | {size:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
