"""Records on disk with a checksum: each a `.npy` file of named fields that can be memory-mapped.

A file is written under another name and renamed: a reader sees all of it, and several processes may write the same
one at once. A file that is too short, too long or altered is reported once and treated as missing.
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

FORMAT = 2  # of the cache; raise it when records come to mean something else: older ones are not looked at then
FOLDERS = ("index", "scans", "made")
PARTIAL = ".part"
_LITTER_S = 24 * 3600.0  # a partial file this old belongs to a process that died
CHECKSUM, _N_SUM = "crc32", 4  # the last field, and so the last bytes of the file: CRC-32 of all bytes before it

# NumPy parses a header by `ast`, which two threads may not do at the same time in CPython before 3.11.10 (gh-106905).
_PARSING = threading.Lock()

Record = NDArray[np.void]
"""Shape (1,), a field each; `record[name][0]` is the field's value."""


class Store:
    """Records by folder and key under one directory; safe in several threads. Without a directory it stays empty.

    Attributes:
        n_damaged: records that were damaged, so far.
    """

    def __init__(self, directory: Path | None) -> None:
        self.directory, self.n_damaged = directory, 0
        self._is_writable, self._is_ready = directory is not None, False
        self._lock = threading.Lock()

    def get(self, folder: str, *key: object) -> Record | None:
        """Map a record, read-only, once its checksum is verified; None: there is no intact one."""
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
                log.warning("%s: is damaged (%s); it and what else of the cache is damaged is made again", path, error)
            return None

    def put(self, folder: str, *key: object, fields: Mapping[str, ArrayLike]) -> bool:
        """Write a record; returns whether it was written. The first failure is logged, and is the last attempt."""
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
                    "cache.directory=%s: cannot be written (%s); the run goes on and decodes what the cache lacks",
                    *(self.directory, error.strerror or error),
                )
            return False
        return True

    @staticmethod
    def _place(directory: Path, folder: str, key: tuple[object, ...]) -> Path:
        name = hashlib.sha256(json.dumps([FORMAT, *key]).encode()).hexdigest()
        return directory / folder / f"{name}.npy"

    def _make_ready(self, directory: Path) -> None:
        """Make the folders; clear away what dead processes have left behind."""
        if self._is_ready:
            return
        for name in FOLDERS:
            (directory / name).mkdir(parents=True, exist_ok=True)
            for partial in (directory / name).glob(f"*{PARTIAL}"):
                with suppress(FileNotFoundError):  # another process clears away, too
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
            file.write(record.view(np.uint8).data)  # not by `np.save`, whose errors lack the reason
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
