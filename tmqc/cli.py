"""The one entrypoint: find conf, compose, check, dispatch, exit code.

Exit codes: 0 done, 1 the run had to stop or there is a bug, 2 it cannot start, 128 + n stopped by signal n.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tmqc.errors import RunError, SettingsError, TmqcError
from tmqc.runs.resume import check_place
from tmqc.runs.signals import Interrupted
from tmqc.settings.explain import explain
from tmqc.settings.secrets import hide
from tmqc.sweep import multirun
from tmqc.sweep.command_line import read_command_line
from tmqc.sweep.multirun import make, store_schema
from tmqc.sweep.plan import to_config
from tmqc.sweep.pretrain import pretrain
from tmqc.sweep.run_process import EXIT_INTERRUPTED, end, fail, run

__all__ = ["conf_dir", "main", "run", "to_config"]

_begun: list[str] = []  # runs of this process that Hydra has handed over, the directory of each made
_failed: list[int] = []  # exit codes of those of them that could not start or had to stop


def conf_dir() -> Path:
    """The YAML groups: the copy inside an installed package, else the clone's `conf/`."""
    packaged = Path(__file__).resolve().parent / "conf"
    return packaged if packaged.is_dir() else packaged.parents[1] / "conf"


def task(composed: DictConfig) -> float | None:
    """What Hydra calls for one run or one job of a sweep: check, then run the pipeline in the output directory.

    Faults of the input are kept for the end instead of raised: Hydra would add its own lines to ours, and the other
    jobs of a sweep are to run all the same.

    Returns:
        In a sweep, what a search is after (`sweep.objective`).
    """
    directory = Path(HydraConfig.get().runtime.output_dir)
    _begun.append(directory.name)
    try:
        _return_to(Path(HydraConfig.get().runtime.cwd))
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return multirun.task(composed, directory)
        config, clean = make(composed)
        if clean is not None:
            check_place(config, directory)  # before the hours of the clean model
            pretrain(clean, Path(config.init["from"]))
        run(config, directory)
    except TmqcError as error:
        print(f"tmqc: {error}", file=sys.stderr)
        _failed.append(error.code)
    finally:
        _remove_if_empty(directory)
    return None


def main() -> None:
    """Console script `tmqc` and `python -m tmqc`."""
    store_schema()
    sys.argv[1:] = hide(sys.argv[1:])  # Hydra writes them down
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us instead of being printed and turned into exit code 1
    launch = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    try:
        sys.argv[1:] = read_command_line(sys.argv[1:])
        with multirun.closing():
            launch()
        if _failed:
            sys.exit(max(_failed))
    except TmqcError as error:
        fail(error)
    except (CompactHydraException, OmegaConfBaseException) as error:
        fail(SettingsError(explain(error)))
    except ValueError as error:
        if not str(error).startswith("Config group override"):  # Hydra's, as of qc=1.5
            raise
        fail(SettingsError(explain(error)))
    except Interrupted as interrupted:
        end(interrupted)
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
        fail(RunError(f"{error.filename}: {error.strerror}; run.outputs must lie where files can be written"))


def _return_to(folder: Path) -> None:
    """Relative places count from where the command was given, also with hydra.job.chdir=true and on other machines."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: {error.strerror}; the folder of the command must be there wherever it runs"
        ) from None


def _remove_if_empty(directory: Path) -> None:
    """Hydra makes the output directory before our checks; leave nothing behind when they fail."""
    with suppress(OSError):  # not empty: a run lies in it
        directory.rmdir()
        directory.parent.rmdir()
        directory.parent.parent.rmdir()
