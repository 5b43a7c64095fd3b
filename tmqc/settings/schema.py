"""Schemas of the settings, one dataclass a config group. `validate.py` checks the values.

Nothing here reads YAML: `cli.py` composes with Hydra and hands the plain dataclasses on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

AUTO = "auto"
LOSSY = "float16"  # the one type that scans are rounded to


@dataclass
class PipelineConfig:
    """Which pipeline runs, where in the schedule it starts, and its seed in the published scripts."""

    name: str = "qc"
    start: int = 10
    published_seed: int = 42


@dataclass
class PhantomConfig:
    """How a phantom cohort is made (METHOD section 9). Lengths in mm, intensities on a 0..255 scale."""

    centers: str = "demo"  # demo, real83, or the path of a CSV of counts per center
    seed: int = 0
    effect: float = 1.0  # strength of the PD change, 1 = calibrated
    directory: str | None = None  # default: <run.outputs>/phantom/<name made of the settings>


@dataclass
class CohortConfig:
    """Where the subjects come from. Shape in voxels and spacing in mm, both in x, y, z order."""

    source: str = "csv"
    train_csv: str | None = None
    verification_csv: str | None = None
    test_csv: str | None = None
    truth_csv: str | None = None  # manifest of known harmful scans; read by evaluation only
    shape: list[int] = field(default_factory=lambda: [160, 192, 160])
    spacing_mm: list[float] | None = field(default_factory=lambda: [1.0, 1.0, 1.0])  # null: any, but all alike
    orientation: str | None = "RAS"  # null: any, but all alike
    phantom: PhantomConfig = field(default_factory=PhantomConfig)


@dataclass
class ModelConfig:
    """SFCN (doi 10.1016/j.media.2020.101871)."""

    name: str = "sfcn"
    filters: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 256, 64])
    dropout: float = 0.2
    batchnorm_momentum: float = 0.99
    batchnorm_epsilon: float = 1e-3


@dataclass
class ScheduleConfig:
    """The tour and the learning rate (METHOD sections 3 and 4)."""

    cycles: int = 30  # the run ends before this cycle
    start: int = 0
    seed: int = 42
    batch_size: int = 5
    local_epochs: int = 1
    keep_remainder: bool = False
    learning_rate: float = 1e-4
    decay: float = 0.1  # lr(c) = learning_rate * exp(-decay * (c - decay_start))
    decay_start: int = 0


@dataclass
class CalibratedConfig:
    """Tolerances measured by a dry tour before control starts, in place of the acceptable errors."""

    method: str = "none"  # none, quantile or z
    level: float = 0.99  # of a quantile 0..1; of z in robust standard deviations, as 5
    n_steps: int = 40  # steps of one scan, and as many of a full batch
    centers: list[Any] = field(default_factory=list)  # names of the trusted ones; empty: all
    seed: int = 0


@dataclass
class ScreenConfig:
    """Judge every scan from one trusted state."""

    every: int = 2  # cycles from one screening to the next
    steps: int = 1  # training steps taken on a scan before it is verified
    loss_z: float = 6.0  # limit of the change in verification loss, in robust standard deviations
    unusual_loss_z: float = 1.5  # the same for a scan that the model is far too sure about
    image_loss_z: float = 0.1  # the same for a scan whose image is beyond image_z
    margin_z: float = 3.0  # the model is far too sure from here on, in robust standard deviations
    contradiction: float = 0.25  # limit of a label's contradiction, relative to how the model speaks of labels
    image_z: float | None = None  # an image less alike to all others than this is unusual; null: not looked at
    image_alone_z: float | None = None  # an image less alike than this is a suspect whatever its step does
    least_loss: float = 1e-4  # nats; a smaller spread of the changes counts as this
    least_accuracy: float = 0.9  # of a state that may judge


@dataclass
class RunawayConfig:
    """Notice that control has lost its footing, and what to do then."""

    action: str = "warn"
    window: int = 20
    rejected: float = 0.5
    eliminated: float = 0.5


@dataclass
class QcConfig:
    """Accept or reject, and how long a flagged subject waits (METHOD sections 6 and 7)."""

    control: str = "steps"  # verify every step; or screen
    error: float = 0.02  # acceptable error per sample
    revisit: int = 2  # cycles a flagged subject waits
    rates: str = "standard"
    signal: str = "rates"
    loss_error: float = 0.01  # acceptable rise of the verification loss per sample, nats
    reference: str = "last"
    chance: float | None = None
    strikes: int = 1
    early_stop: bool = False  # end a verification as soon as rejection is certain
    verify: str = "batch"  # after every batch, or once after every visit
    calibrated: CalibratedConfig = field(default_factory=CalibratedConfig)
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    runaway: RunawayConfig = field(default_factory=RunawayConfig)


@dataclass
class HarmfulConfig:
    """Who is corrupted, how and how strongly (METHOD section 8)."""

    scenario: str = "none"
    kind: Any = "inverted"  # one kind, a list dealt out in turn, or a mapping of kinds to shares
    severity: int | None = None  # 1 to 10; null: 5, but inverted and noise as published
    placement: str = "in_place"  # or extra: the good scan stays, its corrupted copy is a further subject
    # Names of centers or subjects; empty: drawn by count or fraction, and seed. Not list[str], which would make names
    # of numbers: 10_2 is 102 by then. See spelling.py.
    ids: list[Any] = field(default_factory=list)
    count: int = 1
    fraction: float | None = None  # in place of count: share of the centers or of the scans
    seed: int = 0
    mean: float = 0.0  # of the noise, on a 0..255 scale
    sigma: float = 25.0
    replace: bool = False  # noise in place of the tissue instead of on top of it


@dataclass
class TrackingConfig:
    """Where cycles are logged."""

    name: str = "mlflow"
    uri: str | None = None  # default: sqlite:///<run.outputs>/mlflow.db
    experiment: str = "tmqc"
    required: bool = True  # off: a store that cannot be used at the start does not stop the run
    parent: str | None = None  # id of the run this one is nested under; a sweep sets it for its jobs


@dataclass
class InferenceConfig:
    """Which saved cycles are scored on the test split, and the bounds of the age groups in years."""

    run: str | None = None
    cycles: str = "all"  # all, last, one cycle (29) or a range, both ends included (10-29)
    age_bins: list[float] = field(default_factory=lambda: [0.0, 50.0, 60.0, 70.0, 80.0, 120.0])


@dataclass
class RivalsConfig:
    """Who scores the training scans besides quality control, and what they are told."""

    names: list[str] = field(default_factory=list)  # empty: all that are installed
    neighbors: int = 5  # of knn_label and knn_distance
    seed: int = 0  # of random and image_forest


@dataclass
class FederationConfig:
    """Where the centers are: here, or at sites that keep their scans."""

    name: str = "none"
    sites: list[Any] = field(default_factory=list)  # names; of a real federation: who takes part, in the tour's order
    n_sites: int = 3  # of a simulated one: the cohort's centers are dealt out to as many
    min_cell: int = 5  # of simulated sites; a real site has its own
    share_margins: bool = False  # of simulated sites; qc.control=screen needs it
    half_precision: bool = False  # verify the model rounded to float16, which is half as much to send
    on_fault: str = "wait"  # until a site answers; skip its visit; or stop
    partial: bool = False  # with skip: verdicts may go without sites that do not answer
    timeout_s: float = 600.0  # for one answer
    patience_s: float | None = None  # to wait for a site in all; null: for ever
    pause_s: float = 2.0  # between two attempts
    admin_kit: str | None = None  # of a real federation: the administrator's start-up kit


@dataclass
class CheckpointConfig:
    """How often a run is saved, and what of it stays."""

    every_s: float = 60.0  # seconds between two points to resume from
    keep: int | None = None  # cycles whose checkpoints stay; null: all


@dataclass
class CacheConfig:
    """Where decoded scans are kept, and in which type; nothing here is part of the method."""

    enabled: bool = True
    directory: str | None = None  # default: <run.outputs>/cache
    dtype: str = "auto"
    ram_gb: float | None = None  # of scans in memory, beyond it they are mapped; null: half of what is available


@dataclass
class SweepConfig:
    """What the jobs of a sweep share besides settings; a single run takes no notice."""

    name: str | None = None  # of its directory; null: made of the settings that all its jobs share
    objective: str | None = None  # the number that a search is after, by its name in MLflow
    direction: str = "maximize"


@dataclass
class RunConfig:
    """How the run is carried out; nothing here is part of the method."""

    outputs: str = "outputs"
    name: str = "unnamed"
    overwrite: bool = False
    resume: str = "auto"
    seed: int = 0  # initial weights and dropout
    deterministic: bool = True
    threads: int | None = None  # of the CPU; null: one a core
    precision: str = "float32"
    verify_batch_size: Any = 32  # scans scored at once, or AUTO
    verify_workers: int | None = None  # further processes that verify; null: one for each device but the first
    jit: str = "auto"
    onednn: bool = True
    progress: bool = True


@dataclass
class Config:
    """Everything a run is made of."""

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
    init: dict[str, Any] = field(default_factory=lambda: {"from": None, "cycle": None, "pretrain": False})


def flatten(config: Any, prefix: str = "") -> dict[str, str | int | float | bool | None]:
    """All settings as `group.setting` -> scalar; lists become text."""
    flat: dict[str, str | int | float | bool | None] = {}
    items = config.items() if isinstance(config, dict) else ((f.name, getattr(config, f.name)) for f in fields(config))
    for name, value in items:
        if is_dataclass(value) or isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if value is None or isinstance(value, str | int | float | bool) else str(value)
    return flat
