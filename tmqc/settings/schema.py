"""Schemas of the settings, one dataclass per config group: each setting's type, default and allowed values.

No YAML is read here: `cli.py` composes the settings with Hydra into these dataclasses, `validate.py` checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from tmqc.settings.ranges import one_of, within

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


@dataclass
class PipelineConfig:
    """The pipeline to run, its first cycle, and its seed in the published scripts."""

    name: str = one_of("qc", PIPELINES)  # pipeline to run
    start: int = within(10, 0, 100_000)  # first cycle; default of schedule.start
    published_seed: int = within(42, 0, 2**31)  # seed of the visiting order with schedule=published


@dataclass
class PhantomConfig:
    """Parameters of a phantom cohort. Lengths in mm, intensities on a 0..255 scale."""

    centers: str = "demo"  # demo, real83, or the path of a CSV of counts per center
    seed: int = within(0, 0, 2**32 - 1)  # seed of all random parameters
    effect: float = within(1.0, 0.0, 3.0)  # strength of the PD change; 0: no difference, 1: calibrated
    spread: str = one_of("easy", ("easy", "field"))  # variability of scans, scanners and centers
    directory: str | None = None  # null: <run.outputs>/phantom/<name derived from the settings>


@dataclass
class CohortConfig:
    """Tables and scans of the cohort. Shape in voxels and spacing in mm, both in x, y, z order."""

    source: str = one_of("csv", ("csv", "phantom"))  # csv: your own tables; phantom: synthetic scans
    train_csv: str | None = None  # table of the training split
    verification_csv: str | None = None  # table of the verification split; null: the test split, with a warning
    test_csv: str | None = None  # table of the test split, for the final report
    truth_csv: str | None = None  # manifest of known harmful scans; read by evaluation only
    shape: list[int] = field(default_factory=lambda: [160, 192, 160])  # required shape of every scan
    spacing_mm: list[float] | None = field(default_factory=lambda: [1.0, 1.0, 1.0])  # null: any spacing, equal for all
    orientation: str | None = "RAS"  # axis codes of every scan; null: any, equal for all scans
    phantom: PhantomConfig = field(default_factory=PhantomConfig)


@dataclass
class ModelConfig:
    """Architecture of the SFCN (doi 10.1016/j.media.2020.101871)."""

    name: str = "sfcn"  # label for the records; no effect
    filters: list[int] = field(default_factory=lambda: [32, 64, 128, 256, 256, 64])  # 3x3x3 blocks, then 1x1x1
    dropout: float = within(0.2, 0.0, 0.99)  # dropout rate before the classifier
    batchnorm_momentum: float = within(0.99, 0.0, 0.99999)  # momentum of the moving statistics, per training step
    batchnorm_epsilon: float = within(1e-3, 1e-12, 1.0)  # constant added to the variance


@dataclass
class ScheduleConfig:
    """Cycles, visiting order, batches and learning rate."""

    cycles: int = within(30, 1, 100_000)  # end of the range of cycles, exclusive
    start: int = within(0, 0, 100_000)  # first cycle; in conf: 0 for clean, 10 for the others
    seed: int = within(42, 0, 2**31)  # seed of the visiting order
    batch_size: int = within(5, 1, 10_000)  # scans per training step
    local_epochs: int = within(1, 1, 10_000)  # epochs per visit
    keep_remainder: bool = False  # also train on a center's incomplete last batch
    learning_rate: float = within(1e-4, 1e-12, 10.0)  # learning rate of Adam in cycle decay_start
    decay: float = within(0.1, 0.0, 100.0)  # lr(c) = learning_rate * exp(-decay * (c - decay_start))
    decay_start: int = within(0, 0, 100_000)  # cycle with the full learning rate
    ema: float | None = within(
        None, 0.0, 0.99999
    )  # decay per step of the weights' average that is evaluated; null: none


@dataclass
class ScreenConfig:
    """Thresholds of control that judges every scan by itself from one reference model."""

    every: int = within(2, 1, 100_000)  # cycles between two screenings
    steps: int = within(1, 1, 1000)  # training steps on a scan before it is verified
    loss_z: float = within(6.0, 1e-6, 1e6)  # limit of the rise in verification loss, in robust standard deviations
    unusual_loss_z: float = within(1.5, 1e-6, 1e6)  # the same limit for a scan whose margin exceeds margin_z
    image_loss_z: float = within(0.1, 1e-6, 1e6)  # the same limit for a scan whose image exceeds image_z
    margin_z: float = within(3.0, 1e-6, 1e6)  # limit of the margin, the agreement with the label, in robust s.d.
    contradiction: float = within(0.25, 1e-6, 1e6)  # limit of disagreement with a label, relative to usual agreement
    image_z: float | None = within(None, 1e-6, 1e6)  # limit of image dissimilarity; null: no check
    image_alone_z: float | None = within(None, 1e-6, 1e6)  # dissimilarity that alone makes a scan a suspect
    least_loss: float = within(1e-4, 0.0, 100.0)  # lower bound of the spread of the changes in loss, nats
    exact: bool = False  # true: verify after every scan's steps; false: estimate most changes in loss to first order


@dataclass
class EvidenceConfig:
    """Parameters of control that judges centers, images and labels by forward passes."""

    every: int = within(4, 1, 100_000)  # cycles between two screenings
    compare: str = one_of("across", ("across", "within"))  # with the verification scans of all; or a center's own


@dataclass
class RunawayConfig:
    """Detection of control that rejects nearly everything, and the action taken."""

    action: str = one_of("warn", ("off", "warn", "pause", "stop"))  # pause: suspend eliminations; stop: end the run
    window: int = within(20, 1, 1_000_000)  # number of latest batches considered; visits with qc.verify=visit
    rejected: float = within(0.5, 0.0, 1.0)  # largest share of them that may be rejected
    eliminated: float = within(0.5, 0.0, 1.0)  # largest share of the training scans that may be eliminated

    @property
    def pauses(self) -> bool:
        """Whether an alarm suspends all eliminations."""
        return self.action in ("pause", "stop")


@dataclass
class QcConfig:
    """Quality control: the rule that accepts or rejects, and how long a flagged subject waits."""

    control: str = one_of("steps", ("steps", "screen", "evidence"))  # verify steps; screen single scans; or evidence
    error: float = within(0.02, 0.0, 1.0)  # acceptable error per sample
    revisit: int = within(2, 1, 100_000)  # cycles a flagged subject waits before it is tried again
    rates: str = one_of("standard", RATES)  # divisors; published: FP / PD and FN / HC, as in the published scripts
    signal: str = one_of("rates", ("rates", "loss"))  # quantity that must not rise: FPR and FNR, or the loss
    loss_error: float = within(0.01, 0.0, 100.0)  # acceptable rise of the verification loss per sample, nats
    strikes: int = within(1, 1, 1000)  # consecutive failed revisits that eliminate a subject
    early_stop: Any = field(default="off", metadata={"one_of": EARLY_STOPS})  # end a verification once it is decided
    confidence: float = within(0.95, 0.5, 0.999999)  # of verdicts from part of the scans, for early_stop=confident
    verify: str = one_of("batch", ("batch", "visit"))  # verify after every batch, or after every visit
    calibrate: bool = False  # Platt-calibrate the verification logits before counting
    batchnorm: str = one_of("published", ("published", "frozen"))  # frozen: keep the statistics of the starting model
    screen: ScreenConfig = field(default_factory=ScreenConfig)
    fdr: float = within(0.1, 1e-6, 0.5)  # control=evidence: expected share of good ones among those eliminated
    evidence: EvidenceConfig = field(default_factory=EvidenceConfig)
    runaway: RunawayConfig = field(default_factory=RunawayConfig)


@dataclass
class HarmfulConfig:
    """Scans to corrupt, the kind of corruption and its severity."""

    scenario: str = one_of("none", SCENARIOS)  # corrupt all scans of some centers, or single scans
    kind: Any = "inverted"  # one kind, a list used in turn, or a mapping of kinds to shares
    severity: int | None = within(None, 1, 10)  # severity of the harm; null: 5, but inverted and noise as published
    placement: str = one_of(
        "in_place", PLACEMENTS
    )  # extra: keep the good scan and add its corrupted copy as another subject
    ids: list[str] = field(default_factory=list)  # centers or subjects; empty: drawn by count or fraction
    count: int = within(1, 1, 1_000_000)  # number of centers or scans drawn
    fraction: float | None = within(None, 1e-6, 1.0)  # in place of count: share of the centers or scans
    seed: int = within(0, 0, 2**63)  # seed of the draw and of the corruption
    mean: float = within(0.0, -1e6, 1e6)  # mean of the noise, on a 0..255 scale
    sigma: float = within(25.0, 1e-6, 1e6)  # standard deviation of the noise if severity is null
    replace: bool = False  # noise replaces the tissue instead of being added to it


@dataclass
class TrackingConfig:
    """The experiment tracker and its store."""

    name: str = one_of("mlflow", ("mlflow", "none"))  # tracker; no effect on results
    uri: str | None = None  # null: sqlite:///<run.outputs>/mlflow.db
    experiment: str = "tmqc"  # name of the MLflow experiment
    register: str | None = None  # register the final model as a version of this model
    system_metrics: bool = True  # log use of CPU, memory (needs psutil) and GPU (needs nvidia-ml-py)
    required: bool = True  # false: start the run even if the store is unavailable
    parent: str | None = None  # id of the parent run; set by a sweep for its jobs


@dataclass
class InferenceConfig:
    """Saved cycles to score on the test split, and bounds of the age groups in years."""

    run: str | None = None  # directory of the run to score
    cycles: str = "all"  # cycles to score: all, last, one (29) or a range with both ends included (10-29)
    age_bins: list[float] = field(default_factory=lambda: [0.0, 50.0, 60.0, 70.0, 80.0, 120.0])  # bounds in years


@dataclass
class RivalsConfig:
    """Other methods that score the training scans, and their parameters."""

    names: list[str] = field(default_factory=list)  # methods to run; empty: all
    neighbors: int = within(5, 1, 100_000)  # number of neighbors of knn_label and knn_distance
    seed: int = within(0, 0, 2**32 - 1)  # seed of random, image_forest and aled


@dataclass
class FederationConfig:
    """Location of the centers: in this process, or at sites that keep their scans."""

    name: str = one_of("none", ("none", "local", "nvflare-sim", "nvflare-poc", "nvflare"))  # none: all centers here
    sites: list[str] = field(default_factory=list)  # real federation: names of the clients, in the order of the tour
    n_sites: int = within(3, 1, 1000)  # simulated federation: number of sites that share the cohort's centers
    min_cell: int = within(
        5, 1, 1_000_000
    )  # least scans for which a simulated site reports counts; a real site sets its own
    share_margins: bool = False  # simulated sites send margins of single scans; needed by qc.control=screen
    share_scores: bool = False  # simulated sites send scores of single scans; needed by qc.control=evidence
    on_fault: str = one_of("wait", ON_FAULT)  # wait for the site, skip its visit, or stop the run
    timeout_s: float = within(600.0, 1e-3, 1e9)  # seconds to wait for one answer
    patience_s: float | None = within(None, 0.0, 1e9)  # total seconds to wait for a site; null: no limit
    pause_s: float = within(2.0, 0.0, 1e6)  # seconds between attempts, also before a skipped site is tried again
    admin_kit: str | None = None  # real federation: directory of the administrator's start-up kit


@dataclass
class CheckpointConfig:
    """How often checkpoints are saved, and how many are kept."""

    every_s: float = within(60.0, 0.0, 1e9)  # seconds between checkpoints within a cycle
    keep: int | None = within(None, 1, 1_000_000)  # number of latest cycles whose checkpoints are kept; null: all


@dataclass
class CacheConfig:
    """Cache of decoded scans; no effect on results."""

    enabled: bool = True  # false: every run decodes all scans and holds them in memory
    directory: str | None = None  # null: <run.outputs>/cache


@dataclass
class SweepConfig:
    """Name and objective of a sweep; no effect on a single run."""

    name: str | None = None  # name of its directory; null: derived from the settings common to all jobs
    objective: str | None = None  # metric that a search optimizes, by its name in MLflow
    direction: str = one_of("maximize", ("maximize", "minimize"))  # direction of the optimization


@dataclass
class RunConfig:
    """Directories, random seed and hardware of a run; not part of the method."""

    outputs: str = "outputs"  # folder of all runs
    name: str = "unnamed"  # name of the run directory; in conf: date and time
    overwrite: bool = False  # start over in a directory that holds a run
    resume: str = one_of("auto", ("auto", "never"))  # auto: resume an interrupted run of this name; never: refuse it
    seed: int = within(0, 0, 1_000_000)  # seed of initial weights and dropout
    deterministic: bool = True  # deterministic operations only
    threads: int | None = within(None, 1, 10_000)  # CPU threads; null: one per core
    precision: str = one_of("float32", ("float32", "mixed_bfloat16", "mixed_float16"))  # dtype policy of the layers
    verify_batch_size: Any = AUTO  # scans scored at once; auto: 32, or as many as fit in 4 GB
    verify_workers: int | None = within(None, 0, 64)  # further processes that verify; null: one per further device
    verify_on: str = one_of("processes", ("processes", "ray"))  # workers on this machine, or on a Ray cluster
    jit: str = one_of("auto", ("auto", "on", "off"))  # XLA compilation
    onednn: bool = True  # TensorFlow on a CPU: several times as fast on most; changes last digits
    progress: bool = True  # show progress bars


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
    """Return all settings as `group.setting` -> scalar; lists become text."""
    flat: dict[str, str | int | float | bool | None] = {}
    items = config.items() if isinstance(config, dict) else ((f.name, getattr(config, f.name)) for f in fields(config))
    for name, value in items:
        if is_dataclass(value) or isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value if value is None or isinstance(value, str | int | float | bool) else str(value)
    return flat
