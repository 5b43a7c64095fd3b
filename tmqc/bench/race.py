"""Contenders take the same QC cycle a step in turn; what each took, and whether all came to the same verdicts."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from tmqc.bench.contender import Contender
from tmqc.core.records import BASELINE

log = logging.getLogger("tmqc")

A_FIFTH = 0.2


@dataclass(frozen=True)
class Ran:
    """One contender's cycle: its steps as it told of them, without the first verification, and what it said last."""

    steps: tuple[Mapping[str, Any], ...]
    closing: Mapping[str, Any]

    def seconds(self, clock: str = "wall_s") -> float:
        """Of all steps."""
        return float(sum(step[clock] for step in self.steps))

    @property
    def verdicts(self) -> list[tuple[str, list[str], bool]]:
        """What was decided, step by step."""
        return [(step["phase"], step["subjects"], step["accepted"]) for step in self.steps]

    @property
    def share_rejected(self) -> float:
        """Of all steps."""
        return mean(not step["accepted"] for step in self.steps)


def race(contenders: Sequence[Contender], *, n_steps: int) -> dict[str, Ran]:
    """Run the first `n_steps` verified steps of a cycle, or all of it, everybody's k-th step one after the other.

    Returns:
        By name. Whoever else uses the machine slows all of them down alike.
    """
    for contender in contenders:
        contender.begin("cycle", n_steps=n_steps)
    steps: dict[str, list[Mapping[str, Any]]] = {c.setting.name: [] for c in contenders}
    closing: dict[str, Mapping[str, Any]] = {}
    while len(closing) < len(contenders):
        for contender in contenders:
            name = contender.setting.name
            if name in closing:
                continue
            contender.go_on()
            told = contender.receive()
            if "phase" not in told:
                closing[name] = told
            elif told["phase"] != BASELINE:
                steps[name].append(told)
                verdict = "accepted" if told["accepted"] else "rejected"
                log.info("step %d: %s, %s, %.1f s", len(steps[name]), name, verdict, told["wall_s"])
    return {name: Ran(tuple(steps[name]), closing[name]) for name in steps}


def speedup(slow: Ran, fast: Ran, clock: str = "wall_s") -> float:
    """How many times faster `fast` was: the median over their common steps: no single hiccup of the machine counts."""
    ratios = [float(a[clock]) / float(b[clock]) for a, b in zip(slow.steps, fast.steps, strict=False)]
    return median(ratios)


def speedup_at(share: float, slow: Ran, fast: Ran, clock: str = "wall_s") -> float | None:
    """How many times faster `fast` would be in a cycle of which `share` of the steps are rejected.

    Of the mean accepted and the mean rejected step, as measured. None: there was none of a kind.
    """
    times: list[float] = []
    for ran in (slow, fast):
        kinds = [
            [float(step[clock]) for step in ran.steps if step["accepted"] is accepted] for accepted in (True, False)
        ]
        if not all(kinds):
            return None
        times.append((1.0 - share) * mean(kinds[0]) + share * mean(kinds[1]))
    return times[0] / times[1]
