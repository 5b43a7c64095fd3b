"""Schemas of the settings, one dataclass per config group: each setting's type and allowed values.

Defaults and descriptions are in `conf/`, and listed in docs/settings.md. `cli.py` composes the settings with Hydra into
these dataclasses, `validate.py` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tmqc.settings.defaults import defaults_from, read_default
from tmqc.settings.ranges import any_value, one_of, within

Setting = str | int | float | bool | None  # a value in flattened settings

AUTO = "auto"
TRAINING = ("clean", "dirty", "qc")
PIPELINES = (*TRAINING, "inference", "rivals")
CENTER_TABLES = ("demo", "real83")  # included in the package
RATES = ("standard", "published")
EARLY_STOPS = ("off", "certain", "confident")
SCENARIOS, PLACEMENTS = ("none", "centers", "samples"), ("in_place", "extra")
KINDS = (
    *("inverted", "noise", "flipped_label", "motion", "ghosting", "spike", "blur", "bias_field", "gibbs", "rician"),
    *("mirrored", "swapped_axes", "partial_view", "t2_contrast", "blank"),
)
RIVALS = (
    *("random", "template", "template_group", "image_forest", "loss", "gradient_norm", "tracin", "influence"),
    *("knn_label", "knn_distance", "confident_learning", "aled", "clipfl"),
)
WAIT, SKIP, STOP = ON_FAULT = ("wait", "skip", "stop")


@defaults_from("pipeline/qc")
class PipelineConfig:
    """The pipeline to run, its first cycle, and its seed in the published scripts."""

    name: str = one_of(PIPELINES)
    start: int = within(0, 100_000)
    published_seed: int = within(0, 2**31)


@defaults_from("cohort/phantom", "phantom")
class PhantomConfig:
    """Parameters of a phantom cohort. Lengths in mm, intensities on a 0..255 scale."""

    centers: str = any_value()
    seed: int = within(0, 2**32 - 1)
    effect: float = within(0.0, 3.0)
    spread: str = one_of(("easy", "field"))
    directory: str | None = any_value()


@defaults_from("cohort/csv")
class CohortConfig:
    """Tables and scans of the cohort. Shape in voxels and spacing in mm, both in x, y, z order."""

    source: str = one_of(("csv", "phantom"))
    train_csv: str | None = any_value()
    verification_csv: str | None = any_value()
    test_csv: str | None = any_value()
    truth_csv: str | None = any_value()
    shape: list[int] = any_value()
    spacing_mm: list[float] | None = any_value()
    orientation: str | None = any_value()
    phantom: PhantomConfig = field(default_factory=PhantomConfig)


@defaults_from("model/sfcn")
class ModelConfig:
    """Architecture of the SFCN (doi 10.1016/j.media.2020.101871)."""

    name: str = any_value()
    filters: list[int] = any_value()
    dropout: float = within(0.0, 0.99)
    batchnorm_momentum: float = within(0.0, 0.99999)
    batchnorm_epsilon: float = within(1e-12, 1.0)


@defaults_from("schedule/fair")
class ScheduleConfig:
    """Cycles, visiting order, batches and learning rate."""

    cycles: int = within(1, 100_000)
    start: int = within(0, 100_000, default=0)  # in conf: that of the pipeline
    seed: int = within(0, 2**31)
    batch_size: int = within(1, 10_000)
    local_epochs: int = within(1, 10_000)
    keep_remainder: bool = any_value()
    learning_rate: float = within(1e-12, 10.0)
    decay: float = within(0.0, 100.0)
    decay_start: int = within(0, 100_000)
    ema: float | None = within(0.0, 0.99999)


@defaults_from("qc/default", "screen")
class ScreenConfig:
    """Thresholds of control that judges every scan by itself from one reference model."""

    every: int = within(1, 100_000)
    steps: int = within(1, 1000)
    loss_z: float = within(1e-6, 1e6)
    unusual_loss_z: float = within(1e-6, 1e6)
    image_loss_z: float = within(1e-6, 1e6)
    margin_z: float = within(1e-6, 1e6)
    contradiction: float = within(1e-6, 1e6)
    image_z: float | None = within(1e-6, 1e6)
    image_alone_z: float | None = within(1e-6, 1e6)
    least_loss: float = within(0.0, 100.0)
    exact: bool = any_value()


@defaults_from("qc/default", "evidence")
class EvidenceConfig:
    """Parameters of control that judges centers, images and labels by forward passes."""

    every: int = within(1, 100_000)
    compare: str = one_of(("across", "within"))


@defaults_from("qc/default", "runaway")
class RunawayConfig:
    """Detection of control that rejects nearly everything, and the action taken."""

    action: str = one_of(("off", "warn", "pause", "stop"))
    window: int = within(1, 1_000_000)
    rejected: float = within(0.0, 1.0)
    eliminated: float = within(0.0, 1.0)

    @property
    def pauses(self) -> bool:
        """Whether an alarm suspends all eliminations."""
        return self.action in ("pause", "stop")


@defaults_from("qc/default")
class QcConfig:
    """Quality control: the rule that accepts or rejects, and how long a flagged subject waits."""

    control: str = one_of(("steps", "screen", "evidence"))
    error: float = within(0.0, 1.0)
    revisit: int = within(1, 100_000)
    rates: str = one_of(RATES)
    signal: str = one_of(("rates", "loss"))
    loss_error: float = within(0.0, 100.0)
    strikes: int = within(1, 1000)
    early_stop: Any = one_of(EARLY_STOPS)
    confidence: float = within(0.5, 0.999999)
    verify: str = one_of(("batch", "visit"))
    calibrate: bool = any_value()
    batchnorm: str = one_of(("published", "frozen"))
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    fdr: float = within(1e-6, 0.5)
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    runaway: RunawayConfig = field(default_factory=RunawayConfig)


@defaults_from("harmful/centers")
class HarmfulConfig:
    """Scans to corrupt, the kind of corruption and its severity."""

    scenario: str = one_of(SCENARIOS, default="none")  # as harmful=none
    kind: Any = any_value()
    severity: int | None = within(1, 10)
    placement: str = one_of(PLACEMENTS)
    ids: list[str] = any_value()
    count: int = within(1, 1_000_000)
    fraction: float | None = within(1e-6, 1.0)
    seed: int = within(0, 2**63)
    mean: float = within(-1e6, 1e6)
    sigma: float = within(1e-6, 1e6)
    replace: bool = any_value()


@defaults_from("tracking/mlflow")
class TrackingConfig:
    """The experiment tracker and its store."""

    name: str = one_of(("mlflow", "none"))
    uri: str | None = any_value()
    experiment: str = any_value()
    register: str | None = any_value()
    system_metrics: bool = any_value()
    required: bool = any_value()
    parent: str | None = any_value()


@defaults_from("config", "inference")
class InferenceConfig:
    """Saved cycles to score on the test split, and bounds of the age groups in years."""

    run: str | None = any_value()
    cycles: str = any_value()
    age_bins: list[float] = any_value()


@defaults_from("config", "rivals")
class RivalsConfig:
    """Other methods that score the training scans, and their parameters."""

    names: list[str] = any_value()
    neighbors: int = within(1, 100_000)
    seed: int = within(0, 2**32 - 1)


@defaults_from("federation/none")
class FederationConfig:
    """Location of the centers: in this process, or at sites that keep their scans."""

    name: str = one_of(("none", "local", "nvflare-sim", "nvflare-poc", "nvflare"))
    sites: list[str] = any_value()
    n_sites: int = within(1, 1000)
    min_cell: int = within(1, 1_000_000)
    share_margins: bool = any_value()
    share_scores: bool = any_value()
    on_fault: str = one_of(ON_FAULT)
    timeout_s: float = within(1e-3, 1e9)
    patience_s: float | None = within(0.0, 1e9)
    pause_s: float = within(0.0, 1e6)
    admin_kit: str | None = any_value()


@defaults_from("config", "checkpoint")
class CheckpointConfig:
    """How often checkpoints are saved, and how many are kept."""

    every_s: float = within(0.0, 1e9)
    keep: int | None = within(1, 1_000_000)


@defaults_from("config", "cache")
class CacheConfig:
    """Cache of decoded scans; no effect on results."""

    enabled: bool = any_value()
    directory: str | None = any_value()


@defaults_from("config", "sweep")
class SweepConfig:
    """Name and objective of a sweep; no effect on a single run."""

    name: str | None = any_value()
    objective: str | None = any_value()
    direction: str = one_of(("maximize", "minimize"))


@defaults_from("config", "run")
class RunConfig:
    """Directories, random seed and hardware of a run; not part of the method."""

    outputs: str = any_value()
    name: str = any_value(default="unnamed")  # in conf: date and time
    overwrite: bool = any_value()
    resume: str = one_of(("auto", "never"))
    seed: int = within(0, 1_000_000)
    deterministic: bool = any_value()
    threads: int | None = within(1, 10_000)
    precision: str = one_of(("float32", "mixed_bfloat16", "mixed_float16"))
    verify_batch_size: Any = any_value()
    verify_workers: int | None = within(0, 64)
    verify_on: str = one_of(("processes", "ray"))
    jit: str = one_of(("auto", "on", "off"))
    onednn: bool = any_value()
    progress: bool = any_value()


@dataclass
class Config:
    """All settings of a run."""

    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    cohort: CohortConfig = field(default_factory=CohortConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    qc: QcConfig = field(default_factory=QcConfig)
    harmful: HarmfulConfig = field(default_factory=HarmfulConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    rivals: RivalsConfig = field(default_factory=RivalsConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    run: RunConfig = field(default_factory=RunConfig)
    # `from` is a Python keyword, so `init.from` cannot be a dataclass field: a dict, checked in validate().
    init: dict[str, Any] = field(default_factory=lambda: dict(read_default("config", "init")))


def flatten(config: Any, prefix: str = "") -> dict[str, Setting]:
    """Return all settings as `group.setting` -> scalar; lists become text."""
    flat: dict[str, Setting] = {}
    items = config.items() if isinstance(config, dict) else ((f.name, getattr(config, f.name)) for f in fields(config))
    for name, value in items:
        if is_dataclass(value) or isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if value is None or isinstance(value, str | int | float | bool) else str(value)
    return flat
