"""Schemas of the settings, one dataclass per config group: each setting's type, default and allowed values.

Nothing here reads YAML: `cli.py` composes with Hydra and hands the plain dataclasses on. `validate.py` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tmqc.settings.ranges import one_of, within

AUTO = "auto"
TRAINING = ("clean", "dirty", "qc")
PIPELINES = (*TRAINING, "inference", "rivals")
CENTER_TABLES = ("demo", "real83")  # that tmqc brings
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


@dataclass
class PipelineConfig:
    """Which pipeline runs, where in the schedule it starts, and its seed in the published scripts."""

    name: str = one_of("qc", PIPELINES)
    start: int = within(10, 0, 100_000)  # first cycle; schedule.start follows it
    published_seed: int = within(42, 0, 2**31)  # of schedule=published


@dataclass
class PhantomConfig:
    """How a phantom cohort is made. Lengths in mm, intensities on a 0..255 scale."""

    centers: str = "demo"  # demo, real83, or the path of a CSV of counts per center
    seed: int = within(0, 0, 2**32 - 1)
    effect: float = within(1.0, 0.0, 3.0)  # strength of the PD change; 0: no difference, 1: calibrated
    spread: str = one_of("easy", ("easy", "field"))  # how much scans, scanners and centers differ
    directory: str | None = None  # default: <run.outputs>/phantom/<name made of the settings>


@dataclass
class CohortConfig:
    """Where the subjects come from. Shape in voxels and spacing in mm, both in x, y, z order."""

    source: str = one_of("csv", ("csv", "phantom"))  # your own tables; or synthetic scans
    train_csv: str | None = None  # the training split
    verification_csv: str | None = None  # the split that control judges by; null: the test split, with a warning
    test_csv: str | None = None  # the split that is reported on
    truth_csv: str | None = None  # manifest of known harmful scans; read by evaluation only
    shape: list[int] = field(default_factory=lambda: [160, 192, 160])  # of every scan
    spacing_mm: list[float] | None = field(default_factory=lambda: [1.0, 1.0, 1.0])  # null: any, but all alike
    orientation: str | None = "RAS"  # null: any, but all alike
    phantom: PhantomConfig = field(default_factory=PhantomConfig)


@dataclass
class ModelConfig:
    """SFCN (doi 10.1016/j.media.2020.101871)."""

    name: str = "sfcn"  # a name for the record
    filters: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 256, 64])  # 3x3x3 blocks, then the 1x1x1
    dropout: float = within(0.2, 0.0, 0.99)  # share of the features left out in training
    batchnorm_momentum: float = within(0.99, 0.0, 0.99999)  # of the moving mean and variance, per training step
    batchnorm_epsilon: float = within(1e-3, 1e-12, 1.0)  # added to the variance


@dataclass
class ScheduleConfig:
    """The tour and the learning rate."""

    cycles: int = within(30, 1, 100_000)  # the run ends before this cycle
    start: int = within(0, 0, 100_000)  # first cycle; in conf: 0 for clean, 10 for the others
    seed: int = within(42, 0, 2**31)  # of the visiting order
    batch_size: int = within(5, 1, 10_000)  # scans per training step
    local_epochs: int = within(1, 1, 10_000)  # per visit
    keep_remainder: bool = False  # train on a center's incomplete last batch too
    learning_rate: float = within(1e-4, 1e-12, 10.0)  # of Adam, at cycle decay_start
    decay: float = within(0.1, 0.0, 100.0)  # lr(c) = learning_rate * exp(-decay * (c - decay_start))
    decay_start: int = within(0, 0, 100_000)  # cycle of the full learning rate


@dataclass
class ScreenConfig:
    """Judge every scan from one trusted state."""

    every: int = within(2, 1, 100_000)  # cycles from one screening to the next
    steps: int = within(1, 1, 1000)  # training steps taken on a scan before it is verified
    loss_z: float = within(6.0, 1e-6, 1e6)  # of the change in verification loss, in robust standard deviations
    unusual_loss_z: float = within(1.5, 1e-6, 1e6)  # the same for a scan that the model is far too sure about
    image_loss_z: float = within(0.1, 1e-6, 1e6)  # the same for a scan whose image is beyond image_z
    margin_z: float = within(3.0, 1e-6, 1e6)  # the model is far too sure from here on, in robust standard deviations
    contradiction: float = within(0.25, 1e-6, 1e6)  # of a label, relative to how the model speaks of labels
    image_z: float | None = within(None, 1e-6, 1e6)  # a more dissimilar image is unusual; null: no check
    image_alone_z: float | None = within(None, 1e-6, 1e6)  # a more dissimilar image is a suspect by itself
    least_loss: float = within(1e-4, 0.0, 100.0)  # nats; a smaller spread of the changes counts as this
    exact: bool = False  # verify after every scan's steps; false: most changes of the loss are estimated to first order


@dataclass
class EvidenceConfig:
    """Judge centers, images and labels by forward passes."""

    every: int = within(4, 1, 100_000)  # cycles from one screening to the next
    compare: str = one_of("across", ("across", "within"))  # a center with all others, or its scans with one another


@dataclass
class RunawayConfig:
    """Detects control that rejects nearly everything, and what to do then."""

    action: str = one_of("warn", ("off", "warn", "pause", "stop"))  # pause: no scan is eliminated
    window: int = within(20, 1, 1_000_000)  # batches looked back on, or visits if these are verified
    rejected: float = within(0.5, 0.0, 1.0)  # largest share of them that may be rejected
    eliminated: float = within(0.5, 0.0, 1.0)  # largest share of the training scans that may be eliminated

    @property
    def pauses(self) -> bool:
        """Whether an alarm holds all eliminations."""
        return self.action in ("pause", "stop")


@dataclass
class QcConfig:
    """Accept or reject, and how long a flagged subject waits."""

    control: str = one_of("steps", ("steps", "screen", "evidence"))  # verify every step; or screen, or weigh evidence
    error: float = within(0.02, 0.0, 1.0)  # acceptable error per sample
    revisit: int = within(2, 1, 100_000)  # cycles a flagged subject waits
    rates: str = one_of("standard", RATES)  # published: FP / PD and FN / HC, as the published scripts divide
    signal: str = one_of("rates", ("rates", "loss"))  # what must not rise: FPR and FNR, or the loss
    loss_error: float = within(0.01, 0.0, 100.0)  # acceptable rise of the verification loss per sample, nats
    strikes: int = within(1, 1, 1000)  # failed revisits in a row that eliminate
    early_stop: Any = field(default="off", metadata={"one_of": EARLY_STOPS})  # end a verification once it is decided
    confidence: float = within(0.95, 0.5, 0.999999)  # of early_stop=confident: in the verdict of a part of the scans
    verify: str = one_of("batch", ("batch", "visit"))  # after every batch, or once after every visit
    calibrate: bool = False  # Platt-calibrate the verification logits before anything is counted
    batchnorm: str = one_of("published", ("published", "frozen"))  # frozen: its statistics stay those of the start
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    fdr: float = within(0.1, 1e-6, 0.5)  # of evidence: share of good ones expected among what is eliminated
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    runaway: RunawayConfig = field(default_factory=RunawayConfig)


@dataclass
class HarmfulConfig:
    """Which scans are corrupted, how and how strongly."""

    scenario: str = one_of("none", SCENARIOS)
    kind: Any = "inverted"  # one kind, a list dealt out in turn, or a mapping of kinds to shares
    severity: int | None = within(None, 1, 10)  # null: 5, but inverted and noise as published
    placement: str = one_of(
        "in_place", PLACEMENTS
    )  # extra: the good scan stays, its corrupted copy is a further subject
    ids: list[str] = field(default_factory=list)  # of centers or subjects; empty: drawn by count or fraction, and seed
    count: int = within(1, 1, 1_000_000)  # how many are drawn
    fraction: float | None = within(None, 1e-6, 1.0)  # in place of count: share of the centers or of the scans
    seed: int = within(0, 0, 2**63)
    mean: float = within(0.0, -1e6, 1e6)  # of the noise, on a 0..255 scale
    sigma: float = within(25.0, 1e-6, 1e6)  # its standard deviation, while severity is null
    replace: bool = False  # noise in place of the tissue instead of on top of it


@dataclass
class TrackingConfig:
    """Where cycles are logged."""

    name: str = one_of("mlflow", ("mlflow", "none"))  # none changes no result
    uri: str | None = None  # default: sqlite:///<run.outputs>/mlflow.db
    experiment: str = "tmqc"  # name of the MLflow experiment
    register: str | None = None  # the final model becomes a version of this registered model
    system_metrics: bool = True  # use of processor, memory (where psutil is installed) and GPU (nvidia-ml-py)
    required: bool = True  # off: a store that cannot be used at the start does not stop the run
    parent: str | None = None  # id of the run this one is nested under; a sweep sets it for its jobs


@dataclass
class InferenceConfig:
    """Which saved cycles are scored on the test split, and the bounds of the age groups in years."""

    run: str | None = None  # directory of the run that is scored
    cycles: str = "all"  # all, last, one cycle (29) or a range, both ends included (10-29)
    age_bins: list[float] = field(default_factory=lambda: [0.0, 50.0, 60.0, 70.0, 80.0, 120.0])  # bounds, ascending


@dataclass
class RivalsConfig:
    """Other methods that score the training scans, and their parameters."""

    names: list[str] = field(default_factory=list)  # empty: all
    neighbors: int = within(5, 1, 100_000)  # of knn_label and knn_distance
    seed: int = within(0, 0, 2**32 - 1)  # of random, image_forest and aled


@dataclass
class FederationConfig:
    """Where the centers are: in this process, or at sites that keep their scans."""

    name: str = one_of("none", ("none", "local", "nvflare-sim", "nvflare-poc", "nvflare"))  # none: all centers here
    sites: list[str] = field(default_factory=list)  # names; of a real federation: who takes part, in the tour's order
    n_sites: int = within(3, 1, 1000)  # of a simulated one: the cohort's centers are dealt out to as many
    min_cell: int = within(5, 1, 1_000_000)  # of simulated sites; a real site has its own
    share_margins: bool = False  # of simulated sites; qc.control=screen needs it
    share_scores: bool = False  # of simulated sites; qc.control=evidence needs it
    on_fault: str = one_of("wait", ON_FAULT)  # until a site answers; skip its visit; or stop
    timeout_s: float = within(600.0, 1e-3, 1e9)  # for one answer
    patience_s: float | None = within(None, 0.0, 1e9)  # to wait for a site in all; null: for ever
    pause_s: float = within(2.0, 0.0, 1e6)  # between two attempts; a skipped site is not asked for as long
    admin_kit: str | None = None  # of a real federation: the administrator's start-up kit


@dataclass
class CheckpointConfig:
    """How often a run is saved, and what of it stays."""

    every_s: float = within(60.0, 0.0, 1e9)  # seconds between two points to resume from
    keep: int | None = within(None, 1, 1_000_000)  # cycles whose checkpoints stay; null: all


@dataclass
class CacheConfig:
    """Where decoded scans are kept; nothing here is part of the method."""

    enabled: bool = True  # false: every run decodes all scans and holds them in memory
    directory: str | None = None  # default: <run.outputs>/cache


@dataclass
class SweepConfig:
    """What the jobs of a sweep share besides settings; without effect on a single run."""

    name: str | None = None  # of its directory; null: made of the settings that all its jobs share
    objective: str | None = None  # number that a search optimizes, by its name in MLflow
    direction: str = one_of("maximize", ("maximize", "minimize"))  # of the objective


@dataclass
class RunConfig:
    """How the run is carried out; nothing here is part of the method."""

    outputs: str = "outputs"  # folder of all runs
    name: str = "unnamed"  # of the run directory; in conf the time of day
    overwrite: bool = False  # begin anew in a directory that holds a run
    resume: str = one_of("auto", ("auto", "never"))  # resume a run of this name that died; never: refuse it
    seed: int = within(0, 0, 1_000_000)  # initial weights and dropout
    deterministic: bool = True  # deterministic operations
    threads: int | None = within(None, 1, 10_000)  # of the CPU; null: one per core
    precision: str = one_of("float32", ("float32", "mixed_bfloat16", "mixed_float16"))  # of the layers
    verify_batch_size: Any = AUTO  # scans scored at once; auto: 32, or as many as 4 GB hold
    verify_workers: int | None = within(None, 0, 64)  # further processes that verify; null: one per further device
    verify_on: str = one_of("processes", ("processes", "ray"))  # of this machine, or of a Ray cluster
    jit: str = one_of("auto", ("auto", "on", "off"))  # XLA
    onednn: bool = True  # TensorFlow on a CPU: several times as fast on most; changes last digits
    progress: bool = True  # show bars


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
