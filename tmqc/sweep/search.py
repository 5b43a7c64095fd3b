"""Hydra's sweeper for searches: Optuna chooses the next jobs from earlier results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from tmqc.sweep.state import process

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from tmqc.sweep.plan import SweepPlan

MEMORY, RESULTS = "search.log", "optimization_results.yaml"
_PLACE, _AGAIN = "sweep", "again"  # attributes of a trial: the sweep that ran it; the failed trial that it repeats


class Search(Sweeper):
    """Sweeper `hydra/sweeper=search`: a repeated launch continues the search; several sweeps can share `storage`."""

    def __init__(
        self, n_trials: int, n_jobs: int, seed: int, storage: str | None, params: Mapping[str, str] | None
    ) -> None:
        """Store the settings of `conf/hydra/sweeper/search.yaml`, which documents them."""
        self._n_trials, self._n_jobs, self._seed, self._storage = n_trials, n_jobs, seed, storage
        self._params = [f"{key!s}={values}" for key, values in (params or {}).items()]
        self._n_launched = 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Set up the launcher; called by Hydra before `sweep`."""
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Finish the existing trials of this sweep, then ask for new ones until there are `n_trials`."""
        from optuna.trial import TrialState

        assert process.sweep is not None
        plan = process.sweep.plan
        parsed = OverridesParser.create().parse_overrides([*self._params, *arguments])
        given = {o.get_key_element(): o for o in parsed}
        self._fixed = [f"{key}={o.get_value_element_as_str()}" for key, o in given.items() if not o.is_sweep_override()]
        space = {key: distribution(o) for key, o in given.items() if o.is_sweep_override()}
        self._place = str(plan.directory)
        study = self._study = self._open(plan)
        ours = [trial for trial in self._asked() if trial.user_attrs[_PLACE] == self._place]
        done = [trial for trial in ours if trial.state == TrialState.COMPLETE]
        if done:  # all at once, since they are skipped
            self._launch(done)
        left = [trial for trial in ours if trial.state != TrialState.COMPLETE]
        for first in range(0, len(left), self._n_jobs):
            if process.asked is None:
                self._launch(left[first : first + self._n_jobs])
        while process.asked is None and (n := self._n_trials - len(self._asked())) > 0:
            self._launch([self._ask(space) for _ in range(min(n, self._n_jobs))])
        if any(trial.state == TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
            best = {"name": "optuna", "best_params": study.best_params, "best_value": study.best_value}
            OmegaConf.save(OmegaConf.create(best), plan.directory / RESULTS)

    def _open(self, plan: SweepPlan) -> Study:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        memory = plan.directory / MEMORY
        if self._storage is None and plan.base.run.overwrite:
            memory.unlink(missing_ok=True)
        url = self._storage if self._storage is not None and "://" in self._storage else None
        return optuna.create_study(
            study_name=plan.study,
            storage=url or JournalStorage(JournalFileBackend(str(self._storage or memory))),
            direction=plan.base.sweep.direction,
            load_if_exists=True,
        )

    def _asked(self) -> list[FrozenTrial]:
        trials = self._study.get_trials(deepcopy=False)
        return [t for t in trials if _AGAIN not in t.user_attrs and _PLACE in t.user_attrs]

    def _ask(self, space: Mapping[str, BaseDistribution]) -> Trial:
        from optuna.samplers import TPESampler

        # The seed depends on the number of trials; otherwise a continued search would repeat earlier draws.
        seed = self._seed + len(self._study.get_trials(deepcopy=False))
        self._study.sampler = TPESampler(seed=seed, constant_liar=True)
        trial = self._study.ask(dict(space))
        trial.set_user_attr(_PLACE, self._place)
        return trial

    def _launch(self, trials: Sequence[Trial | FrozenTrial]) -> None:
        """Run trials, identical ones only once, and report their results to the study."""
        alike: dict[tuple[str, ...], list[int]] = {}
        for trial in trials:
            alike.setdefault(tuple(f"{key}={value}" for key, value in trial.params.items()), []).append(trial.number)
        jobs = [[*job, *self._fixed] for job in alike]
        ended = self._launcher.launch(jobs, initial_job_idx=self._n_launched)
        self._n_launched += len(jobs)
        for numbers, job in zip(alike.values(), ended, strict=True):
            value = job.return_value  # re-raises the job's exception
            for number in numbers:
                self._tell(number, value if value is not None and math.isfinite(value) else None)

    def _tell(self, number: int, value: float | None) -> None:
        from optuna.trial import TrialState, create_trial

        trials = self._study.get_trials(deepcopy=False)
        trial, complete = trials[number], [t for t in trials if t.state == TrialState.COMPLETE]
        if trial.state == TrialState.RUNNING:
            if value is not None or process.asked is None:  # a stopped trial stays open, to be resumed
                self._study.tell(number, value, TrialState.FAIL if value is None else None)
        elif value is not None and not any(t.user_attrs.get(_AGAIN, t.number) == number for t in complete):
            again = {**trial.user_attrs, _AGAIN: number}  # the trial had failed, and an ended trial cannot be changed
            self._study.add_trial(
                create_trial(params=trial.params, distributions=trial.distributions, value=value, user_attrs=again)
            )


def distribution(override: Override) -> BaseDistribution:
    """Convert a swept override to the distribution from which Optuna chooses: values of a sweep, or an interval."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        low, high, log = value.start, value.end, "log" in value.tags
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=log)
        assert low is not None and high is not None
        return FloatDistribution(float(low), float(high), log=log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        values = sorted(value.range())
        if all(isinstance(each, int) for each in values):
            return IntDistribution(int(values[0]), int(values[-1]), step=abs(int(value.step)))
        return FloatDistribution(float(values[0]), round(float(values[-1]), 10), step=abs(float(value.step)))
    return CategoricalDistribution(list(override.sweep_string_iterator()))
