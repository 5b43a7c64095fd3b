"""Checks the settings of the `federation` group before anything starts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from tmqc.settings.schema import SKIP, TRAINING, Config


def check_federation(config: Config) -> Iterator[str]:
    """Yield the faults of the `federation` group, and of other settings in combination with it."""
    name = config.federation.name
    if name == "none":
        return
    if config.pipeline.name not in TRAINING:
        yield f"federation={name}: pipeline={config.pipeline.name} scores local scans only; use federation=none"
    if config.pipeline.name == "qc" and config.qc.control in _CHECKS:  # `check_each` reports other words
        yield from _CHECKS[config.qc.control](config)
    if config.schedule.ema is not None:
        yield (
            f"schedule.ema={config.schedule.ema:g}: sites keep no average of the weights; leave it null with "
            f"federation={name}"
        )
    if config.run.verify_workers:
        yield (
            f"run.verify_workers={config.run.verify_workers}: each site has one model; leave it null with "
            f"federation={name}"
        )
    if name.startswith("nvflare") and find_spec("nvflare") is None:
        yield f"federation={name} needs NVIDIA FLARE, which is not installed: pip install -e '.[nvflare]'"
    if name == "nvflare":
        yield from _check_real(config)


def _check_screen(config: Config) -> Iterator[str]:
    settings, image_z = config.federation, config.qc.screen.image_z
    yield from _check_comparing(config)
    if image_z is not None:
        yield (
            f"qc.screen.image_z={image_z:g}: comparing images needs sums of the sites' scans, which no site shares; "
            "set qc.screen.image_z=null, and qc.screen.loss_z=6 with it"
        )
    if not config.qc.screen.exact:
        yield (
            f"qc.screen.exact=false: sites share no gradient of their verification loss; set qc.screen.exact=true with "
            f"federation={settings.name}"
        )
    if settings.name != "nvflare" and not settings.share_margins:
        yield (
            "qc.control=screen needs margins of single scans, which sites do not share by default: set "
            "federation.share_margins=true, or use another gate"
        )


def _check_steps(config: Config) -> Iterator[str]:
    settings, qc = config.federation, config.qc
    if qc.early_stop != "off":
        yield (
            f"qc.early_stop={qc.early_stop}: sites score all of their scans at the same time and cannot stop each "
            f"other; set qc.early_stop=off with federation={settings.name}"
        )
    if qc.calibrate and settings.name != "nvflare" and not settings.share_margins:
        yield (
            "qc.calibrate=true needs a histogram of the verification logits, which discloses single scans and which "
            "sites do not share by default: set federation.share_margins=true, or qc.calibrate=false"
        )


def _check_evidence(config: Config) -> Iterator[str]:
    settings = config.federation
    yield from _check_comparing(config)
    if settings.name != "nvflare" and not settings.share_scores:
        yield (
            "qc.control=evidence needs labels, logits and image statistics of single scans, which sites do not send by "
            "default: set federation.share_scores=true, or use a gate of steps"
        )


def _check_comparing(config: Config) -> Iterator[str]:
    if config.federation.on_fault == SKIP:
        yield f"qc.control={config.qc.control} compares all scans with each other: use federation.on_fault=wait or stop"


_CHECKS = {"steps": _check_steps, "screen": _check_screen, "evidence": _check_evidence}


def _check_real(config: Config) -> Iterator[str]:
    settings = config.federation
    if not settings.sites:
        yield "federation.sites is not set: give the names of the FLARE clients, such as [berlin,calgary]"
    if twice := [site for site, n in Counter(settings.sites).items() if n > 1]:
        yield f"federation.sites has {', '.join(twice)} more than once"
    kit = settings.admin_kit
    if kit is None:
        yield "federation.admin_kit is not set: give the directory of an administrator's start-up kit"
    elif not (Path(kit) / "startup" / "fed_admin.json").is_file():
        yield f"federation.admin_kit={kit}: not an administrator's start-up kit: no startup/fed_admin.json"
    if config.harmful.scenario != "none":
        yield "harmful: scans of real sites cannot be corrupted from here; use harmful=none"
    if config.cohort.truth_csv is not None:
        yield (
            f"cohort.truth_csv={config.cohort.truth_csv}: real sites do not send the ids of their scans, so flagged "
            "scans cannot be compared with it; set cohort.truth_csv=null"
        )
