"""Files that check themselves: a header, then raw bytes that can be memory-mapped. No pickle, no half-written file.

Layout: magic (8 bytes), length and CRC-32 of the header (4 bytes each, little-endian), the header as JSON, zeros up to
`START`, the payload. The header holds the payload's length and CRC-32. A file is written under another name, flushed
to the disk and renamed: whoever opens it sees all of it, and several processes may write one and the same at once.
"""

from __future__ import annotations

import json
import os
import secrets
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAGIC, START = b"TMQCSEAL", 4096  # bytes: the payload begins at a page of its own
PARTIAL = ".part"
_LEAD = struct.Struct("<8s2I")


class DamagedError(Exception):
    """The file is not what was once written: too short, too long, or a bit has changed."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path


@dataclass(frozen=True)
class Sealed:
    """A sealed file whose header is intact; the payload has not been looked at.

    Attributes:
        facts: what was said about the payload when it was written.
        crc32: of the payload, as it should be.
    """

    path: Path
    facts: Mapping[str, Any]
    n_bytes: int
    crc32: int

    def map(self) -> NDArray[np.uint8]:
        """The payload, memory-mapped read-only. Raises OSError or DamagedError: gone, or no longer this length."""
        try:
            return np.memmap(self.path, np.uint8, "r", START, (self.n_bytes,))
        except ValueError as error:  # the file is shorter than that
            raise DamagedError(self.path, str(error)) from None

    def check(self) -> NDArray[np.uint8]:
        """As `map`, after all of it has been read and held against the checksum."""
        payload = self.map()
        if zlib.crc32(payload.data) != self.crc32:
            raise DamagedError(self.path, "the checksum does not match")
        return payload


def seal(path: Path, facts: Mapping[str, Any], payload: NDArray[Any]) -> Sealed:
    """Write `facts` (JSON) and the bytes of `payload`. Raises OSError: no room, no permission; nothing is left then."""
    data = np.ascontiguousarray(payload).reshape(-1).view(np.uint8)
    crc32 = zlib.crc32(data.data)
    header = json.dumps({"facts": dict(facts), "n_bytes": data.size, "crc32": crc32}).encode()
    lead = _LEAD.pack(MAGIC, len(header), zlib.crc32(header)) + header
    if len(lead) > START:
        raise ValueError(f"{len(header)} bytes of facts, at most {START - _LEAD.size} have room")
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            file.write(lead.ljust(START, b"\0"))
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return Sealed(path, dict(facts), data.size, crc32)


def unseal(path: Path) -> Sealed:
    """Read and check the header and the length.

    Raises:
        DamagedError: this is not a whole sealed file.
        OSError: it is not there, or cannot be read.
    """
    with path.open("rb") as file:
        start = file.read(START)
        size = os.fstat(file.fileno()).st_size
    if len(start) < START:
        raise DamagedError(path, f"{len(start)} bytes")
    magic, length, crc32 = _LEAD.unpack_from(start)
    header = start[_LEAD.size : _LEAD.size + length]
    if magic != MAGIC or zlib.crc32(header) != crc32:
        raise DamagedError(path, "the header is damaged")
    content = json.loads(header)
    if size != START + content["n_bytes"]:
        raise DamagedError(path, f"{size} bytes, expected {START + content['n_bytes']}")
    return Sealed(path, content["facts"], content["n_bytes"], content["crc32"])
