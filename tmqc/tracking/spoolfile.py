"""The file in the run directory that keeps what the tracking store could not be told: `tracking.jsonl`.

One JSON object a line. The first says how to open the run, so that any later process can send the rest; every other
one is a call, in the order made. Files are named by their path in the run directory. Beside it, `tracking_told.json`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from tmqc.runs.directory import write_text
from tmqc.tracking.calls import START, Call

log = logging.getLogger("tmqc")


class SpoolFile:
    """Calls in a file; there is no file while there are none."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def exists(self) -> bool:
        """Whether anything waits."""
        return self.path.is_file()

    def read(self) -> tuple[Call | None, list[Call]]:
        """The opening, None if there is none, and the calls. A line cut off by the end of a process is left out."""
        if not self.exists():
            return None, []
        calls: list[Call] = []
        text = self.path.read_text(encoding="utf-8", errors="replace").removesuffix("\n")
        for number, line in enumerate(text.split("\n"), 1):  # not `splitlines`, which breaks at U+2028 as well
            try:
                call = json.loads(line)
            except ValueError:
                call = None
            if isinstance(call, dict) and isinstance(call.get("call"), str):
                calls.append(call)
            else:
                log.warning("%s: line %d cannot be read and is left out", self.path, number)
        opening = next((call for call in calls if call["call"] == START), None)
        return opening, [call for call in calls if call["call"] != START]

    def append(self, call: Call, *, opening: Call) -> None:
        """Add a call, behind `opening` if it is the first."""
        lines = [call] if self.exists() else [opening, call]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_to_lines(lines))

    def keep(self, calls: Iterable[Call], *, opening: Call) -> None:
        """Let these calls and no others wait; without any the file is removed."""
        if kept := list(calls):
            write_text(self.path, _to_lines([opening, *kept]))
        else:
            self.path.unlink(missing_ok=True)


class ToldFile:
    """The last cycle that the store was told of a run, for when the store is away and cannot say so itself."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, ids: Collection[str]) -> int | None:
        """The cycle; None if there is no record, or none of a run that has one of the names `ids`."""
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return int(content["cycle"]) if not set(ids).isdisjoint(content["ids"]) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # then the cycles are told again: twice is better than never

    def write(self, cycle: int, *, ids: Collection[str]) -> None:
        """Keep the cycle, and the names of the run: the store's, and our own."""
        write_text(self.path, json.dumps({"ids": sorted(ids), "cycle": cycle}) + "\n")


def _to_lines(calls: Iterable[Call]) -> str:
    return "".join(json.dumps(call, ensure_ascii=False) + "\n" for call in calls)
