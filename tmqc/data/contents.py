"""Content hashes of files, without reading a file twice: an index by path, size and times."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tmqc.data.storage import Store

STABLE_NS = 2 * 10**9  # a younger file may change once more without a change of its times: its entry is not trusted

_Identity = tuple[int, int, int]


class Contents:
    """SHA-256 of files, remembered in memory and in the `index` of a store; safe in several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[Path, tuple[_Identity, str]] = {}

    def find(self, path: Path) -> str | None:
        """The digest of a file that has not changed since it was taken; None: not known. Raises OSError: no file."""
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
        """The bytes of a file and their digest, which is remembered. Raises OSError."""
        with path.open("rb") as file:
            identity, seen = _identify(os.fstat(file.fileno())), time.time_ns()
            content = file.read()
        digest = hashlib.sha256(content).hexdigest()
        self._known[path] = identity, digest
        self._store.put("index", _name(path), fields={"seen": np.array([*identity, seen]), "sha256": digest})
        return content, digest

    def digest(self, path: Path) -> str:
        """As `find`, but a file that is not known is read. Raises OSError."""
        return self.find(path) or self.read(path)[1]


def content_hashes(paths: Iterable[Path], contents: Contents | None = None) -> dict[Path, str]:
    """SHA-256 (hex) by path; equal ones are byte-identical files. Files that cannot be read are left out.

    Args:
        paths: of files; each is read once.
        contents: of a `VolumeCache`, if there is one: files that it knows, and that have not changed, are not read.
    """
    contents = contents or Contents(Store(None))
    found = {}
    for path in paths:
        try:
            found[path] = contents.digest(path)
        except OSError:  # decoding it reports what is wrong
            continue
    return found


def _identify(found: os.stat_result) -> _Identity:
    # The time of the last change of the inode, too: it cannot be set back, as tools that copy set the other one.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _name(path: Path) -> str:
    return os.fsencode(path.resolve()).hex()
