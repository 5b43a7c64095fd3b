"""The rules of quality control, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field

from tmqc.core.gate import Gate
from tmqc.settings.schema import RunawayConfig


@dataclass(frozen=True)
class Control:
    """The rules of quality control. The defaults are the published ones.

    Attributes:
        revisit: cycles a flagged subject waits.
        strikes: failed revisits in a row that eliminate.
        early_stop: `off`; `certain`: end a verification as soon as rejection is certain; verdicts stay the same, but a
            rejected step's rates and loss are lower bounds then; `confident`: and as soon as acceptance is sure enough.
        confidence: how sure: a step that all scans would reject is accepted with 1 - `confidence` at most.
        verify: `batch`: every batch of the regular tour is a verified step; `visit`: all batches of a visit are one,
            whose n is the number of distinct subjects trained on in it, however many local epochs there were.
        calibrate: judge by what verifications count once their logits are calibrated.
    """

    gate: Gate = field(default=Gate())
    revisit: int = 2
    strikes: int = 1
    guard: RunawayConfig = field(default_factory=RunawayConfig)
    early_stop: str = "off"
    confidence: float = 0.95
    verify: str = "batch"
    calibrate: bool = False

    @property
    def risk(self) -> float | None:
        """The probability at most of accepting a step that all scans would reject; None: all are scored."""
        return 1.0 - self.confidence if self.early_stop == "confident" else None
