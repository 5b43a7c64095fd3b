"""Content hashes of files, indexed by path, size and times so that unchanged files are not read again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tmqc.data.storage import Store

STABLE_NS = 2 * 10**9  # entries of younger files are not trusted: they may still change without new file times

_Identity = tuple[int, int, int]


class Contents:
    """SHA-256 of files, stored in memory and in the `index` of a store; safe with several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Path, tuple[_Identity, str]] = {}

    def find(self, path: Path) -> str | None:
        """Stored digest of an unchanged file; None if there is none. Raises OSError if the file does not exist."""
        identity = _identify(path.stat())
        if (known := self._known.get(path)) is not None and known[0] == identity:
            return known[1]
        if (record := self._store.get("index", _name(path))) is None:
            return None
        size, mtime, ctime, seen = record["seen"][0].tolist()
        if (size, mtime, ctime) != identity or seen - max(mtime, ctime) <= STABLE_NS:
            return None
        self._known[path] = identity, str(record["sha256"][0])
        return self._known[path][1]

    def read(self, path: Path) -> tuple[bytes, str]:
        """Read a file; returns its bytes and their digest, which is stored. Raises OSError."""
        with path.open("rb") as file:
            identity, seen = _identify(os.fstat(file.fileno())), time.time_ns()
            content = file.read()
        digest = hashlib.sha256(content).hexdigest()
        self._known[path] = identity, digest
        self._store.put("index", _name(path), fields={"seen": np.array([*identity, seen]), "sha256": digest})
        return content, digest

    def digest(self, path: Path) -> str:
        """Digest of a file, which is read if there is no stored one. Raises OSError."""
        return self.find(path) or self.read(path)[1]


def content_hashes(paths: Iterable[Path], contents: Contents) -> dict[Path, str]:
    """Map paths to the SHA-256 (hex) of their contents. Files that cannot be read are left out.

    Args:
        paths: of files; each is read once.
        contents: of a `VolumeCache`: unchanged files with a stored digest are not read.
    """
    found = {}
    for path in paths:
        try:
            found[path] = contents.digest(path)
        except OSError:  # decoding the file reports the fault
            continue
    return found


def _identify(found: os.stat_result) -> _Identity:
    # Includes the change time of the inode because, unlike the modification time, copying tools cannot set it.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _name(path: Path) -> str:
    return os.fsencode(path.resolve()).hex()
