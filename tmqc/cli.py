"""Command line: compose the settings, check them, run a pipeline and return an exit code.

Exit codes: 0 finished, 1 the run had to stop or a bug, 2 the run cannot start, 128 + n stopped by signal n.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tmqc import __version__
from tmqc.errors import RunError, SettingsError, TmqcError
from tmqc.runs.resume import check_place
from tmqc.runs.signals import Interrupted
from tmqc.settings.defaults import conf_dir
from tmqc.settings.explain import NO_OPTION, explain
from tmqc.settings.secrets import hide
from tmqc.settings.text import lenient_schema
from tmqc.sweep import multirun
from tmqc.sweep.command_line import read_command_line
from tmqc.sweep.compose import make
from tmqc.sweep.run_process import EXIT_INTERRUPTED, end, fail, pretrain, run

_begun: list[str] = []  # names of the output directories of all runs that Hydra has started in this process


def task(composed: DictConfig) -> float | None:
    """Check the settings of one run or sweep job and run its pipeline in the output directory; called by Hydra.

    Errors are printed, and end the process of a single run; Hydra would add its own lines to an error that is raised,
    and the other jobs of a sweep must still run.

    Returns:
        In a sweep, the value that a search optimizes (`sweep.objective`).
    """
    directory, is_job = Path(HydraConfig.get().runtime.output_dir), HydraConfig.get().mode == RunMode.MULTIRUN
    _begun.append(directory.name)
    try:
        _return_to(Path(HydraConfig.get().runtime.cwd))
        if is_job:
            return multirun.task(composed, directory)
        config, clean = make(composed)
        if clean is not None:
            check_place(config, directory)  # before the clean model is trained, which takes hours
            pretrain(clean, Path(config.init["from"]))
        run(config, directory)
    except TmqcError as error:
        if not is_job:
            fail(error)
        print(f"tmqc: {error}", file=sys.stderr)
    finally:
        _remove_if_empty(directory)
    return None


def store_schema() -> None:
    """Register the schema and our plugins, under the package `hydra_plugins`, as Hydra accepts no other."""
    from tmqc.sweep.ray_launcher import RayLauncher
    from tmqc.sweep.search import Search
    from tmqc.sweep.slurm import SlurmLauncher

    ConfigStore.instance().store(name="schema", node=lenient_schema())
    for plugin in (RayLauncher, Search, SlurmLauncher):
        Plugins.instance().class_name_to_class[f"hydra_plugins.tmqc.{plugin.__name__}"] = plugin


def main() -> None:
    """Run the console script `tmqc` or `python -m tmqc`."""
    sys.argv[1:] = hide(sys.argv[1:])  # Hydra writes the arguments to files
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them and exiting with code 1
    launch = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)
    if "--version" in sys.argv[1:]:  # Hydra would print its own
        print(f"tmqc {__version__}")
        return
    try:
        store_schema()
        sys.argv[1:] = read_command_line(sys.argv[1:])
        with multirun.closing():
            launch()
    except TmqcError as error:
        fail(error)
    except (CompactHydraException, OmegaConfBaseException, YAMLError) as error:
        fail(SettingsError(explain(error)))
    except ValueError as error:
        if not str(error).startswith(NO_OPTION):
            raise
        fail(SettingsError(explain(error)))
    except Interrupted as interrupted:
        end(interrupted)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:  # the reader of the output has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if _begun:
            raise
        # Hydra makes the output directory before it calls `task`.
        fail(RunError(f"{error.filename}: {error.strerror}; run.outputs must be a folder where files can be written"))


def _return_to(folder: Path) -> None:
    """Resolve relative paths from the command's folder, also with hydra.job.chdir=true and on other machines."""
    try:
        os.chdir(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: {error.strerror}; the folder of the command must exist on every machine that runs it"
        ) from None


def _remove_if_empty(directory: Path) -> None:
    """Remove the output directory, which Hydra makes before the checks, if a failed check left it empty."""
    with suppress(OSError):  # not empty: it contains a run
        directory.rmdir()
        directory.parent.rmdir()
        directory.parent.parent.rmdir()
