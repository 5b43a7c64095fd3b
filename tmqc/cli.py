"""The one entrypoint, and the only module that knows Hydra: compose, check, dispatch, exit code.

Exit codes: 0 done, 1 a fault of ours or of the machine, 2 the input cannot be used, 128 + n stopped by signal n.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tmqc.config import Config
from tmqc.errors import InputError, JobError, RunError, SettingsError
from tmqc.explain import explain
from tmqc.signals import Interrupted, Stop

EXIT_INPUT, EXIT_INTERRUPTED, EXIT_SIGNAL = 2, 130, 128

_begun: list[str] = []  # jobs of this process that Hydra has handed over, the directory of each made
_failed: list[str] = []  # those of them whose input could not be used


def conf_dir() -> Path:
    """The YAML groups: the copy inside an installed package, else the clone's `conf/`."""
    packaged = Path(__file__).resolve().parent / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"


def to_config(composed: DictConfig) -> Config:
    """Composed YAML to the typed record everything below works with.

    Raises:
        SettingsError: a value has the wrong type, an interpolation leads nowhere.
    """
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise SettingsError(explain(error)) from error
    assert isinstance(config, Config)
    return config


def task(composed: DictConfig) -> None:
    """What Hydra calls for one job: validate, then run the pipeline in the job's output directory.

    Faults of the input are kept for the end instead of raised: Hydra would add its own lines to ours, and the other
    jobs of a sweep are to run all the same.
    """
    from tmqc.validate import validate

    job = HydraConfig.get()
    directory = Path(job.runtime.output_dir)
    _begun.append(directory.name)
    try:
        config = to_config(composed)
        validate(config)
        config.run.outputs = str(Path(config.run.outputs).absolute())
        if job.mode == RunMode.MULTIRUN:
            config.run.name = job.job.override_dirname or config.run.name
            _run_in_own_process(config, directory)
        else:
            run(config, directory)
    except InputError as error:
        print(f"tmqc: {error}", file=sys.stderr)
        _failed.append(directory.name)
    finally:
        _remove_if_empty(directory)


def run(config: Config, directory: Path) -> None:
    """Run one pipeline. Heavy libraries are loaded here and below, so that --help and completion stay quick."""
    from tmqc.backend import import_keras

    import_keras(config.run.onednn)
    _log_to_stderr()
    from tmqc.pipelines import PIPELINES

    PIPELINES[config.pipeline.name](config, directory)


def main() -> None:
    """Console script `tmqc` and `python -m tmqc`."""
    ConfigStore.instance().store(name="schema", node=Config)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed and turned into exit code 1
    launch = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    try:
        launch()
        if _failed:
            sys.exit(EXIT_INPUT)
    except (CompactHydraException, OmegaConfBaseException) as error:
        _fail(str(SettingsError(explain(error))))
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's, as of qc=1.5
            raise
        _fail(str(SettingsError(explain(error))))
    except Interrupted as interrupted:
        _end(interrupted)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of our output is gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if _begun:
            raise
        # Hydra makes the output directory before it calls us
        _fail(str(RunError(f"{error.filename}: {error.strerror}; run.outputs must lie where files can be written")))


def _run_in_own_process(config: Config, directory: Path) -> None:
    """Jobs of a sweep each get a process of their own: nothing of one job's model or device state reaches the next.

    Raises:
        JobError: the job failed; what it printed says why.
    """
    process = multiprocessing.get_context("spawn").Process(target=_child, args=(config, directory))
    process.start()
    try:
        with Stop().listening():
            process.join()
    except Interrupted as interrupted:
        if interrupted.number != signal.SIGINT:  # a terminal's Ctrl-C has reached the child already
            os.kill(process.pid or 0, interrupted.number)
        process.join()
        raise
    if process.exitcode != 0:
        raise JobError(f"{directory.name}: exit code {process.exitcode}; see above")


def _child(config: Config, directory: Path) -> None:
    try:
        run(config, directory)
    except InputError as error:
        _fail(str(error))
    except Interrupted as interrupted:
        _end(interrupted)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)


class _StderrHandler(logging.Handler):
    # Looks sys.stderr up for every record: while bars are drawn, it is theirs, and lines appear above them.

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


def _log_to_stderr() -> None:
    log = logging.getLogger("tmqc")
    log.setLevel(logging.INFO)
    if not any(isinstance(handler, _StderrHandler) for handler in log.handlers):
        log.addHandler(_StderrHandler())


def _end(interrupted: Interrupted) -> NoReturn:
    print(f"tmqc: stopped by {interrupted}; the same command with the same run.name goes on from here", file=sys.stderr)
    sys.exit(EXIT_SIGNAL + interrupted.number)


def _fail(message: str) -> None:
    print(f"tmqc: {message}", file=sys.stderr)
    sys.exit(EXIT_INPUT)


def _remove_if_empty(directory: Path) -> None:
    """Hydra makes the output directory before our checks; leave nothing behind when they fail."""
    with suppress(OSError):  # not empty: a run lies in it
        directory.rmdir()
        directory.parent.rmdir()
        directory.parent.parent.rmdir()
