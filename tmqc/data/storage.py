"""Store of records with checksums, each a `.npy` file of named fields that can be memory-mapped.

Files are written under a temporary name and renamed, so readers only see complete ones, and several processes may write
the same file at once. Files that are too short, too long or altered are treated as missing and reported once.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import secrets
import threading
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

log = logging.getLogger("tmqc")

FORMAT = 2  # of the cache; raise it when the meaning of records changes: older ones are then ignored
FOLDERS = ("index", "scans", "made")
PARTIAL = ".part"
_LITTER_S = 24 * 3600.0  # age from which a partial file must belong to a process that died
CHECKSUM, _N_SUM = "crc32", 4  # CRC-32 of all preceding bytes, stored as the last field and so the last bytes

# NumPy parses headers by `ast`, which is not thread-safe in CPython before 3.11.10 (gh-106905).
_PARSING = threading.Lock()

Record = NDArray[np.void]
"""Structured array of shape (1,); `record[name][0]` is the value of a field."""


class Store:
    """Records by folder and key under one directory; safe with several threads. Without a directory it is empty.

    Attributes:
        n_damaged: number of damaged records found so far.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory, self.n_damaged = directory, 0
        self._is_writable, self._is_ready = directory is not None, False
        self._lock = threading.Lock()

    def get(self, folder: str, *key: object) -> Record | None:
        """Verify the checksum of a record and map it read-only; None if there is no intact one."""
        if self.directory is None:
            return None
        path = self._place(self.directory, folder, key)
        try:
            content = np.memmap(path, np.uint8, "r")
            if zlib.crc32(content[:-_N_SUM].data) != int.from_bytes(content[-_N_SUM:].tobytes(), "little"):
                raise ValueError("the checksum does not match")
            with _PARSING:
                return cast(Record, np.lib.format.open_memmap(path, mode="r"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            with self._lock:
                self.n_damaged += 1
                is_first = self.n_damaged == 1
            if is_first:
                log.warning("%s: is damaged (%s); damaged entries of the cache are made again", path, error)
            return None

    def put(self, folder: str, *key: object, fields: Mapping[str, ArrayLike]) -> bool:
        """Write a record; returns whether it was written. After a failure, which is logged, nothing more is written."""
        if self.directory is None or not self._is_writable:
            return False
        try:
            self._make_ready(self.directory)
            _write(self._place(self.directory, folder, key), fields)
        except OSError as error:
            with self._lock:
                is_first, self._is_writable = self._is_writable, False
            if is_first:
                log.warning(
                    "cache.directory=%s: cannot be written (%s); the run continues and decodes scans that it lacks",
                    *(self.directory, error.strerror or error),
                )
            return False
        return True

    @staticmethod
    def _place(directory: Path, folder: str, key: tuple[object, ...]) -> Path:
        name = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()
        return directory / folder / f"{name}.npy"

    def _make_ready(self, directory: Path) -> None:
        """Make the folders and remove partial files of dead processes."""
        if self._is_ready:
            return
        for name in FOLDERS:
            (directory / name).mkdir(parents=True, exist_ok=True)
            for partial in (directory / name).glob(f"*{PARTIAL}"):
                with suppress(FileNotFoundError):  # another process has removed it
                    if time.time() - partial.stat().st_mtime > _LITTER_S:
                        partial.unlink()
        self._is_ready = True


def _write(path: Path, fields: Mapping[str, ArrayLike]) -> None:
    values = {name: np.asarray(value) for name, value in fields.items()}
    record = np.zeros(1, [*((name, value.dtype, value.shape) for name, value in values.items()), (CHECKSUM, "<u4")])
    for name, value in values.items():
        record[name][0] = value
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(record))
    record[CHECKSUM][0] = zlib.crc32(record.view(np.uint8)[:-_N_SUM].data, zlib.crc32(header.getvalue()))
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(header.getvalue())
            file.write(record.view(np.uint8).data)  # not `np.save`, whose errors lack the reason
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
