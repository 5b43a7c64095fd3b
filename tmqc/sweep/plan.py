"""Plans a sweep: settings shared by all jobs, a directory that a rerun finds, and names of the jobs."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from tmqc.core.glossary import RUN_NUMBERS
from tmqc.errors import SettingsError
from tmqc.settings.fingerprint import settings_digest
from tmqc.settings.schema import TRAINING, Config
from tmqc.sweep.command_line import quote
from tmqc.sweep.compose import lines_of, to_config

_LONGEST, _N_DIGITS = 120, 8
_QUOTED = re.compile(r"""(?<==)(['"])((?:\\.|(?!\1).)*)\1""")


@dataclass(frozen=True)
class SweepPlan:
    """The plan of a sweep.

    Attributes:
        name: name of the sweep.
        base: settings shared by all jobs; values of swept settings are arbitrary.
        swept: setting -> its values as written on the command line.
        n_jobs: number of jobs; None: unknown in advance.
        study: name of a search's study: a digest of settings, search space and objective, but not of the directory.
    """

    name: str
    directory: Path
    base: Config
    swept: Mapping[str, str]
    n_jobs: int | None
    study: str = ""


def folder_name(overrides: str) -> str:
    """Return the name of a job's folder: its overrides without quotes and slashes, cut to `_LONGEST` bytes."""
    plain = _QUOTED.sub(lambda match: match[2].replace(f"\\{match[1]}", match[1]), overrides)
    name = plain.replace("/", "_")
    if name == plain and len(name.encode()) <= _LONGEST:
        return name or "job"
    cut = name.encode()[:_LONGEST].decode(errors="ignore")
    return f"{cut}-{hashlib.sha256(plain.encode()).hexdigest()[:_N_DIGITS]}"


OmegaConf.register_new_resolver("tmqc.folder", folder_name, replace=True)


def plan_sweep(config: DictConfig) -> SweepPlan:
    """Plan the sweep of Hydra's config, and set the directory and the parts of the jobs' names in it.

    Raises:
        SettingsError: settings shared by all jobs are invalid.
    """
    hydra = config.hydra
    searched = [f"{key}={values}" for key, values in (hydra.sweeper.get("params") or {}).items()]
    parsed = OverridesParser.create().parse_overrides([*searched, *lines_of(hydra.overrides.task)])
    overrides = list({o.get_key_element(): o for o in parsed}.values())  # the command line wins over the sweeper
    fixed, varied = ([o for o in overrides if o.is_sweep_override() is is_swept] for is_swept in (False, True))
    swept = {o.key_or_group: str(o.input_line).partition("=")[2] for o in varied}
    values = [
        [f"{o.get_key_element()}={value}" for value in o.sweep_string_iterator()]
        for o in varied
        if o.is_discrete_sweep()  # of other settings the sweeper chooses the values
    ]
    shared_by_all = [str(o.input_line) for o in fixed]
    # Composing refuses misspelled settings before the sweep opens.
    compose(hydra.job.config_name, [*shared_by_all, *(first for first, *_ in values)])
    base = to_config(compose(hydra.job.config_name, shared_by_all))
    what = hydra.runtime.choices.get("experiment") or base.pipeline.name
    shared = f"{settings_digest(base, without=swept)} {sorted(swept)}"
    name = base.sweep.name or f"{what}-{hashlib.sha256(shared.encode()).hexdigest()[:_N_DIGITS]}"
    base.sweep.name = name
    trials = hydra.sweeper.get("n_trials")
    if faults := _check_sweep(base) + ([] if trials is None else _check_search(hydra.sweeper, base)):
        raise SettingsError(faults)
    if not any(line.startswith("hydra.sweep.dir=") for line in lines_of(hydra.overrides.hydra)):
        directory = Path(base.run.outputs).absolute() / "sweeps" / name
        _set_hydra(config, "hydra.sweep.dir", str(directory))
    _set_hydra(config, "hydra.job.config.override_dirname.exclude_keys", [o.key_or_group for o in fixed])
    n_jobs = trials
    if trials is None and len(values) == len(varied):
        jobs = list(product(*values))
        _check_places(hydra, jobs, shared_by_all)
        n_jobs = len(jobs)
    searched_by = f"{shared} {sorted(swept.items())} {base.sweep.objective} {base.sweep.direction}"
    study = hashlib.sha256(searched_by.encode()).hexdigest()
    return SweepPlan(name, Path(hydra.sweep.dir).absolute(), base, swept, n_jobs, study)


def _check_sweep(config: Config) -> list[str]:
    """Return the faults of the `sweep` group."""
    sweep, faults = config.sweep, []
    if sweep.name is not None and (not sweep.name.strip(". ") or "/" in sweep.name):
        faults.append(f"sweep.name={sweep.name}: must be the name of a folder, without /")
    if sweep.objective is None:
        return faults
    if sweep.objective not in RUN_NUMBERS:
        faults.append(f"sweep.objective={sweep.objective}: must be one of {', '.join(RUN_NUMBERS)}")
    if config.pipeline.name not in TRAINING:
        faults.append(
            f"sweep.objective={sweep.objective}: not available for pipeline={config.pipeline.name}, only for those "
            f"that train: {', '.join(TRAINING)}"
        )
    return faults


def _check_search(sweeper: DictConfig, base: Config) -> list[str]:
    faults = [
        f"hydra.sweeper.{name}={sweeper[name]}: must be a whole number from 1"
        for name in ("n_trials", "n_jobs")
        if not isinstance(sweeper[name], int) or not sweeper[name] >= 1
    ]
    if base.sweep.objective is None:
        faults.append("a search needs sweep.objective, the number to optimize, such as test/auroc or detect/f1")
    if not _is_optuna_there():
        faults.append("hydra/sweeper=search needs Optuna 4 or later: pip install -e '.[search]'")
    return faults


def _is_optuna_there() -> bool:
    try:
        return int(version("optuna").partition(".")[0]) >= 4
    except PackageNotFoundError:
        return False


def _set_hydra(config: DictConfig, name: str, value: str | list[str]) -> None:
    # In the config for the launcher, and as an override for the jobs, whose settings are composed again.
    quoted = [quote(each) for each in ([value] if isinstance(value, str) else value)]
    with read_write(config), open_dict(config):
        OmegaConf.update(config, name, value, merge=False)
        text = quoted[0] if isinstance(value, str) else f"[{','.join(quoted)}]"
        config.hydra.overrides.hydra.append(f"{name}={text}")


def _check_places(hydra: DictConfig, jobs: Sequence[tuple[str, ...]], fixed: Sequence[str]) -> None:
    """Refuse a sweep in which two jobs would have the same directory.

    Raises:
        SettingsError: names these jobs.
    """
    is_ours = not any(line.startswith("hydra.sweep.subdir=") for line in lines_of(hydra.overrides.hydra))
    first: dict[str, str] = {}
    faults = []
    for number, job in enumerate(jobs):
        varied = ",".join(sorted(job))
        place = folder_name(varied) if is_ours else _folder_of(hydra, [*fixed, *job], number)
        if place in first:
            faults.append(f"{first[place] or 'a job'} and {varied or 'another'} would both use the directory {place}")
        first.setdefault(place, varied)
    if faults:
        raise SettingsError([*faults[:3], "give each value once" if is_ours else "hydra.sweep.subdir must differ"])


def _folder_of(hydra: DictConfig, overrides: Sequence[str], number: int) -> str:
    given = [line for line in lines_of(hydra.overrides.hydra) if line.partition("=")[0] != "hydra.mode"]
    whole = compose(
        hydra.job.config_name,
        [*overrides, *given, f"hydra.job.num={number}", f"hydra.job.id={number}"],
        return_hydra_config=True,
    )
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(whole)
    try:
        return "_".join(Path(str(whole.hydra.sweep.subdir)).parts)  # as in `Job.name`
    finally:
        HydraConfig.instance().cfg = before
