"""Which content a file has, without reading it again: an index by path, size and times."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np

from tmqc.data.sealed import DamagedError, seal, unseal

SETTLED_NS = 2 * 10**9  # a younger file may change once more without a change of its times: its entry is not trusted

Write = Callable[[Callable[[Path], object]], object]
"""Runs a function on the directory of the cache, if that can be written."""


class Contents:
    """SHA-256 of files, remembered in memory and, sealed, under `directory`/index; safe in several threads."""

    def __init__(self, directory: Path | None, write: Write) -> None:
        self._directory, self._write = directory, write
        self._known: dict[Path, tuple[dict[str, int], str]] = {}

    def find(self, path: Path) -> str | None:
        """The digest of a file that has not changed since it was taken; None: not known. Raises OSError: no file."""
        identity = _identify(path)
        if (known := self._known.get(path)) is not None and known[0] == identity:
            return known[1]
        if self._directory is None:
            return None
        try:
            facts = unseal(self._directory / _place(path)).facts
        except (OSError, DamagedError):
            return None
        settled = facts["seen_ns"] - max(identity["mtime_ns"], identity["ctime_ns"]) > SETTLED_NS
        if not settled or {name: facts[name] for name in identity} != identity:
            return None
        self._known[path] = identity, facts["sha256"]
        return cast(str, facts["sha256"])

    def digest(self, path: Path) -> str:
        """As `find`, but a file that is not known is read. Raises OSError."""
        if (known := self.find(path)) is not None:
            return known
        identity, seen_ns = _identify(path), time.time_ns()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[path] = identity, digest
        facts = {**identity, "path": str(path.resolve()), "seen_ns": seen_ns, "sha256": digest}
        self._write(lambda directory: seal(directory / _place(path), facts, np.empty(0, np.uint8)))
        return digest

    def is_still(self, path: Path, digest: str) -> bool:
        """Whether the file is the one that had this digest, as far as size and times tell."""
        try:
            return self._known.get(path) == (_identify(path), digest)
        except OSError:
            return False


def _identify(path: Path) -> dict[str, int]:
    # The time of the last change of the inode, too: nobody can set it back, as tools that copy set the other one.
    found = path.stat()
    return {"size": found.st_size, "mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}


def _place(path: Path) -> str:
    return f"index/{hashlib.sha256(os.fsencode(path.resolve())).hexdigest()}"
